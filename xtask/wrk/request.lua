-- One request over and over: METHOD PATH, and a body from a file if a third argument names one.
-- A fourth argument is how many milliseconds a connection waits on average between two requests.
--
-- Neither `request` nor `delay` is defined where they are not needed: wrk then sends the same bytes again without asking
-- Lua, and without a timer between an answer and the next request.

function init(arguments)
  wrk.method = arguments[1]
  wrk.path = arguments[2]
  wrk.headers["X-Project-Id"] = "bench"
  wrk.headers["Client-ID"] = "3381af92-2b9e-11e3-b191-71861300734c"
  if arguments[3] and arguments[3] ~= "-" then
    wrk.headers["Content-Type"] = "application/json"
    local file = assert(io.open(arguments[3], "rb"))
    wrk.body = file:read("*a")
    file:close()
  end
  local delay_ms = tonumber(arguments[4] or "0")
  if delay_ms > 0 then
    -- Spread, so that the connections do not march in step.
    function delay()
      return math.random(0, 2 * delay_ms)
    end
  end
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    'ANSWER {"requests": %d, "duration_us": %d, "refused": %d, "failed": %d, "p50_us": %d, "p99_us": %d, "max_us": %d}\n',
    summary.requests, summary.duration, errors.status, errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50), latency:percentile(99), latency.max
  ))
end
