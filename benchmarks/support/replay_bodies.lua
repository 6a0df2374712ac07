-- wrk sends prepared bodies in turn: `wrk -s replay_bodies.lua URL -- FILE CONTENT-TYPE`.
-- FILE holds records of eight digits (a length) and so many bytes. At the end one line of JSON goes to stdout.

local prepared, turn = {}, 0

function init(arguments)
  local file = assert(io.open(arguments[1], "rb"))
  wrk.method = "POST"
  wrk.headers["Content-Type"] = arguments[2]
  while true do
    local digits = file:read(8)
    if not digits then break end
    prepared[#prepared + 1] = wrk.format(nil, nil, nil, file:read(tonumber(digits)))
  end
  file:close()
end

function request()
  turn = turn % #prepared + 1
  return prepared[turn]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "duration_us": %d, "mean_us": %.1f, "p50_us": %d, "p90_us": %d, "p99_us": %d, "max_us": %d, '
      .. '"refused": %d, "broken": %d}\n',
    summary.requests, summary.duration, latency.mean, latency:percentile(50), latency:percentile(90),
    latency:percentile(99), latency.max, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout))
end
