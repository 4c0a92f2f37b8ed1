#!lua flags=allow-oom
-- End entries. ARGV: number and fence of each; one whose fence is old is passed over. Answers: how many, their octets.
local numbers, ended, seen = {}, {}, {}
for at = 1, #ARGV, 2 do
  numbers[#numbers + 1] = ARGV[at]
end
local turns = redis.call('HMGET', TURNS, unpack(numbers))
for at, number in ipairs(numbers) do
  local turn = read_turn(turns[at])
  if turn and turn.fence ~= '-' and turn.fence == ARGV[2 * at] and not seen[number] then
    seen[number] = true
    ended[#ended + 1] = {number, turn}
  end
end
local count, octets = forget(ended)
return {count, octets}
