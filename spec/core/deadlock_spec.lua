-- Runs that would block for ever. The tests stand at the script's top level,
-- where they may run loops of their own.
local peri = require "perilune"
local support = require "support"
local trace, top_level = support.trace, support.top_level

local place = debug.getinfo(1, "S").short_src

-- The message of the DeadlockError that a call raises, with the line numbers of
-- this file and the addresses taken out.
local function stuck(fn, ...)
  local ok, err = pcall(fn, ...)
  assert.is_false(ok)
  assert.is_true(peri.DeadlockError:is(err), tostring(err))
  return (err.message:gsub(place:gsub("%p", "%%%0") .. ":%d+", "HERE"):gsub("0x%x+", "0x"))
end

local function wait_for_ever()
  peri.Future():await()
end

describe("a run that would block for ever", function()
  it("raises DeadlockError, which tells what each task waits for", top_level(function()
    assert.equal([[
nothing can happen any more: 5 tasks wait for ever
  main at HERE: awaits owner
  owner at HERE: waits in Queue.get (<Queue of 0 items>)
  needy at HERE: waits in Lock.acquire (Lock: 0x), held by owner
  group at HERE: waits in end of TaskGroup
  child at HERE: waits in wait]], stuck(peri.run, function()
      peri.current_task():set_name "main"
      local lock, queue = peri.Lock(), peri.Queue()
      local owner = peri.create_task { name = "owner", function()
        local _ <close> = lock:guard()
        queue:get()
      end }
      peri.create_task { name = "needy", function() lock:acquire() end }
      peri.create_task { name = "group", function()
        local group <close> = peri.TaskGroup()
        group:create_task { name = "child", function() peri.wait { peri.Future() } end }
      end }
      owner:await()
    end))
  end))

  it("tells the line of the script's innermost frame", top_level(function()
    local _, err = pcall(peri.run, function()
      local generator = coroutine.wrap(wait_for_ever)
      generator()
    end)
    local line = debug.getinfo(wait_for_ever, "S").linedefined + 1
    assert.matches(("at %s:%d: awaits Future"):format(place, line), err.message, 1, true)
  end))

  it("cancels all tasks first, and waits for them", top_level(function()
    local lines, say = trace()
    stuck(peri.run, function()
      for i = 1, 2 do
        peri.create_task(function()
          local _ <close> = support.finally(function(err)
            peri.sleep(0.001)
            say(i, peri.iscancel(err))
          end)
          wait_for_ever()
        end)
      end
      local ok, err = pcall(wait_for_ever)
      say("main", ok, peri.iscancel(err))
    end)
    assert.same({ "main false true", "1 true", "2 true" }, lines)
  end))

  it("kills tasks that swallow the cancellation, and closes those that swallow that",
    top_level(function()
      local lines, say = trace()
      stuck(peri.run, function()
        peri.create_task(function()
          local _ <close> = support.finally(function() say("killed", peri.sleep(0, true)) end)
          for i = 1, 3 do say("swallowed", i, pcall(wait_for_ever)) end
        end)
        peri.create_task(function()
          local _ <close> = support.finally(function() wait_for_ever() end)
          wait_for_ever()
        end)
        wait_for_ever()
      end)
      assert.same({ "swallowed 1 false CancelledError", "killed true" }, lines)
    end))

  it("leaves a Runner that runs on", top_level(function()
    local runner <close> = peri.Runner()
    stuck(runner.run, runner, wait_for_ever)
    assert.equal(0, #peri.all_tasks(runner:get_loop()))
    assert.equal("ok", runner:run(peri.sleep, 0, "ok"))
  end))

  it("leaves a loop that runs on", top_level(function()
    local loop, _ <close> = support.loop()
    assert.equal("nothing can happen any more: no task is left that could end the run",
      stuck(loop.run_until_complete, loop, loop:create_future()))
    assert.equal("ok", loop:run_until_complete(peri.call(peri.sleep, 0, "ok")))
  end))

  it("touches nothing of the loop that is parked meanwhile", top_level(function()
    local future = peri.Future()
    local task = peri.create_task(future.await, future)
    peri.sleep(0)
    assert.matches("1 task waits for ever", stuck(peri.run, wait_for_ever), 1, true)
    assert.is_false(task:done())
    future:set_result "later"
    assert.equal("later", task:await())
  end))

  it("reports errors that the end of the tasks brings", top_level(function()
    local reports
    stuck(peri.run, function()
      reports = support.reports()
      peri.create_task(function()
        local _ <close> = support.finally(function() error("at the end", 0) end)
        wait_for_ever()
      end)
      wait_for_ever()
    end)
    assert.equal(1, #reports)
    assert.equal("at the end", reports[1].exception)
  end))

  it("names twenty tasks, and how many more there are", top_level(function()
    local message = stuck(peri.run, function()
      for _ = 1, 29 do peri.create_task(wait_for_ever) end
      wait_for_ever()
    end)
    assert.matches("30 tasks wait for ever", message, 1, true)
    assert.matches("\n  and 10 more$", message)
    assert.equal(21, select(2, message:gsub("\n", "")))
  end))

  it("is one whose tasks all sleep on clocks that nobody can advance", top_level(function()
    assert.matches("waits in sleep, 5 s to go on a manual clock", stuck(peri.run, function()
      local _ <close> = peri.use_clock(peri.Clock { kind = "manual" })
      peri.sleep(5)
    end), 1, true)
    assert.matches("waits in sleep, 5 s to go on a paused clock", stuck(peri.run, function()
      local clock = peri.Clock { kind = "virtual" }
      clock:pause()
      local _ <close> = peri.use_clock(clock)
      peri.sleep(5)
    end), 1, true)
  end))

  it("is found at the end of virtual time", top_level(function()
    local runner <close> = peri.Runner { clock = peri.Clock { kind = "virtual" } }
    local slept
    stuck(runner.run, runner, function()
      slept = peri.sleep(3600, true)
      wait_for_ever()
    end)
    assert.is_true(slept)
  end))

  it("is found in the job of a worker thread, which raises the error here", function()
    local ok, err = pcall(peri.to_thread, function()
      require "perilune".Future():await()
    end)
    assert.is_false(ok)
    assert.is_true(peri.DeadlockError:is(err))
    assert.matches("^nothing can happen any more: 1 task waits for ever\n", err.message)
  end)
end)

describe("a run is not stuck", function()
  it("while a finaliser may wake somebody", top_level(function()
    assert.equal("woken", peri.run(function()
      local future = peri.Future()
      setmetatable({}, { __gc = function() future:set_result "woken" end })
      return future:await()
    end))
  end))

  it("while a timer runs", top_level(function()
    assert.equal("timed", peri.run(function()
      local future = peri.Future()
      peri.get_running_loop():call_later(0.001, future.set_result, future, "timed")
      return future:await()
    end))
  end))

  it("while a reader waits", top_level(function()
    local reader, fd, writer = support.pipe()
    assert.equal("read", peri.run(function()
      local future, loop = peri.Future(), peri.get_running_loop()
      loop:add_reader(fd, function()
        loop:remove_reader(fd)
        future:set_result(reader:read(4))
      end)
      os.execute(("{ sleep 0.01; printf read; } >/proc/%s/fd/%d &"):format(
        io.open "/proc/self/stat":read "n", fd))
      return future:await()
    end))
    reader:close()
    writer:close()
  end))

  it("while a signal has a handler", top_level(function()
    assert.equal("SIGUSR2", peri.run(function()
      local future, loop = peri.Future(), peri.get_running_loop()
      loop:add_signal_handler("SIGUSR2", future.set_result, future, "SIGUSR2")
      os.execute "{ sleep 0.01; kill -USR2 $PPID; } &"
      return future:await()
    end))
  end))

  it("while a thread does a job", top_level(function()
    assert.equal("done", peri.run(peri.to_thread, function()
      return require "perilune".sleep(0.01, "done")
    end))
  end))

  it("while a pool that was shut down has threads", top_level(function()
    peri.run(function()
      local executor = require "perilune.futures".ThreadPoolExecutor { max_workers = 1 }
      executor:submit(function() require "perilune".sleep(0.01) end)
      executor:shutdown()
    end)
  end))
end)
