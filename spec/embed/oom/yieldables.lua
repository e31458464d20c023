-- perilune.yieldable: functions of Lua's library that may wait.
local kit, case = ...
local peri = require "perilune"
local yieldable = require "perilune.yieldable"
local same = kit.same

local function waiting(name, call, check, setup)
  case("yieldable." .. name, {
    setup = setup,
    call = call,
    check = function(t, ok, ...)
      if ok then check(t, ...) end
    end,
  })
end

local list <const> = { 5, 3, 9, 1, 7, 2, 8 }

local function wait(...)
  peri.sleep(0)
  return ...
end

waiting("sort", function()
  local copy = { table.unpack(list) }
  yieldable.sort(copy, function(a, b) return wait(a > b) end)
  return table.concat(copy)
end, function(_, text) same("9875321", text) end)
waiting("sort, of numbers", function()
  local copy = { table.unpack(list) }
  yieldable.sort(copy)
  return table.concat(copy)
end, function(_, text) same("1235789", text) end)
waiting("sort, of a list with a metatable", function()
  local copy = { table.unpack(list) }
  yieldable.sort(setmetatable({}, {
    __index = function(_, key) return wait(copy[key]) end,
    __newindex = function(_, key, value) copy[key] = wait(value) end,
    __len = function() return wait(#copy) end,
  }))
  return table.concat(copy)
end, function(_, text) same("1235789", text) end)
case("yieldable.sort, of what cannot be compared", {
  call = function() yieldable.sort { 1, "a", {}, 4 } end,
  allow = function(err) return tostring(err):find "attempt to compare" ~= nil end,
})
waiting("gsub", function()
  return yieldable.gsub("one two  three", "(%w+)", function(word) return wait(word:upper()) end)
end, function(_, text, n)
  same("ONE TWO  THREE", text)
  same(3, n)
end)
waiting("gsub, by a string", function() return yieldable.gsub("abc", "%w", "%0%0") end,
  function(_, text) same("aabbcc", text) end)
case("yieldable.gsub, of a wrong pattern", {
  call = function() return yieldable.gsub("abc", "%", "x") end,
  allow = function(err) return tostring(err):find "malformed pattern" ~= nil end,
})
waiting("tostring", function(t)
  return yieldable.tostring(t.object), yieldable.tostring(12.5)
end, function(_, text, number)
  same("an object", text)
  same("12.5", number)
end, function(t)
  t.object = setmetatable({}, { __tostring = function() return wait "an object" end })
end)
waiting("xpcall", function()
  local ok, text, more = yieldable.xpcall(function(...)
    peri.sleep(0)
    error({ "boom" }, ...)
  end, function(err, trace)
    if kit.is_memory(err) then return err end
    return wait(err[1]), trace
  end, 1)
  if kit.is_memory(text) then error(text, 0) end
  return ok, text, more
end, function(_, ok, text)
  same(false, ok)
  same("boom", text)
end)

-- A module is loaded once, by one of several tasks; and again if that failed.
case("yieldable.require", {
  grows = true, -- names of modules are kept
  setup = function(t)
    t.runs = 0
    package.preload["oom.waits"] = function()
      peri.sleep(0.01)
      local module = { value = t.runs + 1 }
      t.runs = module.value
      return module
    end
    package.loaded["oom.waits"] = nil
    t.tasks = {}
  end,
  call = function(t)
    for i = 1, 3 do
      t.tasks[i] = peri.create_task(function() return yieldable.require "oom.waits".value end)
    end
    peri.sleep(1)
  end,
  check = function(t)
    peri.sleep(1)
    for i, task in ipairs(t.tasks) do kit.value_or_memory(task, 1, "task " .. i) end
    same(1, yieldable.require "oom.waits".value)
    package.loaded["oom.waits"], package.preload["oom.waits"] = nil, nil
  end,
})
