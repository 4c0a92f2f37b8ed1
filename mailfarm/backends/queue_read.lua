#!lua flags=no-writes
-- An entry. ARGV: id, or '' and a number; 1 for its content too. Answers false, or id, put at, size, form, key of
-- the pieces, content, tries, reason.
local number = ARGV[1] ~= '' and redis.call('HGET', IDS, ARGV[1]) or ARGV[2]
local fields = number ~= '' and entry(number)
if not fields then
  return false
end
local turn = read_turn(redis.call('HGET', TURNS, number)) or {tries = 0, reason = ''}
local content = ARGV[3] == '1' and fields.c or ''
return {fields.i, fields.t, fields.z, fields.f, fields.k or '', content, turn.tries, turn.reason}
