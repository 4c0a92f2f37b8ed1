#!lua
-- Put entries. ARGV: most entries, most octets, then for each entry: id, size, form, key of its pieces or '',
-- how many pieces, content. Answers for each: stored, there (that id is an entry already), full, lost (pieces are
-- missing).
local most_entries, most_octets = tonumber(ARGV[1]), tonumber(ARGV[2])
local number, octets = unpack(redis.call('HMGET', COUNTS, 'number', 'octets'))
if not number then
  local stream = redis.pcall('XINFO', 'STREAM', STREAM)
  for at = 1, #stream, 2 do
    if stream[at] == 'last-generated-id' then
      number = string.match(stream[at + 1], '^%d+')
    end
  end
end
number, octets = tonumber(number or 0), tonumber(octets or 0)
local entries = redis.call('HLEN', IDS)
local now = whole(clock())
local answers, new, seen, ids = {}, {}, {}, {}
for at = 3, #ARGV, 6 do
  ids[#ids + 1] = ARGV[at]
end
local there = redis.call('HMGET', IDS, unpack(ids))
for at = 3, #ARGV, 6 do
  local id, size, form, pieces = ARGV[at], tonumber(ARGV[at + 1]), ARGV[at + 2], ARGV[at + 3]
  local answer = 'stored'
  if seen[id] or there[#answers + 1] then
    answer = 'there'
  elseif entries >= most_entries or octets + size > most_octets then
    answer = 'full'
  elseif pieces ~= '' and redis.call('HLEN', pieces) ~= tonumber(ARGV[at + 4]) then
    answer = 'lost'
  else
    number, entries, octets = number + 1, entries + 1, octets + size
    local text = whole(number)
    if pieces == '' then
      redis.call('XADD', STREAM, text, 'i', id, 't', now, 'z', ARGV[at + 1], 'f', form, 'c', ARGV[at + 5])
    else
      redis.call('PERSIST', pieces)
      redis.call('XADD', STREAM, text, 'i', id, 't', now, 'z', ARGV[at + 1], 'f', form, 'k', pieces)
    end
    seen[id] = true
    new[#new + 1] = id
    new[#new + 1] = text
  end
  answers[#answers + 1] = answer
end
if #new > 0 then
  redis.call('HSET', IDS, unpack(new))
  redis.call('HSET', COUNTS, 'number', whole(number), 'octets', whole(octets))
  hint()
end
return answers
