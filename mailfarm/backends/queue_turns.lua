-- What every script of the queue knows; put in front of each, behind its first line.
--
-- KEYS, always these nine:
--   stream   the entries: number-0 -> i id, t put at (µs), z size, f spooled form, c content | k key of its pieces
--   ids      hash: id -> number, of every entry there is
--   counts   hash: number (the last one given), octets (of all content)
--   turns    hash: number -> what happened to an entry that was handed out at least once (below)
--   leased   sorted set: number by the end of its lease (µs)
--   ready    sorted set: numbers that were handed out before and wait to be handed out again, by number
--   due      sorted set: number by the end of its pause (µs);  paused: the same numbers by number
--   aside    sorted set: numbers that were set aside
-- An entry that was never handed out is in the stream and in ids, and in nothing else: the group's last delivered
-- entry parts the two kinds, and so whatever comes again is older than whatever is new.
--
-- Nothing is kept as pending for the group: a turn says who has what, and until when.
-- A turn is "tries fence size id pieces reason"; fence and pieces are "-" when there are none.
local STREAM, IDS, COUNTS, TURNS, LEASED, READY, DUE, PAUSED, ASIDE = unpack(KEYS)
local GROUP, CONSUMER, LOST = 'workers', 'mailfarm', 'the worker went away'
local AWAY = 'the queue could not be written'

-- Microseconds since 1970 on the server's clock, the only one that decides about leases and pauses.
local function clock()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

local function whole(number)
  return string.format('%.0f', number)
end

local function read_turn(text)
  if not text then
    return nil
  end
  local tries, fence, size, id, pieces, reason = string.match(text, '^(%d+) (%S+) (%d+) (%S+) (%S+) (.*)$')
  if not tries then
    return nil
  end
  return {tries = tonumber(tries), fence = fence, size = tonumber(size), id = id, pieces = pieces, reason = reason}
end

local function turn_text(turn)
  return turn.tries .. ' ' .. turn.fence .. ' ' .. whole(turn.size) .. ' ' .. turn.id .. ' ' .. turn.pieces
    .. ' ' .. turn.reason
end

local function write_turn(number, turn)
  redis.call('HSET', TURNS, number, turn_text(turn))
end

-- The turn of a fence that is good, or nil.
local function held(number, fence)
  local turn = read_turn(redis.call('HGET', TURNS, number))
  if turn and fence ~= '-' and turn.fence == fence then
    return turn
  end
  return nil
end

local function fields_of(pairs)
  local fields = {}
  for at = 1, #pairs, 2 do
    fields[pairs[at]] = pairs[at + 1]
  end
  return fields
end

-- An entry's fields by their letter.
local function entry(number)
  local found = redis.call('XRANGE', STREAM, number, number, 'COUNT', 1)[1]
  if not found then
    return nil
  end
  return fields_of(found[2])
end

-- The id behind which the stream holds what was never handed out; '0' when that is everything.
local function delivered()
  local groups = redis.pcall('XINFO', 'GROUPS', STREAM)
  if groups.err then
    return '0'
  end
  for _, group in ipairs(groups) do
    local name, last
    for at = 1, #group, 2 do
      if group[at] == 'name' then
        name = group[at + 1]
      elseif group[at] == 'last-delivered-id' then
        last = group[at + 1]
      end
    end
    if name == GROUP then
      return last
    end
  end
  return '0'
end

-- End entries: {number, turn} each. Returns how many, and the octets of their content.
local function forget(ended)
  if #ended == 0 then
    return 0, 0
  end
  local numbers, ids, pieces, octets = {}, {}, {}, 0
  for at, pair in ipairs(ended) do
    numbers[at], ids[at] = pair[1], pair[2].id
    octets = octets + pair[2].size
    if pair[2].pieces ~= '-' then
      pieces[#pieces + 1] = pair[2].pieces
    end
  end
  redis.call('XDEL', STREAM, unpack(numbers))
  redis.call('HDEL', TURNS, unpack(numbers))
  redis.call('HDEL', IDS, unpack(ids))
  if redis.call('ZREM', LEASED, unpack(numbers)) < #numbers then
    redis.call('ZREM', READY, unpack(numbers))
    redis.call('ZREM', ASIDE, unpack(numbers))
  end
  if #pieces > 0 then
    redis.call('UNLINK', unpack(pieces))
  end
  if octets > 0 then
    redis.call('HINCRBY', COUNTS, 'octets', whole(-octets))
  end
  return #ended, octets
end

-- End what these fences are good for: ARGV from `first` on, number and fence of each. Returns how many, their octets.
local function finish(first)
  local numbers, ended, seen = {}, {}, {}
  for at = first, #ARGV, 2 do
    numbers[#numbers + 1] = ARGV[at]
  end
  if #numbers == 0 then
    return 0, 0
  end
  local turns = redis.call('HMGET', TURNS, unpack(numbers))
  for at, number in ipairs(numbers) do
    local turn = read_turn(turns[at])
    if turn and turn.fence ~= '-' and turn.fence == ARGV[first + 2 * at - 1] and not seen[number] then
      seen[number] = true
      ended[#ended + 1] = {number, turn}
    end
  end
  return forget(ended)
end

-- A hint to whoever waits. An ACL may not allow it; then they find out when they look, twice a second.
local function hint()
  redis.pcall('PUBLISH', STREAM .. ':hint', '1')
end

