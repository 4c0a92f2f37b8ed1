#!lua flags=allow-oom
-- Undo a take whose taker had gone before it was told. ARGV: number and fence of each.
for at = 1, #ARGV, 2 do
  local turn = held(ARGV[at], ARGV[at + 1])
  if turn and redis.call('ZREM', LEASED, ARGV[at]) == 1 then
    turn.tries, turn.fence = turn.tries - 1, '-'
    write_turn(ARGV[at], turn)
    redis.call('ZADD', READY, ARGV[at], ARGV[at])
  end
end
hint()
return 1
