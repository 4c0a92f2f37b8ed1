-- Charge rates and quotas, any number of charge lists, one after the other, each of them whole or not at all; then take,
-- keep and free places held at the same time.
--
-- KEYS      the key of each charge, list after list; then the key of each place
-- ARGV[1]   how many charges each list has, as little-endian 32-bit numbers
-- ARGV[2]   four little-endian doubles for each charge: 0 for a rate or 1 for a quota, count, period in seconds, cost
-- ARGV[3]   the length of a place's lease in milliseconds
-- ARGV[4…]  for each place its verb, the holder's id, how many places the key has, and the number of a list, or 0
--           take   a place, if one is free and the list was allowed
--           keep   a place that is ours: for one more lease, and also when this server has forgotten it
--           free   give it back
-- returns   for each list 0 (allowed, and charged), 1 (the same, and far from each limit in it: at least half of it is
--           left, and that is 50 units), or "<number of the charge in its list, from 1> <seconds to wait>";
--           then for each place 1, or 0 where none was taken
--
-- A rate's key keeps its theoretical arrival time (GCRA), a double, a quota's key "<number of its window> <units used>".
-- The arithmetic of rates is limits.gcra's, line by line, in the same doubles. A place's key is a sorted set, holder's id
-- -> when its lease ends (milliseconds); leases that have ended are cleared away when no place is left. Keys expire when
-- they mean nothing any more. Time is this server's: replicas need not agree on theirs.

local call, keys, argv = redis.call, KEYS, ARGV
local unpack_struct, pack, huge, floor, ceil = struct.unpack, struct.pack, math.huge, math.floor, math.ceil
local format, match, tonumber = string.format, string.match, tonumber
local time = call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local sizes, packed = argv[1], argv[2]
local charges = #packed / 32

local stands, lives = {}, {}
for start = 1, charges, 1000 do -- Lua passes some thousands of arguments at most
  for i, value in ipairs(call('MGET', unpack(keys, start, math.min(start + 999, charges)))) do
    stands[keys[start + i - 1]] = value
  end
end

-- seconds to wait (0: allowed), the new value, the seconds for which it means something, and whether it is far
local function rate(value, count, period, cost)
  local tat = value and unpack_struct('<d', value) or 0
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
  return 0, pack('<d', after), after - now, count >= 100 and 2 * (after - now) <= period
end

local function quota(value, count, period, cost)
  local units = cost > 0 and cost or 1
  if units > count then
    return huge
  end
  local number = floor(now / period)
  local left, used = (number + 1) * period - now, 0
  if value then
    local window, spent = match(value, '^(%d+) (%d+)$')
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

local answers, first = {}, 1
for list = 1, #sizes / 4 do
  local last = first + unpack_struct('<I4', sizes, 4 * list - 3) - 1
  local answer, far, stood_before, lived_before = 0, true, {}, {}
  for i = first, last do
    local key = keys[i]
    local kind, count, period, cost = unpack_struct('<dddd', packed, 32 * i - 31)
    local stood = stands[key]
    local wait, value, life, is_far = (kind == 1 and quota or rate)(stood, count, period, cost)
    if wait > 0 then
      answer = format('%d %.17g', i - first + 1, wait)
      for back = i - 1, first, -1 do -- none of the list is charged
        stands[keys[back]], lives[keys[back]] = stood_before[back], lived_before[back]
      end
      break
    end
    stood_before[i], lived_before[i] = stood, lives[key]
    if cost > 0 then
      stands[key] = value
      lives[key] = life
    end
    far = far and is_far
  end
  answers[list] = answer == 0 and far and 1 or answer
  first = last + 1
end

for key, life in pairs(lives) do
  -- at most what the client's integers bear: a period may be any number of seconds
  call('SET', key, stands[key], 'PX', format('%.0f', math.min(ceil(life * 1000) + 1, 9e12)))
end

local lease, lists, leased = tonumber(argv[3]), #answers, {}
now = tonumber(time[1]) * 1000 + floor(tonumber(time[2]) / 1000)
for place = 1, #keys - charges do
  local key, at = keys[charges + place], 4 * place
  local verb, id, most, list = argv[at], argv[at + 1], tonumber(argv[at + 2]), tonumber(argv[at + 3])
  local got = 1
  if verb == 'free' then
    call('ZREM', key, id)
  else
    if verb == 'take' then
      if list > 0 and type(answers[list]) == 'string' then
        got = 0
      elseif call('ZCARD', key) >= most then
        call('ZREMRANGEBYSCORE', key, '-inf', now)
        call('ZREMRANGEBYSCORE', key, now + 10 * lease, '+inf') -- from before the clock was put back
        got = call('ZCARD', key) < most and 1 or 0
      end
    end
    if got == 1 then
      call('ZADD', key, now + lease, id)
      leased[key] = true
    end
  end
  answers[lists + place] = got
end
for key in pairs(leased) do
  call('PEXPIRE', key, lease)
end
return answers
