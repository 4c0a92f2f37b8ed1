#!lua flags=no-writes
-- Answers: waiting, leased, aside, when the oldest that waits was put (µs; -1: none waits), octets of all content, how
-- many were never handed out, and how many have ended.
local leased, aside = redis.call('ZCARD', LEASED), redis.call('ZCARD', ASIDE)
local entries = redis.call('HLEN', IDS)
local oldest
for _, set in ipairs({READY, PAUSED}) do
  local number = redis.call('ZRANGE', set, 0, 0)[1]
  if number and (not oldest or tonumber(number) < tonumber(oldest)) then
    oldest = number
  end
end
local put_at
local last = delivered()
if oldest then
  put_at = (entry(oldest) or {}).t
else
  local new = redis.call('XRANGE', STREAM, '(' .. last, '+', 'COUNT', 1)[1]
  for at = 1, #((new or {})[2] or {}), 2 do
    if new[2][at] == 't' then
      put_at = new[2][at + 1]
    end
  end
end
local waiting = math.max(entries - leased - aside, 0)
local counts = redis.call('HMGET', COUNTS, 'octets', 'number')
last = tonumber(string.match(last, '^%d+'))
local number = tonumber(counts[2] or 0)
return {waiting, leased, aside, tonumber(put_at or -1), tonumber(counts[1] or 0),
  math.max(number - last, 0), number - entries}
