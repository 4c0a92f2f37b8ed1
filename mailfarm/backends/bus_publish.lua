-- Publish what one reactor pass has to tell, in order.
--
-- ARGV      message, how many channels, channel, channel, …, message, …
-- returns   how many publishings reached somebody

local heard, at = 0, 1
while at < #ARGV do
  local last = at + 1 + ARGV[at + 1]
  for i = at + 2, last do
    if redis.call('PUBLISH', ARGV[i], ARGV[at]) > 0 then
      heard = heard + 1
    end
  end
  at = last + 1
end
return heard
