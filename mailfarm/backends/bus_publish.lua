-- Publish what one reactor pass has to tell, in order.
--
-- ARGV      channel, message, channel, message, …
-- returns   how many publishings reached somebody

local heard = 0
for i = 1, #ARGV, 2 do
  if redis.call('PUBLISH', ARGV[i], ARGV[i + 1]) > 0 then
    heard = heard + 1
  end
end
return heard
