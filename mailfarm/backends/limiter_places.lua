-- Places held at the same time, each a lease: a sorted set a key, holder's id -> when its lease ends (milliseconds of
-- this server's clock).
--
-- KEYS      the key of each request
-- ARGV[1]   the length of a lease in milliseconds
-- ARGV[2…]  for each request its verb, the holder's id, and how many places the key has
--           take   a place, if one is free
--           keep   a place that is ours: for one more lease, and also when this server has forgotten it
--           free   give it back
-- returns   for each request 1, or 0 where no place was free
--
-- A set expires with the last lease in it.

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local lease = tonumber(ARGV[1])

local answers = {}
for i, key in ipairs(KEYS) do
  local verb, id, most = ARGV[3 * i - 1], ARGV[3 * i], tonumber(ARGV[3 * i + 1])
  local got = 1
  if verb == 'free' then
    redis.call('ZREM', key, id)
  else
    if verb == 'take' then
      redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
      redis.call('ZREMRANGEBYSCORE', key, now + 10 * lease, '+inf') -- from before the clock was put back
      if redis.call('ZCARD', key) >= most then
        got = 0
      end
    end
    if got == 1 then
      redis.call('ZADD', key, now + lease, id)
      redis.call('PEXPIRE', key, lease)
    end
  end
  answers[i] = got
end
return answers
