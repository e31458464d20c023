local futures = require "perilune.futures"
local log = require "perilune.log"
local peri = require "perilune"
local support = require "support"
local raises, spin, top_level = support.raises, support.spin, support.top_level

-- "FILE:LINE" of the caller, some lines on.
local function here(lines)
  local info = debug.getinfo(2, "Sl")
  return ("%s:%d"):format(info.short_src, info.currentline + (lines or 0))
end

-- Where a function is defined.
local function place(fn)
  local info = debug.getinfo(fn, "S")
  return ("%s:%d"):format(info.short_src, info.linedefined)
end

-- Everything that is logged from now on, in one text. Reports that nobody takes
-- are logged, too. Times are told as N.
local function everything_logged()
  local records = support.log()
  peri.get_running_loop():set_exception_handler(nil)
  return function()
    return (table.concat(records, "\n"):gsub("%d+%.%d%d%d (%l+)", "N %1"))
  end
end

local function contains(text, part)
  if not text:find(part, 1, true) then
    error(("expected\n%s\nin\n%s"):format(part, text), 2)
  end
end

-- Each provokes a report and returns what is to be found in the log, place
-- included. `also` says that the report is made outside of debug mode, too, but
-- for what is expected here.
local reports = {
  {
    "a coroutine object that was never awaited",
    function()
      local function never() end
      local at = here(1)
      peri.call(never, 1, 2)
      return "WARNING RuntimeWarning: <coroutine object " .. place(never)
        .. "> was never awaited\ncreated at:\n\t" .. at .. ": in "
    end,
  },
  {
    "a coroutine object of a function of C's",
    function()
      local at = here(1)
      peri.call(peri.sleep, 1)
      return "WARNING RuntimeWarning: <coroutine object perilune.sleep> was never awaited\n"
        .. "created at:\n\t" .. at
    end,
  },
  {
    "a coroutine object that an async function made",
    function()
      local function never() end
      local f = peri.async(never)
      local at = here(1)
      f()
      return "<coroutine object " .. place(never) .. "> was never awaited\ncreated at:\n\t" .. at
    end,
  },
  {
    "a timeout scope that nothing closes",
    function()
      local at = here(1)
      peri.timeout(nil)
      return "WARNING ResourceWarning: unclosed timeout scope\ncreated at:\n\t" .. at
    end,
  },
  {
    "a task group that nothing closes",
    function()
      local at = here(1)
      peri.TaskGroup()
      return "WARNING ResourceWarning: unclosed task group\ncreated at:\n\t" .. at
    end,
  },
  {
    "a guard that nothing closes",
    function()
      local lock, semaphore = peri.Lock(), peri.Semaphore(1)
      local at = here(1)
      lock:guard()
      semaphore:guard()
      return "WARNING ResourceWarning: unclosed Lock guard\ncreated at:\n\t" .. at,
        "WARNING ResourceWarning: unclosed Semaphore guard\ncreated at:\n\t"
    end,
  },
  {
    "a deferred call that nothing closes",
    function()
      local at = here(1)
      peri.defer(print)
      return "WARNING ResourceWarning: unclosed deferred call\ncreated at:\n\t" .. at
    end,
  },
  {
    "a clock's scope that nothing closes",
    function()
      local at = here(2)
      peri.create_task(function()
        peri.use_clock(peri.Clock())
      end):await()
      return "WARNING ResourceWarning: unclosed clock scope\ncreated at:\n\t" .. at
    end,
  },
  {
    "an executor that nobody shut down",
    function()
      local at = here(1)
      futures.ThreadPoolExecutor { max_workers = 1 }
      return "WARNING ResourceWarning: unclosed ThreadPoolExecutor\ncreated at:\n\t" .. at
    end,
  },
  {
    "a slow step of a task, with where it waits then",
    function(loop)
      loop.slow_callback_duration = 0
      local waits
      local function work()
        waits = here(1)
        peri.sleep(1)
      end
      local at = here(1)
      local task = peri.create_task { work, name = "worker" }
      task:await()
      return ("WARNING Executing <Task worker pending, %s, waits at %s, created at %s> "
        .. "took N seconds"):format(place(work), waits, at),
        ("WARNING Executing <Task worker finished, %s, created at %s> took N seconds")
        :format(place(work), at)
    end,
  },
  {
    "a slow callback of call_soon",
    function(loop)
      loop.slow_callback_duration = 0
      local function callback() end
      local at = here(1)
      loop:call_soon(callback)
      peri.sleep(0)
      return ("WARNING Executing <a call_soon callback, %s, created at %s> took N seconds")
        :format(place(callback), at)
    end,
  },
  {
    "a slow callback of call_soon_threadsafe",
    function(loop)
      loop.slow_callback_duration = 0
      local at = here(1)
      loop:call_soon_threadsafe(rawlen, "")
      peri.sleep(0)
      return "Executing <a call_soon callback, rawlen, created at " .. at .. "> took N seconds"
    end,
  },
  {
    "a slow callback of call_later and call_at",
    function(loop)
      loop.slow_callback_duration = 0
      local function callback() end
      local at = here(1)
      loop:call_later(1, callback)
      local later = here(1)
      loop:call_at(loop:time() + 2, setmetatable({}, { __call = callback }))
      peri.sleep(3)
      local text = "WARNING Executing <a call_later callback, %s, created at %s> took N seconds"
      return text:format(place(callback), at), text:format(place(callback), later)
    end,
  },
  {
    "a slow done callback",
    function(loop)
      loop.slow_callback_duration = 0
      local future = peri.Future()
      local function callback() end
      future:add_done_callback(callback)
      future:set_result()
      peri.sleep(0)
      return ("WARNING Executing <a done callback, %s> took N seconds"):format(place(callback))
    end,
  },
  {
    "a slow reader callback",
    function(loop)
      local reader, _, writer = support.pipe()
      local ready = peri.Future()
      local function callback()
        loop:remove_reader(reader)
        ready:set_result()
      end
      loop.slow_callback_duration = 0
      loop:add_reader(reader, callback)
      writer:write "x"
      ready:await()
      reader:close()
      writer:close()
      return ("WARNING Executing <a reader callback, %s> took N seconds"):format(place(callback))
    end,
  },
  {
    "a cancellation that a task swallowed",
    function()
      local function deaf() pcall(peri.sleep, 1) end
      local at = here(1)
      local task = peri.create_task { deaf, name = "deaf" }
      peri.sleep(0)
      task:cancel()
      task:await()
      return ("WARNING <Task deaf finished, %s, created at %s> swallowed a cancellation: "
        .. "it has ended well, with cancelling() == 1"):format(place(deaf), at)
    end,
  },
  {
    "where a task was made whose error was never retrieved",
    function()
      local at = here(1)
      peri.create_task(error, "lost", 0)
      peri.sleep(0)
      return "Task%-%d+ was created at:\n\t" .. support.literal(at) .. ": in "
    end,
    also = "ERROR Task exception was never retrieved",
    pattern = true,
  },
  {
    "where a future was made whose error was never retrieved",
    function(loop)
      local at = here(1)
      loop:create_future():set_exception "lost"
      return "lost\ncreated at:\n\t" .. at
    end,
    also = "ERROR Future exception was never retrieved",
  },
  {
    "where a task was spawned that failed",
    function()
      local at = here(1)
      peri.spawn(error, "spawned", 0)
      peri.sleep(0)
      return " was created at:\n\t" .. at
    end,
    also = "ERROR a spawned task failed",
  },
  {
    "where the call was made whose callback failed",
    function(loop)
      local at = here(1)
      loop:call_soon(error, "in a callback", 0)
      peri.sleep(0)
      return "created at:\n\t" .. at
    end,
    also = "ERROR an error in a call_soon callback\nin a callback",
  },
  {
    "where a task was made that a loop leaves pending",
    function()
      local loop, _ <close> = support.loop()
      loop:set_debug(peri.get_running_loop():get_debug())
      local at = here(1)
      loop:create_task { peri.sleep, 1, name = "left" }
      loop:close()
      return "created at:\n\t" .. at
    end,
    also = "ERROR Task was destroyed but it is pending!\ntask: left",
  },
  {
    "where a task was made that fails after its group",
    function()
      local at
      peri.create_task(function()
        local group = peri.TaskGroup()
        peri.create_task(function()
          at = here(1)
          group:create_task(function()
            pcall(peri.sleep, 1)
            error("late", 0)
          end)
        end):await()
        coroutine.close(coroutine.create(function() local _ <close> = group end))
        local generator = coroutine.create(function()
          local _ <close> = group
          coroutine.yield()
        end)
        coroutine.resume(generator)
        coroutine.close(generator)
      end):await()
      return "was created at:\n\t" .. at
    end,
    also = "late",
  },
}

