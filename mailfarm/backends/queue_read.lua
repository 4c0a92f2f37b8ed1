#!lua flags=no-writes
-- An entry. ARGV: id, or '' and a number; 1 for its content too. Answers false, or id, put at, size, form, key of
-- the pieces, content, tries, reason, state, end of its lease or pause (µs; -1: none), fence of its lease.
local number = ARGV[1] ~= '' and redis.call('HGET', IDS, ARGV[1]) or ARGV[2]
local fields = number ~= '' and entry(number)
if not fields then
  return false
end
local turn = read_turn(redis.call('HGET', TURNS, number)) or {tries = 0, reason = ''}
local content = ARGV[3] == '1' and fields.c or ''
local state, ends, fence = 'waiting', redis.call('ZSCORE', DUE, number), ''
local leased = redis.call('ZSCORE', LEASED, number)
if leased then
  state, ends, fence = 'leased', leased, turn.fence
elseif redis.call('ZSCORE', ASIDE, number) then
  state, ends = 'aside', nil
end
return {fields.i, fields.t, fields.z, fields.f, fields.k or '', content, turn.tries, turn.reason, state,
  ends and whole(tonumber(ends)) or '-1', fence}
