#!lua flags=no-writes
-- The numbers of the oldest entries in a state. ARGV: waiting, leased or aside; limit.
local state, limit = ARGV[1], tonumber(ARGV[2])
local function first(numbers)
  table.sort(numbers, function(a, b) return tonumber(a) < tonumber(b) end)
  local some = {}
  for at = 1, math.min(limit, #numbers) do
    some[at] = numbers[at]
  end
  return some
end
if state == 'leased' then
  return first(redis.call('ZRANGE', LEASED, 0, -1))
elseif state == 'aside' then
  return redis.call('ZRANGE', ASIDE, 0, limit - 1)
end
local numbers = redis.call('ZRANGE', READY, 0, limit - 1)
for _, number in ipairs(redis.call('ZRANGE', PAUSED, 0, limit - 1)) do
  numbers[#numbers + 1] = number
end
numbers = first(numbers)
local last = '(' .. delivered()
while #numbers < limit do
  local found = redis.call('XRANGE', STREAM, last, '+', 'COUNT', math.min(limit - #numbers, 16))
  if #found == 0 then
    break
  end
  for _, new in ipairs(found) do
    local number = string.match(new[1], '^%d+')
    if redis.call('HEXISTS', TURNS, number) == 0 then
      numbers[#numbers + 1] = number
    end
    last = '(' .. new[1]
  end
end
return numbers
