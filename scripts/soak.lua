-- A soak of streams and servers: an echo server and many clients, in one process,
-- that connect, send, stall, reset and leave at random. What it has in memory, open
-- and running must be the same in the end as when it was warm.
--
--   scripts/soak [SECONDS] [CLIENTS] [SEED]
--
-- Prints both states, and exits 1 if something has leaked. SECONDS: 60, of which the
-- first sixth warms up; CLIENTS: 200.
local peri = require "perilune"
local fs = require "perilune.fs"
local net = require "perilune.net"
local native = require "perilune._net"

local seconds = tonumber(arg[1] or 60)
local clients = tonumber(arg[2] or 200)
local seed = tonumber(arg[3] or os.time())
local GROWTH <const> = 1.02

local random = math.random
math.randomseed(seed)

local loop = peri.get_running_loop()
local clock = peri.Clock()
local handlers, conversations, failures = 0, 0, {}

-- What happens to connections that the other end resets.
local expected <const> = { ECONNRESET = true, EPIPE = true, ECANCELED = true }

local function check(ok, err)
  if ok or peri.OSError:is(err) and expected[err.code] then return end
  failures[#failures + 1] = tostring(err)
end

-- The server ------------------------------------------------------------------------

local function echo(stream)
  while true do
    local data = stream:read(random(1, 100000))
    if not data then return end
    stream:write(data)
    stream:drain()
  end
end

local function handle(stream)
  handlers = handlers + 1
  check(peri.pcall(random(4) == 1 and stream.forward or echo, stream, stream))
  handlers = handlers - 1
end

-- Conversations, each to its own end -------------------------------------------------

local text <const> = ("0123456789abcdef"):rep(20000)

local function exchange(stream)
  for _ = 1, random(5) do
    local message = text:sub(1, random(1, 3000))
    stream:write(message)
    assert(stream:readexactly(#message) == message, "the echo differs")
  end
end

local ways <const> = {
  -- Well behaved.
  exchange,
  function(stream)
    exchange(stream)
    stream:write "the end"
    stream:write_eof()
    assert(stream:read() == "the end", "the echo of the end differs")
  end,
  function(stream)
    stream:write("one\n", "two\n")
    for line in stream:lines() do
      if line == "two" then break end
    end
  end,
  -- More than the buffers hold, read later, or never.
  function(stream)
    stream:write(text)
    peri.sleep(random() * 0.05)
    assert(#stream:readexactly(#text) == #text)
  end,
  function(stream)
    stream:write(text, text)
    peri.sleep(random() * 0.05)
  end,
  -- Gone in the middle: with a reset, at once, or without a word.
  function(stream)
    stream:write(text:sub(1, random(#text)))
    if stream:getsockname() ~= "" then stream:set_linger(0) end
    stream:abort()
  end,
  function(stream) stream:abort() end,
  function(stream)
    stream:write "x"
    return true -- to the collector
  end,
  -- Late, and cancelled.
  function(stream)
    local ok, err = peri.pcall(stream.read, stream, 1, { timeout = random() * 0.02 })
    assert(not ok and peri.TimeoutError:is(err), "there was something to read")
    exchange(stream)
  end,
  function(stream)
    local reader = peri.create_task(stream.readline, stream)
    peri.sleep(random() * 0.01)
    reader:cancel()
    peri.wait { reader }
    exchange(stream)
  end,
}

local function converse(connect)
  local stream = connect()
  local forgotten = ways[random(#ways)](stream)
  if not forgotten then stream:close() end
end

local function client(connect, deadline)
  while clock:now() < deadline do
    check(peri.pcall(converse, connect))
    conversations = conversations + 1
    if random(10) == 1 then peri.sleep(random() * 0.1) end
  end
end

-- Measuring -----------------------------------------------------------------------------

local function count_descriptors()
  local n = 0
  for _ in fs.scandir "/proc/self/fd" do n = n + 1 end
  return n
end

-- Lua's table of strings halves when a collection finds it less than a quarter full,
-- and doubles when it is full: how large it is depends on how it got there, unless it
-- comes from far above.
local function fill_strings()
  local strings = {}
  for i = 1, 1 << 14 do strings[i] = "soak" .. i end
  return strings
end

-- Once all connections have ended, and the closed handles are freed: so many
-- descriptors at most should be left then.
local function state(descriptors)
  local patience = clock:now() + 30
  repeat
    collectgarbage()
    peri.sleep(0.05)
  until handlers == 0 and count_descriptors() <= descriptors or clock:now() > patience
  fill_strings()
  for _ = 1, 20 do collectgarbage() end -- stacks and tables shrink by and by
  return {
    connections = handlers,
    descriptors = count_descriptors(),
    tasks = #peri.all_tasks(),
    ["Lua's KB"] = collectgarbage "count",
    ["malloc's KB"] = (native.malloc_in_use() or 0) / 1024,
  }
end

-- The loop keeps the coroutines of ended tasks for others: as many as ever ran at
-- once, which is more than the soak comes to.
local function fill_pool()
  local sleepers = {}
  for i = 1, 4 * clients do sleepers[i] = peri.create_task(peri.sleep, 0.01) end
  peri.wait(sleepers)
end

local function run_for(time, connect)
  local deadline, tasks = clock:now() + time, {}
  for i = 1, clients do
    tasks[i] = peri.create_task(client, connect[i % #connect + 1], deadline)
  end
  for i = 1, clients do tasks[i]:await() end
end

loop:set_exception_handler(function(_, context)
  failures[#failures + 1] = ("%s: %s"):format(context.message, tostring(context.exception))
end)
local path = os.tmpname()
os.remove(path)
local tcp <close> = net.start_server(handle, "127.0.0.1", 0, { backlog = 1000 })
local _ <close> = net.start_unix_server(handle, path, { backlog = 1000, max_connections = 50 })
local _, port = tcp.sockets[1]:getsockname()
local connect = {
  function() return net.open_connection("127.0.0.1", port) end,
  function() return net.open_unix_connection(path) end,
}

fill_pool()
run_for(seconds / 6, connect)
local warm = state(math.huge)
run_for(seconds * 5 / 6, connect)
local final = state(warm.descriptors)

print(("%d conversations of %d clients in %g s, seed %d"):format(conversations, clients, seconds, seed))
local leaked = false
for _, name in ipairs { "connections", "descriptors", "tasks", "Lua's KB", "malloc's KB" } do
  local limit = name:find "KB" and warm[name] * GROWTH or warm[name]
  local grown = final[name] > limit
  leaked = leaked or grown
  print(("%-12s warm %10.1f, final %10.1f%s"):format(name, warm[name], final[name],
    grown and "  LEAKED" or ""))
end
for i = 1, math.min(#failures, 10) do print("failure: " .. failures[i]) end
os.exit(not leaked and #failures == 0)
