#!lua flags=allow-oom
-- What an operator does with an entry that was set aside. ARGV: requeue or drop, id.
-- Answers: 1 or 0 (none such), and the octets that were freed.
local number = redis.call('HGET', IDS, ARGV[2])
if not number or not redis.call('ZSCORE', ASIDE, number) then
  return {0, 0}
end
local turn = read_turn(redis.call('HGET', TURNS, number))
if ARGV[1] == 'drop' then
  local _, octets = forget({{number, turn}})
  return {1, octets}
end
turn.tries, turn.fence, turn.reason = 0, '-', ''
write_turn(number, turn)
redis.call('ZREM', ASIDE, number)
redis.call('ZADD', READY, number, number)
hint()
return {1, 0}
