local peri = require "perilune"
local fs = require "perilune.fs"
local futures = require "perilune.futures"
local net = require "perilune.net"
local support = require "support"
local quote, spin = support.quote, support.spin

local function hosts(list)
  local result = {}
  for i, entry in ipairs(list) do result[i] = entry.host end
  return result
end

local function fails(code, fn, ...)
  local ok, err = pcall(fn, ...)
  assert.is_false(ok)
  assert.is_true(peri.OSError:is(err), tostring(err))
  assert.equal(code, err.code)
  return err
end

describe("net.getaddrinfo", function()
  it("needs no resolver for addresses and for this machine", function()
    assert.same({ { family = "inet", type = "stream", host = "127.0.0.1", port = 80 } },
      net.getaddrinfo("127.0.0.1", 80))
    assert.same({ { family = "inet6", type = "dgram", host = "::1", port = 0 } },
      net.getaddrinfo("::1", nil, { type = "dgram" }))
    assert.same({ "::1", "127.0.0.1" }, hosts(net.getaddrinfo("localhost", 1)))
    assert.same({ "127.0.0.1" }, hosts(net.getaddrinfo("localhost", 1, { family = "inet" })))
    assert.same({ "::", "0.0.0.0" }, hosts(net.getaddrinfo(nil, 1, { passive = true })))
  end)

  it("finds services by their names", function()
    local list = net.getaddrinfo("127.0.0.1", "80")
    assert.same({ { family = "inet", type = "stream", host = "127.0.0.1", port = 80 } }, list)
    if io.open "/etc/services" then
      assert.equal(80, net.getaddrinfo("127.0.0.1", "http")[1].port)
    end
  end)

  it("asks the resolver for the rest", function()
    local list = net.getaddrinfo("127.0.0.1", "1", { canonname = true })
    assert.equal("127.0.0.1", list[1].canonname)
    local err = fails("EAI_NONAME", net.getaddrinfo, "not-an-address", "1", { numeric = true })
    assert.same({ "getaddrinfo", "not-an-address:1" }, { err.syscall, err.address })
    assert.is_true(err.errno < 0)
  end)

  it("raises for a name that does not resolve", function()
    local ok, err = pcall(net.getaddrinfo, "x.invalid", 80)
    assert.is_false(ok)
    assert.is_true(peri.OSError:is(err))
    -- Without a network the resolver cannot know.
    assert.is_true(err.code == "EAI_NONAME" or err.code == "EAI_AGAIN" or err.code == "EAI_NODATA", err.code)
    assert.equal("x.invalid:80", err.address)
  end)

  it("raises for a service that there is not", function()
    fails("EAI_SERVICE", net.getaddrinfo, "127.0.0.1", "no-such-service")
    fails("EAI_NONAME", net.getaddrinfo, ("n"):rep(2000), "1", { numeric = true })
    fails("EAI_ADDRFAMILY", net.getaddrinfo, "127.0.0.1", 1, { family = "inet6" })
  end)

  it("checks its arguments", function()
    for _, bad in ipairs {
      { 1, 1 }, { "localhost", {} }, { "localhost", 1.5 }, { "localhost", 1, 5 },
    } do
      assert.is_true(peri.TypeError:is(select(2, pcall(net.getaddrinfo, table.unpack(bad)))))
    end
    for _, bad in ipairs {
      { "localhost", 65536 }, { "a\0b", "1" }, { "localhost", 1, { family = "x" } },
      { "localhost", 1, { type = "x" } }, { "localhost", 1, { famly = "inet" } },
      { "127.0.0.1", 1, { timeout = 0 / 0 } },
    } do
      assert.is_true(peri.ValueError:is(select(2, pcall(net.getaddrinfo, table.unpack(bad)))))
    end
  end)

  it("is left at once by a task that is cancelled", function()
    -- A name would have the thread hold descriptors for a while.
    local task = peri.create_task(net.getaddrinfo, "127.0.0.1", "80")
    spin(2)
    task:cancel()
    assert.is_true(peri.iscancel(select(2, pcall(task.await, task))))
  end)

  it("is not waited for longer than a time limit", function()
    assert.is_true(peri.TimeoutError:is(select(2,
      pcall(net.getaddrinfo, "127.0.0.1", "80", { timeout = 0 }))))
    assert.equal(1, #net.getaddrinfo("127.0.0.1", "80", { timeout = 60 }))
  end)

  it("has many look-ups wait for the few threads", function()
    local tasks = {}
    for i = 1, 50 do tasks[i] = peri.create_task(net.getaddrinfo, "127.0.0.1", tostring(i)) end
    for i = 1, 50, 2 do tasks[i]:cancel() end
    for i = 1, 50 do
      local ok, list = pcall(tasks[i].await, tasks[i])
      assert.equal(i % 2 == 0, ok)
      if ok then assert.equal(i, list[1].port) end
    end
  end)

  it("is not starved by files and jobs", function()
    local dir = support.directory()
    local paths, reading = {}, {}
    for i = 1, 8 do
      paths[i] = ("%s/%d"):format(dir, i)
      assert(os.execute("mkfifo " .. quote(paths[i])))
      reading[i] = peri.create_task(fs.read_file, paths[i])
    end
    local pipes = { dir .. "/job1", dir .. "/job2" }
    local executor <close> = futures.ThreadPoolExecutor { max_workers = 2 }
    local jobs = {}
    for i, path in ipairs(pipes) do
      assert(os.execute("mkfifo " .. quote(path)))
      jobs[i] = executor:submit(function() return io.open(path):read "a" end)
    end
    spin(20)
    assert.equal(80, net.getaddrinfo("127.0.0.1", "80")[1].port)
    assert.equal("1", select(2, net.getnameinfo("127.0.0.1", 1, { numeric_service = true, numeric_host = true })))
    for i = 1, 8 do assert.is_false(reading[i]:done()) end
    for i = 1, 2 do assert.is_false(jobs[i]:done()) end
    -- Opening for writing waits for the reader, whom a thread brings by itself.
    for _, path in ipairs { pipes[1], pipes[2], table.unpack(paths) } do
      local writer <close> = assert(io.open(path, "w"))
      writer:write "x"
    end
    for i = 1, 2 do assert.equal("x", jobs[i]:await()) end
    for i = 1, 8 do assert.equal("x", reading[i]:await()) end
  end)
end)

describe("net.getnameinfo", function()
  it("gives names, or numbers where there are none", function()
    local host, service = net.getnameinfo("127.0.0.1", 80, { numeric_host = true, numeric_service = true })
    assert.same({ "127.0.0.1", "80" }, { host, service })
    host = net.getnameinfo("127.0.0.1")
    assert.equal("string", type(host))
    assert.equal("::1", (net.getnameinfo("::1", 1, { numeric_host = true })))
  end)

  it("raises where a name is required", function()
    local ok, err = pcall(net.getnameinfo, "192.0.2.1", 1, { name_required = true })
    if ok then return end -- a resolver that knows names for all
    assert.is_true(peri.OSError:is(err))
    assert.is_truthy(err.code:find "^EAI_")
    assert.same({ "getnameinfo", "192.0.2.1:1" }, { err.syscall, err.address })
  end)

  it("checks its arguments", function()
    assert.is_true(peri.ValueError:is(select(2, pcall(net.getnameinfo, "localhost"))))
    assert.is_true(peri.ValueError:is(select(2, pcall(net.getnameinfo, "::1", -1))))
    assert.is_true(peri.ValueError:is(select(2, pcall(net.getnameinfo, "::1", 1, { nam = true }))))
    assert.is_true(peri.TypeError:is(select(2, pcall(net.getnameinfo, nil))))
  end)

  it("can be cancelled, and limited", function()
    local numeric = { numeric_host = true, numeric_service = true }
    local task = peri.create_task(net.getnameinfo, "192.0.2.1", 1, numeric)
    spin(1)
    task:cancel()
    assert.is_true(peri.iscancel(select(2, pcall(task.await, task))))
    assert.is_true(peri.TimeoutError:is(select(2,
      pcall(net.getnameinfo, "192.0.2.1", 1, { numeric_host = true, numeric_service = true, timeout = 0 }))))
  end)
end)

describe("net.set_name_cache", function()
  after_each(function() net.set_name_cache(nil) end)

  it("has what was found be kept, and be nobody else's", function()
    net.set_name_cache { ttl = 60 }
    local first = net.getaddrinfo("127.0.0.1", "80")
    first[1].host = "changed"
    -- From the cache there is no wait.
    local task = peri.create_task(net.getaddrinfo, "127.0.0.1", "80")
    spin(1)
    assert.is_true(task:done())
    assert.equal("127.0.0.1", task:result()[1].host)
    local other = peri.create_task(net.getaddrinfo, "127.0.0.1", "81")
    spin(1)
    assert.is_false(other:done())
    other:await()
  end)

  it("is off at first, and can be turned off", function()
    local function waits()
      local task = peri.create_task(net.getaddrinfo, "127.0.0.1", "80")
      spin(1)
      local waited = not task:done()
      task:await()
      return waited
    end
    assert.is_true(waits())
    assert.is_true(waits())
    net.set_name_cache {}
    assert.is_true(waits())
    assert.is_false(waits())
    net.set_name_cache(nil)
    assert.is_true(waits())
    net.set_name_cache { ttl = 0 }
    assert.is_true(waits())
    assert.is_true(waits())
  end)

  it("forgets the oldest for the newest", function()
    net.set_name_cache { size = 2 }
    local function cached(service)
      local task = peri.create_task(net.getaddrinfo, "127.0.0.1", service)
      spin(1)
      local done = task:done()
      task:await()
      return done
    end
    assert.same({ false, false, true, true }, { cached "1", cached "2", cached "1", cached "2" })
    assert.same({ false, true, false }, { cached "3", cached "2", cached "1" })
  end)

  it("does not keep failures", function()
    net.set_name_cache {}
    for _ = 1, 2 do fails("EAI_SERVICE", net.getaddrinfo, "127.0.0.1", "no-such-service") end
  end)

  it("checks its arguments", function()
    assert.is_true(peri.ValueError:is(select(2, pcall(net.set_name_cache, { size = 0 }))))
    assert.is_true(peri.ValueError:is(select(2, pcall(net.set_name_cache, { tl = 0 }))))
    assert.is_true(peri.TypeError:is(select(2, pcall(net.set_name_cache, { ttl = "x" }))))
  end)
end)
