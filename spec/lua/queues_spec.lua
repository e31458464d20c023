local peri = require "perilune"
local support = require "support"
local raises, trace, spin = support.raises, support.trace, support.spin

describe("a Queue", function()
  it("gives items in the order they came, nil among them", function()
    local queue = peri.Queue()
    for _, item in ipairs { 1, 2 } do queue:put(item) end
    queue:put(nil)
    queue:put(false)
    assert.equal(4, queue:qsize())
    assert.same({ n = 4, 1, 2, nil, false }, table.pack(queue:get(), queue:get(), queue:get(), (queue:get())))
    assert.is_true(queue:empty())
  end)

  it("makes a getter wait, and a putter when it is full", function()
    local lines, say = trace()
    local queue = peri.Queue(1)
    local producer = peri.create_task(function()
      for i = 1, 3 do
        queue:put(i)
        say("put", i)
      end
    end)
    support.settle()
    assert.same({ "put 1" }, lines)
    assert.is_true(queue:full())
    for i = 1, 3 do assert.equal(i, queue:get()) end
    producer:await()
    assert.same({ "put 1", "put 2", "put 3" }, lines)
  end)

  it("serves getters in the order they came", function()
    local lines, say = trace()
    local queue = peri.Queue()
    for i = 1, 3 do
      peri.create_task(function() say(i, queue:get()) end)
    end
    support.settle()
    for _, item in ipairs { "a", "b", "c" } do queue:put_nowait(item) end
    support.settle()
    assert.same({ "1 a", "2 b", "3 c" }, lines)
  end)

  it("does not lose an item to a getter that is cancelled when it was woken", function()
    local queue = peri.Queue()
    local a = peri.create_task(queue.get, queue)
    local b = peri.create_task(queue.get, queue)
    peri.sleep(0)
    queue:put_nowait "x"
    a:cancel()
    assert.equal("x", b:await())
    assert.is_true(a:cancelled())
  end)

  it("does not lose an item to a timeout", function()
    local queue = peri.Queue()
    raises(peri.TimeoutError, "", queue.get, queue, { timeout = 1 })
    queue:put_nowait "x"
    assert.equal("x", queue:get { timeout = 1 })
    local full = peri.Queue(1)
    full:put(1)
    raises(peri.TimeoutError, "", full.put, full, 2, { timeout = 1 })
    assert.equal(1, full:get())
    assert.is_true(full:empty())
  end)

  it("refuses at once what would have to wait", function()
    local queue = peri.Queue(1)
    raises(peri.QueueEmpty, "", queue.get_nowait, queue)
    queue:put_nowait(1)
    raises(peri.QueueFull, "", queue.put_nowait, queue, 2)
  end)

  it("is joined when all items are done", function()
    local queue = peri.Queue()
    local joined = false
    queue:put_nowait(1)
    queue:put_nowait(2)
    peri.create_task(function()
      queue:join()
      joined = true
    end)
    queue:get()
    queue:task_done()
    support.settle()
    assert.is_false(joined)
    queue:get()
    queue:task_done()
    support.settle()
    assert.is_true(joined)
    raises(peri.ValueError, "task_done was called more often than items were put", queue.task_done, queue)
  end)

  it("that is shut down gives what it has and takes nothing more", function()
    local queue = peri.Queue()
    queue:put_nowait(1)
    queue:shutdown()
    raises(peri.QueueShutDown, "", queue.put, queue, 2)
    assert.equal(1, queue:get())
    raises(peri.QueueShutDown, "", queue.get, queue)
  end)

  it("that is shut down at once wakes everybody", function()
    local queue = peri.Queue()
    local seen = {}
    for i = 1, 2 do
      peri.create_task(function()
        local _, err = pcall(queue.get, queue)
        seen[i] = peri.QueueShutDown:is(err)
      end)
    end
    spin(2)
    queue:shutdown { immediate = true }
    spin(2)
    assert.same({ true, true }, seen)
  end)

  it("is iterated until it is shut down", function()
    local queue = peri.Queue()
    local seen = {}
    local task = peri.create_task(function()
      for item in queue:items() do seen[#seen + 1] = item end
    end)
    for i = 1, 3 do
      queue:put(i)
      support.settle()
    end
    queue:shutdown()
    task:await()
    assert.same({ 1, 2, 3 }, seen)
  end)

  it("keeps order through growth and wrap-around", function()
    local queue = peri.Queue()
    local put, got = 0, 0
    math.randomseed(7)
    for _ = 1, 5000 do
      if math.random() < 0.55 then
        put = put + 1
        queue:put_nowait(put)
      elseif got < put then
        got = got + 1
        assert.equal(got, queue:get_nowait())
      end
    end
    assert.equal(put - got, queue:qsize())
  end)
end)

describe("a LifoQueue", function()
  it("gives the last item first", function()
    local queue = peri.LifoQueue()
    for i = 1, 3 do queue:put(i) end
    assert.same({ 3, 2, 1 }, { queue:get(), queue:get(), queue:get() })
  end)
end)

describe("a PriorityQueue", function()
  it("gives the smallest first, equals in the order they came", function()
    local queue = peri.PriorityQueue()
    for _, item in ipairs { { 2, "c" }, { 1, "a" }, { 3, "d" }, { 1, "b" } } do queue:put(item) end
    local names = ""
    while not queue:empty() do names = names .. queue:get()[2] end
    assert.equal("abcd", names)
  end)

  it("sorts", function()
    math.randomseed(11)
    local queue = peri.PriorityQueue()
    for _ = 1, 1000 do queue:put_nowait(math.random(300)) end
    local last = 0
    for _ = 1, 1000 do
      local item = queue:get_nowait()
      assert.is_true(last <= item)
      last = item
    end
  end)

  it("is as it was when a comparison fails", function()
    local queue = peri.PriorityQueue()
    queue:put(1)
    assert.has_error(function() queue:put "x" end)
    assert.equal(1, queue:qsize())
    assert.equal(1, queue:get())
  end)
end)

describe("a long Queue", function()
  -- What does not fit into the queue's ring lies in a table behind it.
  it("keeps the order of more items than its ring holds", function()
    local queue, put, got = peri.Queue(), 0, 0
    for burst = 1, 5 do
      for _ = 1, 100 * burst do
        put = put + 1
        queue:put(put)
      end
      for _ = 1, 70 * burst do
        got = got + 1
        assert.equal(got, queue:get())
      end
    end
    while not queue:empty() do
      got = got + 1
      assert.equal(got, queue:get_nowait())
    end
    assert.equal(put, got)
  end)

  it("holds nothing of what was taken", function()
    local weak = setmetatable({}, { __mode = "v" })
    for _, class in ipairs { peri.Queue, peri.LifoQueue, peri.PriorityQueue } do
      local queue = class()
      for i = 1, 300 do
        weak[i] = setmetatable({}, { __lt = function() return false end })
        queue:put(weak[i])
      end
      for _ = 1, 300 do queue:get() end
      support.collect()
      assert.is_nil(next(weak))
    end
  end)
end)

describe("a queue", function()
  it("is told from everything else", function()
    local queue = peri.Queue()
    for _, value in ipairs { 1, "q", {}, io.stdout, peri.Future() } do
      raises(peri.TypeError,
        ("bad argument #1 to 'put' (Queue expected, got %s)"):format(
          value == io.stdout and "FILE*" or peri.isfuture(value) and "Future" or type(value)),
        function() queue.put(value, 1) end)
    end
  end)

  it("hands the turn of a getter on that is killed, or closed where it stands", function()
    for _, grace in ipairs { 1, 0 } do
      local queue = peri.Queue()
      local a = peri.create_task(function()
        local _ <close> = peri.defer(function() peri.pcall(peri.sleep, 5) end)
        return queue:get()
      end)
      local b = peri.create_task(queue.get, queue)
      peri.sleep(0)
      queue:put_nowait "x"
      a:kill(grace)
      assert.equal("x", b:await())
      peri.wait { a }
    end
  end)
end)
