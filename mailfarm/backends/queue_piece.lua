#!lua
-- A piece of content ahead of its entry. KEYS: the key of the pieces. ARGV: number, data, seconds.
-- Until the entry is put and persists it, the key ends by itself: what a crash leaves behind is gone then.
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[3])
return 1
