-- Charge rates and quotas: any number of charge lists, one after the other, each of them whole or not at all.
--
-- KEYS      the key of each charge, list after list
-- ARGV[1]   how many charges each list has, as little-endian 32-bit numbers
-- ARGV[2]   four little-endian doubles for each charge: 0 for a rate or 1 for a quota, count, period in seconds, cost
-- returns   for each list 0 (allowed, and charged), 1 (the same, and far from each limit in it: at least half of it is
--           left, and that is 50 units), or "<number of the charge in its list, from 1> <seconds to wait>"
--
-- A rate's key keeps its theoretical arrival time (GCRA), a quota's key "<number of its window> <units used>". The
-- arithmetic of rates is limits.gcra's, line by line, in the same doubles; %.17g keeps every bit of them. Keys expire
-- when they mean nothing any more. Time is this server's: replicas need not agree on theirs.

local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local unpack_double, huge, floor, format = struct.unpack, math.huge, math.floor, string.format

local stands, changed = {}, {}
for start = 1, #KEYS, 1000 do -- Lua passes some thousands of arguments at most
  local values = redis.call('MGET', unpack(KEYS, start, math.min(start + 999, #KEYS)))
  for i, value in ipairs(values) do
    stands[KEYS[start + i - 1]] = value
  end
end

-- seconds to wait (0: allowed), the new value, the seconds for which it means something, and whether it is far
local function rate(value, count, period, cost)
  local tat = value and tonumber(value) or 0
  local units = cost > 0 and cost or 1
  if units > count then
    return huge
  end
  local step = period / count
  if tat - now > 2 * period then -- no charge leads there: the clock was put back
    tat = now + period
  end
  local debt = tat > now and tat - now or 0
  local wait = debt + step * units - period
  if wait > step * 1e-3 + count * (now + debt) * 2.3e-16 then -- the tolerance is explained in limits.gcra
    return wait
  end
  local after = now + debt + step * cost
  return 0, format('%.17g', after), after - now, count >= 100 and 2 * (after - now) <= period
end

local function quota(value, count, period, cost)
  local units = cost > 0 and cost or 1
  if units > count then
    return huge
  end
  local number = floor(now / period)
  local left, used = (number + 1) * period - now, 0
  if value then
    local window, spent = string.match(value, '^(%d+) (%d+)$')
    window = tonumber(window)
    -- A clock that was put back does not open a window anew; but one that was far ahead is not waited for.
    if window == number or window == number + 1 then
      left = left + (window - number) * period
      number, used = window, tonumber(spent)
    end
  end
  if used + units > count then
    return left
  end
  return 0, format('%.0f %.0f', number, used + cost), left, count >= 100 and 2 * (used + cost) <= count
end

local answers, first, at = {}, 1, 1
for list = 1, #ARGV[1] / 4 do
  local size = struct.unpack('<I4', ARGV[1], 4 * list - 3)
  local answer, far, new = 0, true, {}
  for i = 1, size do
    local kind, count, period, cost
    kind, count, period, cost, at = unpack_double('<dddd', ARGV[2], at)
    if answer == 0 then
      local key = KEYS[first + i - 1]
      local stood = new[key] and new[key][1]
      if stood == nil then
        stood = stands[key]
      end
      local wait, value, life, is_far = (kind == 1 and quota or rate)(stood, count, period, cost)
      if wait > 0 then
        answer = format('%d %.17g', i, wait)
      elseif cost > 0 then
        new[key] = {value, life}
      end
      far = far and is_far
    end
  end
  if answer == 0 then
    answer = far and 1 or 0
    for key, value in pairs(new) do
      stands[key] = value[1]
      changed[key] = value
    end
  end
  answers[list] = answer
  first = first + size
end

for key, value in pairs(changed) do
  -- at most what the client's integers bear: a period may be any number of seconds
  redis.call('SET', key, value[1], 'PX', format('%.0f', math.min(math.ceil(value[2] * 1000) + 1, 9e12)))
end
return answers
