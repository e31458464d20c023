-- An echo server on luv: callbacks, or a coroutine for each connection.
--   luv.lua callbacks|coroutines
local uv = require "luv"

local function with_callbacks(client)
  client:read_start(function(err, data)
    if err or not data then return client:close() end
    client:write(data)
  end)
end

local function reader(client)
  local co, chunks, ended = nil, {}, false
  client:read_start(function(err, data)
    ended = err or not data
    if data then chunks[#chunks + 1] = data end
    if co then
      local waiting = co
      co = nil
      coroutine.resume(waiting)
    end
  end)
  return function()
    if #chunks == 0 and not ended then
      co = coroutine.running()
      coroutine.yield()
    end
    return table.remove(chunks, 1)
  end
end

local function with_coroutine(client)
  coroutine.wrap(function()
    local read = reader(client)
    for data in read do client:write(data) end
    client:close()
  end)()
end

local serve = arg[1] == "callbacks" and with_callbacks or with_coroutine
local server = uv.new_tcp()
server:bind("127.0.0.1", 0)
server:listen(1024, function()
  local client = uv.new_tcp()
  server:accept(client)
  client:nodelay(true)
  serve(client)
end)
print("port " .. server:getsockname().port)
io.stdout:flush()
uv.run()
