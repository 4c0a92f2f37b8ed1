#!lua flags=allow-oom
-- Undo takes; they do not count as tries. ARGV: pause (µs), reason (empty: what there is stays), number and fence of
-- each. One whose lease has ended meanwhile is undone as well, as long as nobody else has it.
local pause, reason = tonumber(ARGV[1]), ARGV[2]
local due = whole(clock() + pause)
for at = 3, #ARGV, 2 do
  local number = ARGV[at]
  local turn = held(number, ARGV[at + 1])
  if turn and redis.call('ZREM', LEASED, number) + redis.call('ZREM', READY, number) > 0 then
    turn.tries, turn.fence = turn.tries - 1, '-'
    if reason ~= '' then
      turn.reason = reason
    end
    write_turn(number, turn)
    if pause > 0 then
      redis.call('ZADD', DUE, due, number)
      redis.call('ZADD', PAUSED, number, number)
    else
      redis.call('ZADD', READY, number, number)
    end
  end
end
hint()
return 1
