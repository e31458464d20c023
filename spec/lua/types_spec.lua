-- The LuaLS declarations (comments in the sources, stubs in lua/perilune/meta)
-- against what there is at run time, in both directions.
local peri = require "perilune"
local core = require "perilune._core"
local errors = require "perilune.errors"
local fs = require "perilune.fs"
local net = require "perilune.net"
local futures = require "perilune.futures"
local declarations = require "support.declarations"

require "perilune.tasks" -- adds a method to loops

local root = debug.getinfo(1, "S").source:match "^@(.*)spec/lua/types_spec%.lua$"
local all = declarations.read(root .. "lua/perilune")

-- The modules whose names are public, and the class each is declared as.
local modules = {
  ["perilune"] = peri,
  ["perilune.log"] = require "perilune.log",
  ["perilune.fs"] = fs,
  ["perilune.futures"] = futures,
  ["perilune.yieldable"] = require "perilune.yieldable",
  ["perilune.subprocess"] = require "perilune.subprocess",
  ["perilune.multiprocessing"] = require "perilune.multiprocessing",
  ["perilune.signal"] = require "perilune.signal",
  ["perilune.stdio"] = require "perilune.stdio",
}

-- What makes an object of each public class, or at least its table of methods:
-- otherwise they are the metatable's own (classes in Lua) or its __index (in C).
local function class_table(object)
  local meta = debug.getmetatable(object)
  return type(object) == "userdata" and meta.__index or meta
end

local context_variable = peri.ContextVar "types"

-- Of objects with fields that C finds.
local function metatable_of(make)
  local object <close> = make()
  return debug.getmetatable(object)
end
local watch_meta = metatable_of(function() return fs.watch "/" end)
local socket_meta = metatable_of(net.create_datagram_endpoint)

local classes = {
  Future = { methods = core.Future, make = peri.Future },
  Task = { methods = core.Task, make = peri.current_task },
  Gather = { methods = core.Gather },
  Loop = { methods = core.Loop, make = peri.get_running_loop },
  Handle = { methods = core.Handle },
  LoopHandle = { methods = require "perilune._codec".LoopHandle },
  Ref = { methods = {}, make = function() return peri.ref {} end },
  Clock = { methods = core.Clock, make = peri.Clock },
  Coroutine = { methods = core.Coroutine },
  Lock = { make = peri.Lock },
  Event = { make = peri.Event },
  Condition = { make = peri.Condition },
  Semaphore = { make = peri.Semaphore },
  BoundedSemaphore = { make = peri.BoundedSemaphore },
  Barrier = { make = function() return peri.Barrier(1) end },
  Queue = { make = peri.Queue },
  LifoQueue = { make = peri.LifoQueue },
  PriorityQueue = { make = peri.PriorityQueue },
  Context = { make = peri.copy_context },
  ContextVar = { make = function() return context_variable end },
  Token = { make = function() return context_variable:set(1) end },
  Timeout = { make = function()
    local scope <close> = peri.timeout(60)
    return scope
  end },
  TaskGroup = { make = function()
    local group <close> = peri.TaskGroup()
    return group
  end },
  Runner = { make = peri.Runner },
  ProcessPoolExecutor = { make = function()
    local executor <close> = futures.ProcessPoolExecutor { max_workers = 1 }
    return executor
  end },
  ThreadPoolExecutor = { make = function()
    local executor <close> = futures.ThreadPoolExecutor { max_workers = 1 }
    return executor
  end },
  Executor = { methods = core.Executor },
  JobFuture = { methods = core.JobFuture },
  File = { make = function()
    local file <close> = fs.open "/dev/null"
    return file
  end },
  Watch = { methods = watch_meta.methods, make = function()
    local watch <close> = fs.watch "/"
    return watch
  end },
  DatagramSocket = { methods = socket_meta.methods, make = net.create_datagram_endpoint },
}

classes.Process = { make = function()
  local process = require "perilune.subprocess".create_subprocess_exec("cat",
    { stdin = -1, stdout = -1, stderr = -1 })
  process:communicate()
  return process
end }
classes.CompletedProcess = { make = function()
  return require "perilune.subprocess".run("true", { capture = true })
end }
local native = require "perilune._net"
classes.Stream = { methods = native.Stream }
classes.Server = { methods = native.Server.methods, make = function()
  local server <close> = net.start_server(function() end, "127.0.0.1", 0)
  return server
end }

classes.SignalStream = { make = function()
  local stream <close> = require "perilune.signal".stream "SIGHUP"
  return stream
end }

-- What is described as a class, but is none; and what scripts do not see.
local shapes = {
  Awaitable = true, Closable = true, RunnerOptions = true, ThreadPoolOptions = true, ServerSocket = true,
  TaskOptions = true,
  Stat = true, TaskSnapshot = true,
}
local private = { RawMode = true, Session = true, ["completion.World"] = true }

local function methods_of(class)
  return class.methods or class_table(class.make())
end

