-- Fails if something public is in no case. What is public is found out at run
-- time, so that nothing can be added and forgotten.
local kit, cases = ...
local peri = require "perilune"
local core = require "perilune._core"

local covered = {}

for title, case in pairs(cases) do
  -- "Lock:acquire, in time" is about Lock:acquire
  covered[title:match "^[^,]*"] = true
  for _, name in ipairs(case.covers or {}) do covered[name] = true end
end

-- What no case can be about, and why.
local excepted = {
  to_thread = "the pools' memory is not the state's: threads have their own",
  ["loop:run_in_executor"] = "likewise",
  ["loop:set_default_executor"] = "likewise",
  ["loop:shutdown_default_executor"] = "likewise",
  ["Task:set_result"] = "raises whatever the memory, as for a gather",
  ["Task:set_exception"] = "likewise",
  peri_worker_main = "a process of its own",
}

local missing, count = {}, 0

local function need(name)
  count = count + 1
  if not covered[name] and not excepted[name] then missing[#missing + 1] = name end
end

-- The functions of a class, inherited ones too.
local function need_methods(prefix, class)
  local seen = {}
  while type(class) == "table" do
    for key, value in pairs(class) do
      if type(key) == "string" and type(value) == "function" and not key:find "^_"
        and not seen[key] then
        seen[key] = true
        need(prefix .. ":" .. key)
      end
    end
    local meta = debug.getmetatable(class)
    class = meta and meta.__index
  end
end

for name in pairs(peri) do need(name) end
for name in pairs(require "perilune.log") do
  if name:find "^%l" then need("log." .. name) end
end
for name in pairs(coroutine) do need("coroutine." .. name) end
for name in pairs(require "perilune.yieldable") do need("yieldable." .. name) end
need "_G.pcall"
need "_G.xpcall"

need_methods("Future", core.Future)
need_methods("Task", core.Task)
need_methods("Gather", core.Gather)
need_methods("loop", core.Loop)
need_methods("Handle", core.Handle)
need_methods("Clock", core.Clock)
need_methods("Coroutine", core.Coroutine)
local class_of = debug.getmetatable
need_methods("Lock", class_of(peri.Lock()))
need_methods("Event", class_of(peri.Event()))
need_methods("Condition", class_of(peri.Condition()))
need_methods("Semaphore", class_of(peri.Semaphore()))
need_methods("BoundedSemaphore", class_of(peri.BoundedSemaphore()))
need_methods("Barrier", class_of(peri.Barrier(1)))
need_methods("Queue", class_of(peri.Queue()))
need_methods("PriorityQueue", class_of(peri.PriorityQueue()))
need_methods("LifoQueue", class_of(peri.LifoQueue()))
need_methods("ContextVar", class_of(peri.ContextVar "v"))
need_methods("Context", class_of(peri.copy_context()))
need_methods("Runner", class_of(peri.Runner()))
do
  local group <close> = peri.TaskGroup()
  need_methods("TaskGroup", class_of(group))
  local scope <close> = peri.timeout(1)
  need_methods("Timeout", class_of(scope))
end
need "Error:extend"
need "ExceptionGroup:split"
need "ExceptionGroup:subgroup"

-- The functions of the header, of which the cases are in C.
local header = assert(io.open(kit.host.directory .. "/../../runtime/include/perilune.h"))
local text = header:read "a"
header:close()
for name in text:gmatch "PERI_API[^;]-(peri_[%w_]+)%(" do
  if c_cases:find(name, 1, true) then covered[name] = true end -- luacheck: ignore c_cases
  need(name)
end

for name in pairs(excepted) do
  if covered[name] then error(name .. " is excepted, and in a case") end
end
table.sort(missing)
if #missing > 0 then
  error("in no case of the ramp over the allocator: " .. table.concat(missing, ", "), 0)
end
print(("%d public names, all of them in a case but for %d"):format(count, (function()
  local n = 0
  for _ in pairs(excepted) do n = n + 1 end
  return n
end)()))
