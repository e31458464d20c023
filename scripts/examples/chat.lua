-- chat.lua [HOST [PORT]]: a chat for `nc` and `telnet`. The first line that a
-- guest sends is the guest's name, every further one goes to all others. Ctrl-C
-- ends it.
local peri = require "perilune"
local net = require "perilune.net"

-- Each guest has a queue of lines that a task of its own writes out, so that one
-- who does not read keeps nobody waiting: such a guest has to go.
local MOST_LINES <const> = 100

local guests = {} -- name to queue

local function tell_others(name, line)
  for other, queue in pairs(guests) do
    if other ~= name and not peri.pcall(queue.put_nowait, queue, line) then
      guests[other] = nil
      queue:shutdown { immediate = true }
    end
  end
end

local function write_out(stream, queue)
  for line in queue:items() do
    stream:write(line, "\n")
    stream:drain()
  end
  stream:close()
end

local function ask_name(stream, lines)
  stream:write "Your name? "
  local name = lines()
  while name and (name == "" or guests[name]) do
    stream:write "That one is taken. Your name? "
    name = lines()
  end
  return name
end

local function serve(stream)
  local lines, state, first, closing = stream:lines()
  local _ <close> = closing
  local function next_line() return lines(state, first) end
  local name = ask_name(stream, next_line)
  if not name then return end
  local queue = peri.Queue(MOST_LINES)
  guests[name] = queue
  local _ <close> = peri.defer(function()
    if guests[name] == queue then guests[name] = nil end
    tell_others(name, name .. " has left")
  end)
  tell_others(name, name .. " has come")
  local group <close> = peri.TaskGroup()
  local writer = group:create_task(write_out, stream, queue)
  for line in next_line do tell_others(name, name .. ": " .. line) end
  queue:shutdown()
  writer:await()
end

local server <close> = net.start_server(serve, arg[1] or "127.0.0.1", tonumber(arg[2] or 0),
  { limit = 1024 })
for _, socket in ipairs(server.sockets) do
  print("listening on", socket:getsockname())
end
io.stdout:flush()
server:serve_forever()
