-- Pools give the memory of large messages back.
local support = require "support"

-- How much more anonymous memory, in MiB, the owner and its workers have after
-- something large, or nothing if it is little.
local code <const> = [[
local peri = require "perilune"
local futures = require "perilune.futures"

local LARGE <const> = 34 << 20

local function resident()
  collectgarbage()
  collectgarbage()
  for line in io.lines "/proc/self/status" do
    local kilobytes = line:match "^RssAnon:%s+(%d+)"
    if kilobytes then return tonumber(kilobytes) / 1024 end
  end
end

local function large() return ("x"):rep(LARGE) end

local ways = {
  argument = function(executor)
    executor:submit(function(text) assert(#text == LARGE) end, large()):await()
  end,
  ["argument that has a small answer"] = function(executor)
    executor:submit(function(text) return { #text } end, large()):await()
  end,
  result = function(executor)
    assert(#executor:submit(large):await() == LARGE)
  end,
  ["result of a job's job"] = function(executor)
    executor:submit(function()
      local own = require "perilune.futures".current_executor()
      assert(#own:submit(large):result() == LARGE)
    end):await()
  end,
  ["argument of a job's job"] = function(executor)
    executor:submit(function()
      local own = require "perilune.futures".current_executor()
      own:submit(function(text) assert(#text == LARGE) end, large()):result()
    end):await()
  end,
  ["call of a loop"] = function(executor)
    local came = peri.Event()
    executor:submit(function(loop, event)
      loop:call_soon_threadsafe(function(it) it:set() end, event, large())
    end, peri.get_running_loop(), peri.ref(came)):await()
    came:wait()
  end,
  ["answer of a loop"] = function(executor)
    executor:submit(function(loop)
      assert(#require "perilune".run_coroutine_threadsafe(large, loop):await() == LARGE)
    end, peri.get_running_loop()):await()
  end,
}

-- The most that one of the three has, without garbage. While a job waits, the other
-- worker does its job.
local function measure(executor)
  local function both()
    resident()
    return math.max(require "perilune.futures".current_executor():submit(resident):result(), resident())
  end
  resident()
  return math.max(executor:submit(both):await(), resident())
end

peri.run(function()
  for name, way in pairs(ways) do
    local executor <close> = futures[arg[1] ] { max_workers = 2 }
    local before = measure(executor)
    way(executor)
    local more = measure(executor) - before
    if more > 16 then print(name, more) end
  end
end)
]]

describe("the memory of large messages is given back", function()
  if os.getenv "PERILUNE_PRELOAD" then return end -- a sanitizer keeps what is freed
  for _, kind in ipairs { "ThreadPoolExecutor", "ProcessPoolExecutor" } do
    it("by a " .. kind, function()
      assert.same({ "", "", 0 }, { support.run_code(code, kind) })
    end)
  end
end)
