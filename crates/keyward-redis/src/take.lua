-- Takes a cost from every bucket, or from none.
--
-- KEYS has a key for each bucket. Its value is the time at which the bucket is full, in nanoseconds
-- since the Unix epoch. ARGV has for each bucket the cost and the depth, as microseconds and
-- nanoseconds: a number of Lua is a double, and holds no such time exactly.
-- Returns 1 if the cost was taken or 0, the time, and the value of each bucket.
local kept_for = 1000 -- milliseconds after the bucket is full
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local values = redis.call('MGET', unpack(KEYS))
local reply, after = {'1', string.format('%.0f000', now)}, {}
local function set(key, value, full)
  local expires = math.ceil((full - now) / 1000) + kept_for
  redis.call('SET', key, value, 'PX', string.format('%.0f', expires))
end
for i = 1, #KEYS do
  local cost, cost_ns = tonumber(ARGV[4 * i - 3]), tonumber(ARGV[4 * i - 2])
  local depth, depth_ns = tonumber(ARGV[4 * i - 1]), tonumber(ARGV[4 * i])
  local full, full_ns
  if values[i] then
    full, full_ns = tonumber(string.sub(values[i], 1, -4)), tonumber(string.sub(values[i], -3))
  end
  if not (full and full_ns) or full < now then
    full, full_ns = now, 0
  end
  -- The bucket is empty at most, also if the clock went back, and refills from now on.
  local is_beyond = full - now > depth or full - now == depth and full_ns > depth_ns
  if is_beyond then
    full, full_ns = now + depth, depth_ns
  end
  reply[i + 2] = string.format('%.0f%03d', full, full_ns)
  if is_beyond then
    set(KEYS[i], reply[i + 2], full)
  end
  full, full_ns = full + cost, full_ns + cost_ns
  if full_ns >= 1000 then
    full, full_ns = full + 1, full_ns - 1000
  end
  if full - now > depth or full - now == depth and full_ns > depth_ns then
    reply[1] = '0'
  end
  after[i] = {string.format('%.0f%03d', full, full_ns), full}
end
if reply[1] == '1' then
  for i = 1, #KEYS do
    reply[i + 2] = after[i][1]
    set(KEYS[i], after[i][1], after[i][2])
  end
end
return reply