local function provoke(case, on)
  local loop = peri.get_running_loop()
  local logged = everything_logged()
  loop:set_debug(on)
  local expected = table.pack(case[2](loop))
  support.collect()
  loop:set_debug(false)
  return logged(), expected
end

describe("debug mode reports", function()
  for _, case in ipairs(reports) do
    it(case[1], function()
      local text, expected = provoke(case, true)
      if case.also then contains(text, case.also) end
      for i = 1, expected.n do
        if case.pattern then
          assert.matches(expected[i], text)
        else
          contains(text, expected[i])
        end
      end
    end)
  end
end)

describe("outside of debug mode nobody is told of", function()
  for _, case in ipairs(reports) do
    it(case[1], function()
      local text, expected = provoke(case, false)
      if not case.also then
        assert.equal("", text)
        return
      end
      contains(text, case.also)
      for i = 1, expected.n do
        assert.is_nil(text:find(expected[i], 1, not case.pattern))
      end
    end)
  end
end)

describe("debug mode", function()
  it("can be turned on and off while the loop runs, for what is made then", function()
    local loop = peri.get_running_loop()
    local logged = everything_logged()
    loop.slow_callback_duration = 0
    for _ = 1, 10 do peri.create_task(function() end):await() end -- coroutines to use again
    peri.sleep(0)
    assert.equal("", logged())
    loop:set_debug(true)
    local at = here(1)
    local task = peri.create_task(function() end)
    task:await()
    contains(logged(), "created at " .. at .. "> took N seconds")
    loop:set_debug(false)
    peri.sleep(0)
    local before = logged()
    local silent = peri.create_task(function() end)
    spin(3)
    peri.call(print)
    support.collect()
    assert.equal(before, logged())
    assert.matches("^<Task Task%-%d+ finished>$", tostring(silent))
    task:result()
  end)

  -- At the top level, where there is no context: else the children have objects.
  it("can be turned on among the children of a gather", top_level(function()
    local loop = peri.get_running_loop()
    local logged = everything_logged()
    local function child(x)
      peri.sleep(0)
      peri.sleep(0.001)
      return x
    end
    local calls = {}
    for i = 1, 3 do calls[i] = function() return child(i) end end
    local gather = peri.gather(calls)
    peri.sleep(0)
    loop.slow_callback_duration = 0
    loop:set_debug(true)
    local values = gather:await()
    local more = peri.gather(calls):await()
    loop:set_debug(false)
    loop.slow_callback_duration = 0.1
    assert.same({ 1, 2, 3, n = 3 }, values)
    assert.same({ 1, 2, 3, n = 3 }, more)
    assert.matches("Executing <Task Task%-%d+ finished> took N seconds", logged())
    contains(logged(), " finished, " .. place(calls[3]) .. ", created at ")
  end))

  it("does not tell of what was ended as it should be", function()
    local loop = peri.get_running_loop()
    local logged = everything_logged()
    loop:set_debug(true)
    loop.slow_callback_duration = 3600
    do
      local _ <close> = peri.timeout(1)
      local _ <close> = peri.TaskGroup()
      local _ <close> = peri.Lock():guard()
      local _ <close> = peri.defer(function() end)
      local _ <close> = peri.use_clock(peri.Clock { kind = "virtual" })
      local _ <close> = peri.call(print)
    end
    peri.timeout(1, function() end)
    peri.TaskGroup(function() end)
    peri.call(function() end):await()
    peri.create_task(peri.call(function() end)):await()
    peri.call(print):close()
    peri.gather(peri.call(function() end), function() end):await()
    futures.ThreadPoolExecutor():shutdown()
    loop:set_default_executor(futures.ThreadPoolExecutor())
    peri.new_event_loop():close()
    support.collect()
    assert.equal("", logged())
  end)

  it("does not tell of a cancellation that a scope took back", function()
    local loop = peri.get_running_loop()
    local logged = everything_logged()
    loop:set_debug(true)
    loop.slow_callback_duration = 3600
    peri.create_task(function()
      assert.is_false((peri.move_on_after(1, peri.sleep, 2)))
      pcall(peri.wait_for, peri.call(peri.sleep, 2), 1)
      pcall(peri.TaskGroup, function(group)
        group:create_task(error, "fails")
        peri.sleep(1)
      end)
    end):await()
    local task = peri.create_task(function()
      pcall(peri.sleep, 1)
      peri.current_task():uncancel()
    end)
    peri.sleep(0)
    task:cancel()
    task:await()
    local gone = peri.create_task(peri.sleep, 1)
    peri.sleep(0)
    gone:cancel()
    pcall(gone.await, gone)
    assert.equal("", logged())
  end)

  it("times only what takes as long as slow_callback_duration", function()
    local loop = peri.get_running_loop()
    local logged = everything_logged()
    loop:set_debug(true)
    loop.slow_callback_duration = 0.001
    loop:call_soon(function()
      local start = os.clock()
      repeat until os.clock() - start > 0.002
    end)
    loop:call_soon(function() loop.slow_callback_duration = 3600 end)
    peri.sleep(0)
    loop:set_debug(false)
    local _, count = logged():gsub("Executing <a call_soon callback", "")
    assert.equal(1, count)
  end)

  it("has slow_callback_duration be a number", function()
    local loop = peri.get_running_loop()
    assert.equal(0.1, loop.slow_callback_duration)
    raises(peri.TypeError, "slow_callback_duration is a number of seconds, not a string",
      function() loop.slow_callback_duration = "long" end)
    raises(peri.ValueError, "slow_callback_duration cannot be NaN",
      function() loop.slow_callback_duration = 0 / 0 end)
  end)

  it("shows in an error's stacks where each task was made", function()
    local loop = peri.get_running_loop()
    loop:set_debug(true)
    local function inner() error(peri.ValueError "deep") end
    local inner_at, outer_at
    local function outer()
      inner_at = here(1)
      peri.create_task { inner, name = "inner" }:await()
    end
    outer_at = here(1)
    local task = peri.create_task { outer, name = "outer" }
    local ok, err = pcall(task.await, task)
    loop:set_debug(false)
    assert.is_false(ok)
    local order = {
      "in function 'error'", "inner was created at:\n\t" .. inner_at,
      "in task outer:", "in function 'await'", "outer was created at:\n\t" .. outer_at,
    }
    local from = 1
    for _, part in ipairs(order) do
      local _, last = err.traceback:find(part, from, true)
      assert(last, part .. " is missing in\n" .. err.traceback)
      from = last
    end
  end)

  it("gives exception handlers the stack as source_traceback", function()
    local loop = peri.get_running_loop()
    local contexts = support.reports()
    loop:set_debug(true)
    local at = here(1)
    peri.create_task(error, "lost", 0)
    peri.sleep(0)
    support.collect()
    loop:set_debug(false)
    assert.equal("lost", contexts[1].exception)
    contains(contexts[1].source_traceback, "stack traceback:\n\t" .. at .. ": in ")
    assert.equal(1, #contexts)
  end)

  it("shows tasks, futures and handles as text with what is known of them", function()
    local loop = peri.get_running_loop()
    loop:set_debug(true)
    local function work() peri.sleep(1) end
    local at = here(1)
    local task, future, handle = peri.create_task(work), peri.Future(), loop:call_later(1, work)
    local text = (", created at %s>"):format(at)
    assert.matches("^<Task Task%-%d+ pending, " .. support.literal(place(work) .. text) .. "$",
      tostring(task))
    assert.equal("<Future pending" .. text, tostring(future))
    assert.equal(("<TimerHandle pending, %s%s"):format(place(work), text), tostring(handle))
    handle:cancel()
    task:await()
    loop:set_debug(false)
  end)

  it("names the function of the script's, not the library's around it", function()
    local loop = peri.get_running_loop()
    loop:set_debug(true)
    local context = peri.copy_context()
    local function mine() end
    local task = peri.create_task(context.run, context, mine)
    contains(tostring(task), ", " .. place(mine) .. ", created at ")
    task:await()
    loop:set_debug(false)
  end)

  it("reports the failure of a log handler, which cannot wait", function()
    local loop = peri.get_running_loop()
    local contexts = support.reports()
    log.set_handler(function() peri.sleep(1) end)
    loop:set_debug(true)
    peri.call(print)
    support.collect()
    loop:set_debug(false)
    assert.equal("an error in a log handler", contexts[1].message)
    assert.is_true(peri.RuntimeError:is(contexts[1].exception))
    assert.matches("cannot wait in 'sleep'", contexts[1].exception.message, 1, true)
  end)

  it("tells how long each poll took, at level DEBUG", top_level(function()
    local loop = peri.get_running_loop()
    local logged = everything_logged()
    log.set_level "DEBUG"
    loop:set_debug(true)
    loop.slow_callback_duration = 3600
    local waited, seconds = "DEBUG poll N ms took N ms: timeout", 0.001
    repeat -- a busy machine may be late enough for no wait to be left
      seconds = seconds * 2
      peri.sleep(seconds)
    until seconds > 5 or logged():find(waited, 1, true)
    local reader, _, writer = support.pipe()
    local ready = peri.Future()
    loop:add_reader(reader, function()
      loop:remove_reader(reader)
      ready:set_result()
    end)
    loop:call_soon(writer.write, writer, "x")
    ready:await()
    loop:set_debug(false)
    log.set_level "WARNING"
    reader:close()
    writer:close()
    contains(logged(), waited)
    contains(logged(), "DEBUG poll took N ms: 1 event")
  end))

  it("is set by Runner{debug=} for its loop", top_level(function()
    local records = support.log()
    local runner <close> = peri.Runner { debug = true }
    local at
    runner:run(function()
      at = here(1)
      peri.call(print)
      support.collect()
    end)
    contains(records[1], "was never awaited\ncreated at:\n\t" .. at)
    assert.is_false(peri.get_running_loop():get_debug())
    peri.call(print)
    support.collect()
    assert.equal(1, #records)
  end))
end)

describe("the debug mode of a program", function()
  local code = [[
    local peri = require "perilune"
    local function work() end
    kept = peri.call(work)
    loop = peri.new_event_loop()
    print(peri.get_running_loop():get_debug(), loop:get_debug())
  ]]

  local function expect_reports(out, err, status)
    assert.same({ "true\ttrue\n", 0 }, { out, status })
    assert.matches("WARNING perilune: RuntimeWarning: <coroutine object [^\n]*:2> was never awaited\n"
      .. "created at:\n\t[^\n]*:3: in main chunk", err)
    assert.matches("WARNING perilune: ResourceWarning: unclosed event loop <loop idle, 0 tasks>\n"
      .. "created at:\n\t[^\n]*:4: in main chunk", err)
  end

  local function expect_silence(out, err, status)
    assert.same({ "false\tfalse\n", "", 0 }, { out, err, status })
  end

  it("is set by --debug, and what is held to the end is told of then", function()
    expect_reports(support.run_program { "--debug", support.file(code) })
  end)

  it("is set by PERILUNE_DEBUG, unless that is 0 or empty", function()
    expect_reports(support.run_program { support.file(code), env = "PERILUNE_DEBUG=1" })
    expect_silence(support.run_program { support.file(code), env = "PERILUNE_DEBUG=0" })
    expect_silence(support.run_program { support.file(code), env = "PERILUNE_DEBUG=" })
    expect_silence(support.run_program { support.file(code) })
  end)

  it("is not set by PERILUNE_DEBUG under -E", function()
    expect_silence(support.run_program { "-E", support.file(code), env = "PERILUNE_DEBUG=1" })
  end)
end)

describe("the debug mode of stock lua5.4", function()
  local code = [[
    local peri = require "perilune"
    peri.run(function()
      print(peri.get_running_loop():get_debug())
      peri.call(print)
    end)
    loop = peri.new_event_loop()
  ]]

  it("is set by PERILUNE_DEBUG", function()
    local out, err, status = support.run_stock(code, { env = "PERILUNE_DEBUG=1" })
    assert.same({ "true\n", 0 }, { out, status })
    assert.matches("RuntimeWarning: <coroutine object print> was never awaited\n"
      .. "created at:\n\t[^\n]*:4: in ", err)
    assert.matches("ResourceWarning: unclosed event loop <loop idle, 0 tasks>\n"
      .. "created at:\n\t[^\n]*:6: in main chunk", err)
  end)

  it("is off otherwise, and under -E", function()
    assert.same({ "false\n", "", 0 }, { support.run_stock(code) })
    -- which has lua5.4 forget LUA_CPATH as well
    local found = "package.cpath = arg[1] " .. code
    assert.same({ "false\n", "", 0 }, { support.run_stock(found, {
      env = "PERILUNE_DEBUG=1", options = "-E", argument = support.stock_cpath(),
    }) })
  end)
end)
