-- Publish what one reactor pass has to tell, in order, as far as somebody listens.
--
-- ARGV      how many channels, channel, channel, …, then three for all events of one kind:
--             the end of their messages
--             what goes before it in each, one behind the other
--             little-endian 32-bit numbers: the channel on which all of them are told (from 1; 0: none), and for each
--             event the length of its own part and the channel on which it alone is told
-- returns   how many publishings there were
--
-- Most channels have no listener: which, is asked in one question, and nothing is put together for those.

local numbers_of, sub = struct.unpack, string.sub
local count = tonumber(ARGV[1])
local heard = {[0] = false}
local patterns, listeners = redis.pcall('PUBSUB', 'NUMPAT'), {err = ''}
if patterns == 0 then -- who listens to channels of a pattern is not counted below
  listeners = redis.pcall('PUBSUB', 'NUMSUB', unpack(ARGV, 2, count + 1))
end
for i = 1, count do
  heard[i] = listeners.err or listeners[2 * i] > 0 -- where it cannot be asked (an access list), all is published
end

local published = 0
for at = count + 2, #ARGV, 3 do
  local last, parts, numbers = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local also = numbers_of('<I4', numbers)
  local first = 1
  for place = 5, #numbers, 8 do
    local length, own = numbers_of('<I4I4', numbers, place)
    if heard[own] or heard[also] then
      local message = sub(parts, first, first + length - 1) .. last
      if heard[own] then
        redis.call('PUBLISH', ARGV[own + 1], message)
        published = published + 1
      end
      if heard[also] then
        redis.call('PUBLISH', ARGV[also + 1], message)
        published = published + 1
      end
    end
    first = first + length
  end
end
return published
