local log = require "perilune.log"
local peri = require "perilune"
local support = require "support"
local raises = support.raises

describe("the log", function()
  after_each(function() log.set_level "WARNING" end)

  it("has a function for each level, and logs from WARNING on", function()
    local records = support.log()
    for _, name in ipairs { "debug", "info", "warning", "error", "critical" } do log[name](name) end
    assert.same({ "WARNING warning", "ERROR error", "CRITICAL critical" }, records)
    assert.equal("WARNING", log.get_level())
  end)

  it("logs from another level on when it is told to, by name or number", function()
    local records = support.log()
    log.set_level "DEBUG"
    log.debug "seen"
    log.set_level "critical"
    log.error "not seen"
    log.set_level(log.INFO)
    assert.equal("INFO", log.get_level())
    log.info "seen, too"
    assert.same({ "DEBUG seen", "INFO seen, too" }, records)
  end)

  it("refuses what is no level", function()
    raises(peri.ValueError, "bad argument #1 to 'log.set_level' (\"LOUD\" is no level)",
      log.set_level, "LOUD")
    raises(peri.ValueError, "bad argument #1 to 'log.set_level' (\"25\" is no level)",
      log.set_level, 25)
    raises(peri.TypeError, "bad argument #1 to 'log.set_level' (level expected, got nil)",
      log.set_level, nil)
  end)

  it("formats a message that has arguments, and no other", function()
    local records = support.log()
    log.warning("%d of %s", 1, "two")
    log.warning "100 %"
    log.warning(setmetatable({}, { __tostring = function() return "told" end }))
    log.warning(nil)
    assert.same({ "WARNING 1 of two", "WARNING 100 %", "WARNING told", "WARNING nil" }, records)
  end)

  it("does not format what is not logged", function()
    support.log()
    log.debug("%d", setmetatable({}, { __tostring = error }))
  end)

  it("goes to a function", function()
    local got
    log.set_handler(function(...) got = table.pack(...) end)
    log.error "text"
    assert.same({ n = 2, "ERROR", "text" }, got)
    raises(peri.TypeError, "bad argument #1 to 'log.set_handler' (function or nil expected, got string)",
      log.set_handler, "stderr")
  end)

  it("goes to a logger with a method log, under LuaLogging's names", function()
    local lines = {}
    local logger = {}
    function logger:log(level, text) -- luacheck: no unused
      lines[#lines + 1] = level .. " " .. text
    end
    log.set_level "DEBUG"
    log.set_logger(logger)
    for _, name in ipairs { "debug", "info", "warning", "error", "critical" } do log[name] "x" end
    assert.same({ "DEBUG x", "INFO x", "WARN x", "ERROR x", "FATAL x" }, lines)
  end)

  it("goes to a logger with a method for each level", function()
    local lines = {}
    local logger = {}
    for _, name in ipairs { "debug", "info", "warn", "error", "fatal" } do
      logger[name] = function(self, text)
        assert.equal(logger, self)
        lines[#lines + 1] = name .. " " .. text
      end
    end
    log.set_level "DEBUG"
    log.set_logger(logger)
    for _, name in ipairs { "debug", "info", "warning", "error", "critical" } do log[name] "x" end
    assert.same({ "debug x", "info x", "warn x", "error x", "fatal x" }, lines)
    log.set_logger(nil)
  end)

  it("refuses what is no logger", function()
    for _, value in ipairs { "stderr", {}, { warn = print } } do
      raises(peri.TypeError,
        ("bad argument #1 to 'log.set_logger' (logger or nil expected, got %s)"):format(type(value)),
        log.set_logger, value)
    end
  end)

  it("may wait in a handler, in a task", function()
    local got
    log.set_handler(function(_, text)
      peri.sleep(1)
      got = text
    end)
    log.warning "slow"
    assert.equal("slow", got)
  end)

  it("goes to stderr in the program and in stock lua5.4", function()
    local code = [[
      local peri = require "perilune"
      require "perilune.log".warning("mind the %s", "gap")
      require "perilune.log".info "not seen"
    ]]
    assert.same({ "", "WARNING perilune: mind the gap\n", 0 }, { support.run_code(code) })
    assert.same({ "", "WARNING perilune: mind the gap\n", 0 }, { support.run_stock(code) })
  end)
end)