local function public_functions(methods)
  local names = {}
  for name, value in pairs(methods) do
    if type(name) == "string" and type(value) == "function" and not name:find "^_" then
      names[#names + 1] = name
    end
  end
  table.sort(names)
  return names
end

-- A link is followed to what it leads to.
local function resolve(member)
  if member and member.kind == "link" then
    local module = all["module " .. member.module]
    return module and module.members[member.key] or member
  end
  return member
end

-- Every public function and method, as "perilune.sleep", "Queue:get": a method
-- by the class that declares it.
local function each_function(visit)
  local seen = {}
  for module, value in pairs(modules) do
    for name in pairs(value) do
      if type(value[name]) == "function" then
        visit(module .. "." .. name, resolve(all[module].members[name]))
      end
    end
  end
  for name, class in pairs(classes) do
    for _, method in ipairs(public_functions(methods_of(class))) do
      local member, where = declarations.find(all, all["perilune." .. name], method)
      local full = (where and where.name:match "[%w_]+$" or name) .. ":" .. method
      if not seen[full] then visit(full, member) end
      seen[full] = true
    end
  end
end

-- Collects what is wrong, to tell all of it at once.
local function complaints()
  local list = {}
  return list, function(condition, format, ...)
    if not condition then list[#list + 1] = format:format(...) end
    return condition
  end
end

local function none(list)
  table.sort(list)
  assert.equal("", table.concat(list, "\n"))
end

describe("the declarations", function()
  it("have every name of the public modules", function()
    local wrong, expect = complaints()
    for module, value in pairs(modules) do
      for name in pairs(value) do
        expect(all[module].members[name], "%s.%s is not declared", module, name)
      end
    end
    none(wrong)
  end)

  it("have no name that the public modules lack", function()
    local wrong, expect = complaints()
    for module, value in pairs(modules) do
      for name, member in pairs(all[module].members) do
        expect(value[name] ~= nil, "%s: there is no %s.%s", member.place, module, name)
      end
    end
    none(wrong)
  end)

  it("lead to the modules that the names come from", function()
    local wrong, expect = complaints()
    for name, member in pairs(all.perilune.members) do
      if member.kind == "link" then
        expect(name == member.key and require(member.module)[name] == peri[name],
          "%s: perilune.%s is not that of %s", member.place, name, member.module)
      end
    end
    none(wrong)
  end)

  it("have every method of the public classes", function()
    local wrong, expect = complaints()
    for name, class in pairs(classes) do
      local declared = all["perilune." .. name]
      if expect(declared, "class %s is not declared", name) then
        for _, method in ipairs(public_functions(methods_of(class))) do
          expect(declarations.find(all, declared, method), "%s:%s is not declared", name, method)
        end
      end
    end
    none(wrong)
  end)

  it("have no method or field that objects of the class lack", function()
    local wrong, expect = complaints()
    for name, class in pairs(classes) do
      local methods, object = methods_of(class), class.make and class.make()
      for member_name, member in pairs(all["perilune." .. name].members) do
        local there = rawget(methods, member_name) ~= nil or member.optional
          or object ~= nil and object[member_name] ~= nil
        expect(there, "%s: there is no %s.%s", member.place, name, member_name)
      end
    end
    none(wrong)
  end)

  it("are of classes that this spec knows", function()
    local wrong, expect = complaints()
    for _, class in pairs(all) do
      local name = class.name
      local short = name:match "^perilune%.([%w_.]+)$"
      local known = not class.place or name == "perilune" or modules[name] or classes[short]
        or shapes[short] or private[short] or errors[short]
      expect(known, "%s: what is class %s? Tell types_spec.lua", class.place, name)
    end
    none(wrong)
  end)

  it("have every error class, with its parents", function()
    local wrong, expect = complaints()
    for name, class in pairs(errors) do
      if type(class) == "table" then
        local declared = all["perilune." .. name]
        if expect(declared and declared.text, "error class %s is not described", name) then
          local parents = declared.parents
          local parent = errors.parent(class)
          expect((parents[1] or "") == (parent and "perilune." .. parent.__name or ""),
            "%s: the parent of %s", declared.place, name)
          for _, ancestor in ipairs(parents) do
            expect(errors[ancestor:match "[%w_]+$"]:is(class()), "%s: %s is no %s", declared.place, name, ancestor)
          end
        end
      end
    end
    none(wrong)
  end)

  it("have the fields and methods of errors", function()
    local wrong, expect = complaints()
    local function check(err)
      local name = getmetatable(err).__name
      local class = all["perilune." .. name]
      for key in pairs(err) do
        if type(key) == "string" then
          expect(declarations.find(all, class, key), "%s.%s is not declared", name, key)
        end
      end
      for key, value in pairs(getmetatable(err)) do
        if not key:find "^__" and type(value) == "function" then
          expect(declarations.find(all, class, key), "%s:%s is not declared", name, key)
        end
      end
    end
    local _, os_error = pcall(peri.get_running_loop().add_reader, peri.get_running_loop(), 1023, print)
    assert.is_true(peri.OSError:is(os_error), tostring(os_error))
    check(os_error)
    for _, field in ipairs { "code", "errno", "syscall" } do assert.is_not_nil(os_error[field]) end
    local _, group = pcall(peri.TaskGroup, error, "x")
    assert.is_true(peri.ExceptionGroup:is(group))
    check(group)
    for name, class in pairs(errors) do
      if type(class) == "table" then check(class(name)) end
    end
    none(wrong)
  end)
end)

-- Names of parameters that are times.
local times <const> = { delay = true, timeout = true, seconds = true, when = true, grace = true, dt = true }

-- What may wait, be it the call or the iterator that it gives.
local may_wait <const> = {
  "Barrier:abort", "Barrier:guard", "Barrier:reset", "Barrier:wait", "Condition:acquire",
  "Condition:guard", "Condition:wait", "Condition:wait_for", "Context:run", "Coroutine:await",
  "DatagramSocket:recv", "DatagramSocket:send", "Event:wait", "Executor:map", "Executor:shutdown",
  "Executor:submit", "File:close", "File:lines",
  "File:pread", "File:pwrite", "File:read", "File:readline", "File:seek", "File:stat", "File:sync",
  "File:truncate", "File:write", "Future:await",
  "JobFuture:await", "JobFuture:exception", "JobFuture:result", "Lock:acquire", "Lock:guard", "Loop:run_forever",
  "Loop:run_until_complete", "Loop:shutdown_default_executor", "Process:communicate",
  "Process:wait", "Queue:get", "Queue:items", "Queue:join", "Queue:put", "Runner:close",
  "Runner:run", "Semaphore:acquire", "Semaphore:guard", "Server:serve_forever",
  "Server:start_serving", "Server:wait_closed", "SignalStream:get", "Stream:drain",
  "Stream:forward", "Stream:lines", "Stream:read", "Stream:readexactly", "Stream:readline",
  "Stream:readuntil", "Stream:wait_closed", "Watch:next", "perilune.TaskGroup",
  "perilune.all", "perilune.as_completed", "perilune.await", "perilune.fs.access",
  "perilune.fs.append_file", "perilune.fs.chmod", "perilune.fs.copyfile", "perilune.fs.glob",
  "perilune.fs.link", "perilune.fs.lstat", "perilune.fs.mkdir", "perilune.fs.mkdirp",
  "perilune.fs.mkdtemp", "perilune.fs.open", "perilune.fs.read_file", "perilune.fs.readlink",
  "perilune.fs.realpath", "perilune.fs.remove", "perilune.fs.rename", "perilune.fs.rmdir",
  "perilune.fs.scandir", "perilune.fs.stat", "perilune.fs.symlink", "perilune.fs.tmpfile",
  "perilune.fs.utime", "perilune.fs.walk", "perilune.fs.watch", "perilune.fs.write_file",
  "perilune.futures.as_completed", "perilune.futures.shutdown_default_executor",
  "perilune.futures.wait", "perilune.map", "perilune.move_on_after",
  "perilune.pcall", "perilune.race", "perilune.run", "perilune.sleep", "perilune.subprocess.run",
  "perilune.timeout", "perilune.timeout_at", "perilune.to_thread", "perilune.wait",
  "perilune.wait_for", "perilune.xpcall", "perilune.yieldable.gsub", "perilune.yieldable.require",
  "perilune.yieldable.sort", "perilune.yieldable.tostring", "perilune.yieldable.xpcall",
}

describe("what is declared", function()
  it("is described", function()
    local wrong, expect = complaints()
    each_function(function(name, member)
      expect(member and member.doc and member.doc.text:find "%a", "%s is not described", name)
    end)
    none(wrong)
  end)

  it("has its parameters, in their order, and no others", function()
    local wrong, expect = complaints()
    each_function(function(name, member)
      if not member or not member.names then return end
      local documented = {}
      for i, param in ipairs(member.doc.params) do documented[i] = param.name end
      local given, wanted = table.concat(documented, ", "), table.concat(member.names, ", ")
      expect(given == wanted, "%s: %s(%s) has @param for (%s)", member.place, name, wanted, given)
    end)
    none(wrong)
  end)

  it("tells the unit of times", function()
    local wrong, expect = complaints()
    each_function(function(name, member)
      for _, param in ipairs(member and member.doc and member.doc.params or {}) do
        if times[param.name] or param.text:find "timeout: number" or param.text:find "grace: number" then
          expect(param.text:find "second", "%s: %s of %s has no unit", member.place, param.name, name)
        end
      end
    end)
    none(wrong)
  end)

  it("is marked as asynchronous if it may wait", function()
    local marked = {}
    each_function(function(name, member)
      if member and member.doc and member.doc.async then marked[#marked + 1] = name end
    end)
    table.sort(marked)
    assert.equal(table.concat(may_wait, "\n"), table.concat(marked, "\n"))
  end)
end)
