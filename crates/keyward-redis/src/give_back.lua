-- Gives back what was taken from each bucket, except for what time has refilled already.
--
-- KEYS has a key for each bucket. ARGV has for each bucket the cost that was taken, and the value that
-- the bucket had after that, as microseconds and nanoseconds. From the cost before that time on, the
-- bucket might have been full without the request, so what is left until that time is given back.
local kept_for = 1000 -- milliseconds after the bucket is full
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local values = redis.call('MGET', unpack(KEYS))
for i = 1, #KEYS do
  local back, back_ns = tonumber(ARGV[4 * i - 3]), tonumber(ARGV[4 * i - 2])
  local left, left_ns = tonumber(ARGV[4 * i - 1]) - now, tonumber(ARGV[4 * i])
  if left < back or left == back and left_ns < back_ns then
    back, back_ns = left, left_ns
  end
  local full, full_ns
  if values[i] then
    full, full_ns = tonumber(string.sub(values[i], 1, -4)), tonumber(string.sub(values[i], -3))
  end
  if left >= 0 and full and full_ns then
    full, full_ns = full - back, full_ns - back_ns
    if full_ns < 0 then
      full, full_ns = full - 1, full_ns + 1000
    end
    local expires = math.max(math.ceil((full - now) / 1000), 0) + kept_for
    redis.call('SET', KEYS[i], string.format('%.0f%03d', full, full_ns), 'PX', string.format('%.0f', expires))
  end
end
return {}
