-- Claims ten messages and deletes them in bulk, over and over. The first argument is the path of the queue, a second one is
-- how many milliseconds a connection waits on average between two requests.
-- wrk does not say which connection an answer belongs to, so a deletion goes out by the next free one.

local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

function init(arguments)
  path = arguments[1]
  delay_ms = tonumber(arguments[2] or "0")
  cycles = 0
  waiting = {}
  wrk.headers["X-Project-Id"] = "bench"
  wrk.headers["Client-ID"] = "3381af92-2b9e-11e3-b191-71861300734c"
  wrk.headers["Content-Type"] = "application/json"
  claim = wrk.format("POST", path .. "/claims?limit=10", nil, '{"ttl": 300, "grace": 60}')
end

function delay()
  return delay_ms == 0 and 0 or math.random(0, 2 * delay_ms)
end

function request()
  local ids = table.remove(waiting)
  if ids then
    cycles = cycles + 1
    return wrk.format("DELETE", path .. "/messages?ids=" .. ids, nil, "")
  end
  return claim
end

function response(status, headers, body)
  if status == 201 then
    local ids = {}
    for id in string.gmatch(body, '/messages/([%w-]+)%?claim_id=') do
      table.insert(ids, id)
    end
    table.insert(waiting, table.concat(ids, ","))
  end
end

function done(summary, latency, requests)
  local all = 0
  for _, thread in ipairs(threads) do
    all = all + thread:get("cycles")
  end
  local errors = summary.errors
  io.write(string.format(
    'ANSWER {"requests": %d, "duration_us": %d, "refused": %d, "failed": %d, "p50_us": %d, "p99_us": %d, "max_us": %d}\n',
    all, summary.duration, errors.status, errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50), latency:percentile(99), latency.max
  ))
end
