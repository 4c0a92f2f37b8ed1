#!lua flags=allow-oom
-- Hold an entry longer. ARGV: number, fence, lease (µs). Answers 1, or 0 when the fence is old.
if not held(ARGV[1], ARGV[2]) then
  return 0
end
redis.call('ZREM', READY, ARGV[1])
redis.call('ZADD', LEASED, whole(clock() + tonumber(ARGV[3])), ARGV[1])
return 1
