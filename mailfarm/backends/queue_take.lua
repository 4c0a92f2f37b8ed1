#!lua flags=allow-oom
-- Hand out entries, the oldest first. ARGV: limit, lease (µs), fence, most tries, octets to hand out at most, how many µs
-- ago the server began to be away or to refuse for the taker, and when that was last so (-1: it was not); then number
-- and fence of each entry that the taker has done with, which are ended first.
-- Answers: µs until an entry comes by itself (-1: none will), whether what is handed out must be alone, whether there
-- may be more, the entries (number, tries, id, size, form, key of the pieces, content), how many were ended, and their
-- octets.
local limit, lease, fence = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local most_tries, most_octets = tonumber(ARGV[4]), tonumber(ARGV[5])
local outage_began, outage_ended = tonumber(ARGV[6]), tonumber(ARGV[7])
local AT_ONCE, STEP, ALONE_AFTER = 1000, 16, 2
local now = clock()
local finished, freed = finish(8)

-- Whether a lease that ended then could not be extended, as a worker does every third of it.
local function excused(at)
  return outage_began >= 0 and at >= now - outage_began - lease / 3 and at <= now - outage_ended + lease / 3
end

-- When the first lease or pause of these ends.
local function first_of(set)
  return tonumber(redis.call('ZRANGE', set, 0, 0, 'WITHSCORES')[2] or math.huge)
end

local first_lease, first_pause = first_of(LEASED), first_of(DUE)
if first_lease <= now then
  local scored = redis.call('ZRANGEBYSCORE', LEASED, '-inf', whole(now), 'WITHSCORES', 'LIMIT', 0, AT_ONCE)
  local ended, ends = {}, {}
  for at = 1, #scored, 2 do
    ended[#ended + 1], ends[#ends + 1] = scored[at], tonumber(scored[at + 1])
  end
  local turns = redis.call('HMGET', TURNS, unpack(ended))
  for at, number in ipairs(ended) do
    local turn = read_turn(turns[at])
    if turn then
      if excused(ends[at]) then
        turn.tries = turn.tries - 1
        if turn.reason ~= LOST then
          turn.reason = AWAY
        end
      else
        turn.reason = LOST
      end
      if turn.tries >= most_tries then
        turn.fence = '-'
        redis.call('ZADD', ASIDE, number, number)
      else
        redis.call('ZADD', READY, number, number)
      end
      write_turn(number, turn)
    end
  end
  redis.call('ZREM', LEASED, unpack(ended))
  first_lease = first_of(LEASED)
end
if first_pause <= now then
  local over = redis.call('ZRANGEBYSCORE', DUE, '-inf', whole(now), 'LIMIT', 0, AT_ONCE)
  for _, number in ipairs(over) do
    redis.call('ZADD', READY, number, number)
  end
  redis.call('ZREM', DUE, unpack(over))
  redis.call('ZREM', PAUSED, unpack(over))
  first_pause = first_of(DUE)
end

local taken, leases, octets = {}, {}, 0
local alone, cut = 0, false

local function hand_out(number, turn, fields)
  taken[#taken + 1] = {number, turn.tries, turn.id, whole(turn.size), fields.f, fields.k or '', fields.c or ''}
  leases[#leases + 1] = whole(now + lease)
  leases[#leases + 1] = number
  octets = octets + #(fields.c or '')
end

-- Whoever was in the same hands as an entry that kills its worker loses a try with it, so one that was lost twice is
-- handed out alone: only the guilty one goes on to be set aside.
local again = redis.call('ZRANGE', READY, 0, limit - 1)
if #again > 0 then
  local turns = redis.call('HMGET', TURNS, unpack(again))
  for at, number in ipairs(again) do
    local turn = read_turn(turns[at])
    local guilty = turn and turn.tries >= ALONE_AFTER and turn.reason == LOST
    if (guilty and #taken > 0) or octets >= most_octets then
      cut = true
      break
    end
    local fields = turn and entry(number)
    redis.call('ZREM', READY, number)
    if fields then
      turn.tries, turn.fence = turn.tries + 1, fence
      write_turn(number, turn)
      hand_out(number, turn, fields)
    elseif turn then
      forget({{number, turn}})
    end
    if guilty and fields then
      alone, cut = 1, true
      break
    end
  end
end

local left = not cut
while left and #taken < limit and octets < most_octets do
  local most = math.min(limit - #taken, STEP)
  local found = redis.pcall('XREADGROUP', 'GROUP', GROUP, CONSUMER, 'COUNT', most, 'NOACK', 'STREAMS', STREAM, '>')
  if found and found.err then
    if string.sub(found.err, 1, 7) ~= 'NOGROUP' then
      return found
    end
    -- There is no group yet, or no stream any more. From the beginning: what was handed out before has its turn, and
    -- is passed over.
    redis.call('XGROUP', 'CREATE', STREAM, GROUP, '0', 'MKSTREAM')
  elseif not found then
    left = false
  else
    local read, numbers, turns = found[1][2], {}, {}
    for at, new in ipairs(read) do
      numbers[at] = string.match(new[1], '^%d+')
    end
    local known = redis.call('HMGET', TURNS, unpack(numbers))
    for at, new in ipairs(read) do
      local number, fields = numbers[at], fields_of(new[2] or {})
      if fields.i and not known[at] then
        local turn = {tries = 1, fence = fence, size = tonumber(fields.z) or 0, id = fields.i, pieces = fields.k or '-',
          reason = ''}
        turns[#turns + 1], turns[#turns + 2] = number, turn_text(turn)
        hand_out(number, turn, fields)
      end
    end
    if #turns > 0 then
      redis.call('HSET', TURNS, unpack(turns))
    end
    left = #read == most
  end
end
if #leases > 0 then
  redis.call('ZADD', LEASED, unpack(leases))
  first_lease = math.min(first_lease, now + lease)
end

local first = math.min(first_lease, first_pause)
local due = first < math.huge and math.max(first - now, 0) or -1
return {due, alone, (cut or left) and #taken > 0 and 1 or 0, taken, finished, freed}
