local peri = require "perilune"
local support = require "support"
local raises, trace, spin = support.raises, support.trace, support.spin

describe("add_reader", function()
  local reader, reader_fd, writer, loop

  before_each(function()
    loop = peri.get_running_loop()
    reader, reader_fd, writer = support.pipe()
  end)

  after_each(function()
    loop:remove_reader(reader_fd)
    reader:close()
    writer:close()
  end)

  it("calls the function when there is something to read", function()
    local lines, say = trace()
    local came = peri.Future()
    loop:add_reader(reader_fd, function(...)
      say(reader:read(5), ...)
      came:set_result()
    end, "with", nil, 3)
    spin(5)
    assert.same({}, lines)
    writer:write "hello"
    came:await()
    assert.same({ "hello with nil 3" }, lines)
  end)

  it("calls it again while there is more", function()
    local text = ""
    local came = peri.Future()
    loop:add_reader(reader_fd, function()
      text = text .. reader:read(1)
      if #text == 3 then came:set_result() end
    end)
    writer:write "abc"
    came:await()
    assert.equal("abc", text)
  end)

  it("replaces the reader before", function()
    local lines, say = trace()
    local came = peri.Future()
    loop:add_reader(reader_fd, say, "first")
    loop:add_reader(reader_fd, function()
      say("second", reader:read(1))
      came:set_result()
    end)
    writer:write "x"
    came:await()
    assert.same({ "second x" }, lines)
  end)

  it("is undone by remove_reader, which tells whether there was one", function()
    local lines, say = trace()
    assert.is_false(loop:remove_reader(reader_fd))
    loop:add_reader(reader_fd, say, "never")
    assert.is_true(loop:remove_reader(reader_fd))
    assert.is_false(loop:remove_reader(reader_fd))
    writer:write "x"
    spin(100)
    assert.same({}, lines)
  end)

  it("may remove itself in its callback", function()
    local count = 0
    local came = peri.Future()
    loop:add_reader(reader_fd, function()
      count = count + 1
      loop:remove_reader(reader_fd)
      came:set_result()
    end)
    writer:write "abc"
    came:await()
    spin(100)
    assert.equal(1, count)
  end)

  it("keeps the virtual clock from jumping: something outside is awaited", function()
    local lines, say = trace()
    local came = peri.Future()
    loop:add_reader(reader_fd, function()
      loop:remove_reader(reader_fd)
      say "read"
      came:set_result()
    end)
    local sleeper = peri.create_task(function()
      peri.sleep(1000)
      say "slept"
    end)
    -- All of the script is blocked while the child takes its time.
    local child = io.popen(("sleep 0.05; echo >/proc/$PPID/fd/%d"):format(reader_fd))
    came:await()
    assert.same({ "read" }, lines)
    child:close()
    sleeper:await()
    assert.same({ "read", "slept" }, lines)
  end)

  it("refuses to have waits in it", function()
    local came = peri.Future()
    loop:add_reader(reader_fd, function()
      reader:read(1)
      came:set_result(pcall(peri.sleep, 0))
    end)
    writer:write "x"
    local ok, err = came:await()
    assert.is_false(ok)
    assert.equal("RuntimeError: cannot wait in 'sleep': callbacks are not tasks "
      .. "(this is a reader callback)", tostring(err))
  end)

  it("reports the errors of its function", function()
    local reports = support.reports()
    local came = peri.Future()
    loop:add_reader(reader_fd, function()
      reader:read(1)
      came:set_result()
      error("in the reader", 0)
    end)
    writer:write "x"
    came:await()
    spin(2)
    assert.equal(1, #reports)
    assert.equal("in the reader", reports[1].exception)
  end)
end)

describe("add_writer", function()
  it("calls the function when there is room to write", function()
    local loop = peri.get_running_loop()
    local reader, _, writer, writer_fd = support.pipe()
    local came = peri.Future()
    loop:add_writer(writer_fd, function(text)
      writer:write(text)
      loop:remove_writer(writer_fd)
      came:set_result()
    end, "hello")
    came:await()
    assert.equal("hello", reader:read(5))
    assert.is_false(loop:remove_writer(writer_fd))
    reader:close()
    writer:close()
  end)

  it("stands beside a reader of the same descriptor", function()
    local loop = peri.get_running_loop()
    local both, fd, writer = support.pipe()
    local lines, say = trace()
    local came = peri.Future()
    loop:add_reader(fd, function()
      say("read", both:read(1))
      came:set_result()
    end)
    loop:add_writer(fd, function()
      say "room"
      loop:remove_writer(fd)
      writer:write "x"
    end)
    came:await()
    assert.same({ "room", "read x" }, lines)
    assert.is_true(loop:remove_reader(fd))
    both:close()
    writer:close()
  end)
end)

describe("readers and writers", function()
  it("take open files for their descriptors", function()
    local loop = peri.get_running_loop()
    local reader, fd, writer = support.pipe()
    local came = peri.Future()
    loop:add_reader(reader, function() came:set_result(reader:read(1)) end)
    writer:write "x"
    assert.equal("x", came:await())
    assert.is_true(loop:remove_reader(fd))
    reader:close()
    writer:close()
    raises(peri.TypeError, "bad argument #1 to 'add_reader' (descriptor or open file expected, got FILE*)",
      function() loop:add_reader(reader, print) end)
  end)

  it("refuse what is no descriptor", function()
    local loop = peri.get_running_loop()
    raises(peri.TypeError, "bad argument #1 to 'add_reader' (descriptor or open file expected, got string)",
      function() loop:add_reader("x", print) end)
    for _, fd in ipairs { -1, 1 << 32, math.mininteger } do
      raises(peri.ValueError, "bad argument #1 to 'add_reader' (not a descriptor)",
        function() loop:add_reader(fd, print) end)
      raises(peri.ValueError, "bad argument #1 to 'remove_reader' (not a descriptor)",
        function() loop:remove_reader(fd) end)
    end
    for _, add in ipairs { loop.add_reader, loop.add_writer } do
      local ok, err = pcall(add, loop, 987, print)
      assert.is_false(ok)
      assert.is_true(peri.OSError:is(err))
      assert.equal("EBADF", err.code)
      assert.equal(add == loop.add_reader and "add_reader" or "add_writer", err.syscall)
    end
    assert.is_false(loop:remove_reader(987))
  end)

  it("refuse a file, which is always ready (EPERM)", function()
    local loop = peri.get_running_loop()
    local before = support.descriptors()
    local file = assert(io.open(support.file "text"))
    local fd
    for n in pairs(support.descriptors()) do
      if not before[n] then fd = n end
    end
    local ok, err = pcall(loop.add_reader, loop, fd, print)
    file:close()
    assert.is_false(ok)
    assert.equal("EPERM", err.code)
  end)
end)
