-- Loops that close, and runs that end, while pools have jobs of theirs; and
-- futures that are cancelled from where the jobs run.
local futures = require "perilune.futures"
local peri = require "perilune"
local support = require "support"
local raises, trace = support.raises, support.trace

local kinds = { threads = "ThreadPoolExecutor", processes = "ProcessPoolExecutor" }

local gate, gated = support.gate, support.gated()

for kind, name in pairs(kinds) do
  local make = futures[name]

  describe("a loop that closes with jobs in a pool of " .. kind, function()
    it("leaves its own futures as they are, and the pool's jobs alone", support.top_level(function()
      local path, open = gate()
      local executor <close> = make { max_workers = 1 }
      local finished <close> = support.finally(open) -- luacheck: ignore
      local lines, say = trace()
      local running, queued, own
      do
        local loop, _ <close> = support.loop()
        loop:run_until_complete(peri.call(function()
          own = executor:submit(gated, path, "own")
          while not own:running() do peri.sleep(0) end
          queued = loop:run_in_executor(executor, math.abs, -1)
          running = executor:submit(math.abs, -2)
          queued:add_done_callback(function() say "never" end)
          own:add_done_callback(function(f) say("own", f:result()) end)
        end))
      end
      assert.same({ false, false, false }, { own:done(), queued:done(), running:done() })
      open()
      assert.equal(2, (running:result()))
      executor:shutdown()
      assert.same({ "own own" }, lines)
      -- Nobody is left to tell it. It is no error, and no wait for ever either.
      assert.is_false(queued:done())
      raises(peri.InvalidStateError, "Result is not set.", queued.result, queued)
      raises(peri.RuntimeError, "Event loop is closed", queued.add_done_callback, queued, print)
      local loop, _ <close> = support.loop()
      local ok, err = pcall(loop.run_until_complete, loop, peri.call(peri.await, queued))
      assert.is_false(ok)
      assert.truthy(tostring(err):find("belongs to a different loop", 1, true), tostring(err))
      assert.is_true(queued:cancel())
    end))

    it("can have the future of a queued job cancelled afterwards", support.top_level(function()
      local path, open = gate()
      local executor <close> = make { max_workers = 1 }
      local finished <close> = support.finally(open) -- luacheck: ignore
      local marker = support.directory() .. "/marker"
      local queued
      do
        local loop, _ <close> = support.loop()
        loop:run_until_complete(peri.call(function()
          executor:submit(gated, path)
          queued = loop:run_in_executor(executor, function(to) io.open(to, "w"):close() end, marker)
        end))
      end
      assert.is_true(queued:cancel())
      assert.is_true(queued:cancelled())
      open()
      executor:shutdown()
      assert.is_nil(io.open(marker))
    end))
  end)

  describe("a run that ends with jobs in a pool of " .. kind, function()
    it("cancels the tasks that wait, withdraws what has not begun, and drops what has", support.top_level(function()
      local path, open = gate()
      local executor <close> = make { max_workers = 1 }
      local finished <close> = support.finally(open) -- luacheck: ignore
      local marker = support.directory() .. "/marker"
      local lines, say = trace()
      local function wait(what, future)
        local ok, err = pcall(peri.await, future)
        say(what, ok, peri.iscancel(err), future:cancelled())
        error(err, 0)
      end
      local running, queued
      peri.run(function()
        running = executor:submit(gated, path, "through")
        while not running:running() do peri.sleep(0) end
        queued = executor:submit(function(to) io.open(to, "w"):close() end, marker)
        peri.create_task(wait, "running", running)
        peri.create_task(wait, "queued", queued)
        peri.sleep(0)
      end)
      assert.same({ "running false true false", "queued false true true" }, lines)
      assert.is_false(running:done())
      open()
      assert.equal("through", (running:result()))
      executor:shutdown()
      assert.is_nil(io.open(marker))
    end))

    it("and is the script's has all of them done first", function()
      local out, err, code = support.run_code(([[
        local peri = require "perilune"
        local executor = require "perilune.futures".%s { max_workers = 2 }
        local loop = peri.get_running_loop()
        for i = 1, 4 do
          executor:submit(function() io.write("submitted\n") io.flush() end)
          loop:run_in_executor(executor, function() io.write("of the loop\n") io.flush() end)
        end
        peri.create_task(function() executor:submit(peri.sleep, 1e-3):result() end)
      ]]):format(name))
      local lines = {}
      for line in out:gmatch "[^\n]+" do lines[line] = (lines[line] or 0) + 1 end
      assert.same({ submitted = 4, ["of the loop"] = 4 }, lines)
      assert.same({ "", 0 }, { err, code })
    end)
  end)

  describe("an initializer that never ends in a pool of " .. kind, function()
    -- The output ends when no worker has it open any more.
    local function interrupted(code)
      local out, _, status = support.run_code(([[
        local peri = require "perilune"
        local path = "%s/begun"
        local executor = require "perilune.futures".%s {
          max_workers = 1,
          initializer = function()
            io.open(path, "w"):close()
            while true do pcall(error) end
          end,
        }
        local job = executor:submit(print, "never")
        while not io.open(path) do peri.sleep(0) end
        sender = io.popen("while kill -INT $PPID 2>/dev/null; do sleep 0.1; done")
      ]]):format(support.directory(), name) .. code)
      assert.same({ "", 130 }, { out, status })
    end

    it("goes with the program, by Ctrl-C", function()
      interrupted ""
      interrupted "job:result()"
      interrupted "executor:shutdown { cancel_futures = true }"
      interrupted "local _ <close> = executor; peri.create_task(job.await, job):await()"
    end)
  end)

  describe("from a job in a pool of " .. kind, function()
    it("the future of a coroutine of another loop is cancelled, and the task with it", function()
      local executor <close> = make { max_workers = 1 }
      local ended = peri.Future()
      local stays = peri.ref(function(err) ended:set_result(peri.iscancel(err)) end)
      local cancelled = executor:submit(function(loop, token)
        local peri = require "perilune" -- luacheck: ignore
        local endless = loop:run_coroutine_threadsafe(function(tell)
          local ok, err = pcall(require "perilune".sleep, 1e9)
          tell(not ok and err)
          error(err, 0)
        end, token)
        loop:run_coroutine_threadsafe(function() end):await() -- begins after it
        endless:cancel()
        return endless:cancelled(), (pcall(peri.await, endless))
      end, peri.get_running_loop(), stays)
      assert.same({ true, false }, { cancelled:result() })
      assert.is_true(ended:await())
    end)

    it("the future of a queued job is cancelled by a call of its owner's loop", function()
      local executor <close> = make { max_workers = 1 }
      local queued
      local token = peri.ref(function() return queued:cancel() end)
      local first = executor:submit(function(loop, cancel)
        return loop:run_coroutine_threadsafe(function(fn) return fn() end, cancel):await()
      end, peri.get_running_loop(), token)
      queued = executor:submit(print)
      local waiter = peri.create_task(queued.result, queued)
      assert.is_true((first:result()))
      assert.is_true(queued:cancelled())
      raises(peri.CancelledError, "", waiter.await, waiter)
    end)

    it("a running job is stopped by such a call", function()
      local executor <close> = make { max_workers = 2 }
      local endless = executor:submit(peri.sleep, 1e9)
      local token = peri.ref(function()
        while not endless:running() do peri.sleep(0) end
        return endless:cancel { running = true }
      end)
      assert.is_true((executor:submit(function(loop, stop)
        return loop:run_coroutine_threadsafe(function(fn) return fn() end, stop):await()
      end, peri.get_running_loop(), token):result()))
      raises(peri.CancelledError, "", endless.result, endless)
    end)
  end)
end
