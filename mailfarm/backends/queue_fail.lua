#!lua flags=allow-oom
-- Give up a turn. ARGV: number, fence, most tries (0: set it aside whatever its tries), pause (µs), reason.
-- Answers 1, or 0 when the fence is old.
local number = ARGV[1]
local turn = held(number, ARGV[2])
if not turn then
  return 0
end
turn.fence, turn.reason = '-', ARGV[5]
write_turn(number, turn)
redis.call('ZREM', LEASED, number)
redis.call('ZREM', READY, number)
if turn.tries >= tonumber(ARGV[3]) then
  redis.call('ZADD', ASIDE, number, number)
elseif tonumber(ARGV[4]) > 0 then
  redis.call('ZADD', DUE, whole(clock() + tonumber(ARGV[4])), number)
  redis.call('ZADD', PAUSED, number, number)
else
  redis.call('ZADD', READY, number, number)
end
hint()
return 1
