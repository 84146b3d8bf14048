-- Claims ten messages and deletes them in bulk, over and over. The first argument is the path of the queue, a second one is
-- how many milliseconds a connection waits on average between two requests.
-- wrk does not say which connection an answer belongs to, so a deletion goes out by the next free one.

local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

function init(arguments)
  path = arguments[1]
  local delay_ms = tonumber(arguments[2] or "0")
  if delay_ms > 0 then
    function delay()
      return math.random(0, 2 * delay_ms)
    end
  end
  cycles = 0
  waiting = {}
  wrk.headers["X-Project-Id"] = "bench"
  wrk.headers["Client-ID"] = "3381af92-2b9e-11e3-b191-71861300734c"
  wrk.headers["Content-Type"] = "application/json"
  claim = wrk.format("POST", path .. "/claims?limit=10", nil, '{"ttl": 300, "grace": 60}')
end

function request()
  local ids = table.remove(waiting)
  if ids then
    cycles = cycles + 1
    return wrk.format("DELETE", path .. "/messages?ids=" .. ids, nil, "")
  end
  return claim
end

-- The ids of the messages in an answer. Plain searches, because patterns over bodies of 10 KiB take longer than a server.
function ids_in(body)
  local ids = {}
  local from = 1
  while true do
    local _, before = string.find(body, '/messages/', from, true)
    local after = before and string.find(body, '?claim_id=', before, true)
    if not after then
      return table.concat(ids, ",")
    end
    table.insert(ids, string.sub(body, before + 1, after - 1))
    from = after
  end
end

function response(status, headers, body)
  if status == 201 then
    table.insert(waiting, ids_in(body))
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
