-- perilune.yieldable: as the functions of Lua's library, but what they call may
-- wait. Where nothing waits the stock functions say what is right.
local peri = require "perilune"
local support = require "support"
local yieldable = require "perilune.yieldable"
local raises, trace, spin, finally = support.raises, support.trace, support.spin, support.finally
local ends = support.ends

local seed = os.time()
local random = math.random

-- Runs a chunk with a stock function and with ours as `f` and as a field
-- `m.f`; both must give and say the same, places included.
local function same_as_stock(stock, ours, code)
  local function outcome(f)
    local chunk = assert(load("local f = ...; local m = { f = f }\n" .. code, "=chunk"))
    local results = table.pack(pcall(chunk, f))
    for i = 1, results.n do results[i] = tostring(results[i]) end
    return results
  end
  assert.same(outcome(stock), outcome(ours), code)
end

local function sleepy(fn)
  return function(...)
    peri.sleep(0)
    return fn(...)
  end
end

local function less(a, b) return a < b end

-- sort ------------------------------------------------------------------------

describe("yieldable.sort", function()
  local sort = yieldable.sort

  local function sorted(list, comp)
    sort(list, comp)
    return list
  end

  local function random_list(n)
    local list = {}
    for i = 1, n do list[i] = { key = random(1, n), place = i } end
    return list
  end

  local function by_key(a, b) return a.key < b.key end

  it("sorts by a comparator that waits", function()
    local turned = 0
    local other = peri.create_task(function()
      for _ = 1, 5 do
        peri.sleep(0)
        turned = turned + 1
      end
    end)
    assert.same({ 1, 2, 3, 5, 8 }, sorted({ 5, 2, 8, 1, 3 }, sleepy(less)))
    other:await()
    assert.equal(5, turned)
  end)

  it("sorts like table.sort, and keeps equal elements in their order #heavy", function()
    math.randomseed(seed)
    for round = 1, 300 do
      local n = round <= 60 and round or random(1, 400)
      local list, expected = random_list(n), {}
      for i, item in ipairs(list) do expected[i] = item end
      table.sort(expected, function(a, b)
        return a.key < b.key or a.key == b.key and a.place < b.place
      end)
      sort(list, by_key)
      assert.is_true(#list == n, "seed " .. seed)
      for i = 1, n do assert.equal(expected[i], list[i], "seed " .. seed) end
    end
  end)

  it("sorts numbers and strings without a comparator as table.sort does", function()
    math.randomseed(seed)
    for _ = 1, 100 do
      local ours, stock = {}, {}
      local make = random(2) == 1 and function() return random(50) / random(4) end
        or function() return tostring(random(50)) end
      for i = 1, random(0, 60) do
        ours[i] = make()
        stock[i] = ours[i]
      end
      sort(ours)
      table.sort(stock)
      assert.same(stock, ours, "seed " .. seed)
    end
  end)

  it("calls the comparator no more than n log n times, whatever the order #heavy", function()
    local n = 1024
    local orders = {
      function(i) return i end,
      function(i) return n - i end,
      function(i) return i % 2 == 0 and i or n - i end,
      function() return 1 end,
      function() return random(n) end,
    }
    for _, order in ipairs(orders) do
      local list, calls = {}, 0
      for i = 1, n do list[i] = order(i) end
      sort(list, function(a, b)
        calls = calls + 1
        return a < b
      end)
      assert.is_true(calls <= n * 10, calls)
      for i = 2, n do assert.is_true(list[i - 1] <= list[i]) end
    end
  end)

  it("lets __lt, __index, __newindex and __len wait", function()
    local meta = { __lt = function(a, b) return peri.sleep(0, a.x < b.x) end }
    local function item(x) return setmetatable({ x = x }, meta) end
    local items = { item(3), item(1), item(2), item(0) }
    local proxy = setmetatable({}, {
      __len = function() return peri.sleep(0, #items) end,
      __index = function(_, i) return peri.sleep(0, items[i]) end,
      __newindex = function(_, i, value)
        peri.sleep(0)
        items[i] = value
      end,
    })
    sort(proxy)
    for i = 1, 4 do assert.equal(i - 1, items[i].x) end
    assert.is_nil(rawget(proxy, 1))
  end)

  it("compares by __lt of either side, as < does", function()
    local meta = { __lt = function(a, b)
      a, b = type(a) == "table" and a.x or a, type(b) == "table" and b.x or b
      return a < b
    end }
    local list = { 5, setmetatable({ x = 3 }, meta), setmetatable({ x = 9 }, meta), 1 }
    list[3], list[4] = list[4], list[3]
    local a, b = list[2], list[4]
    assert.same({ 1, a, 5, b }, sorted(list))
  end)

  it("tells mistakes as table.sort does", function()
    for _, code in ipairs {
      "f()", "f(nil)", "f(1)", "f('x')", "m.f(nil)", "m:f(1)", "m.f()", "return (f(io.stdout))",
      "f({ 1, 2 }, 3)", "f({ 1, 2 }, {})", "f({ 1 }, 3)", "f({}, 3)", "f({ 1, 2 }, nil)",
      "f({ 1, 2 }, false)", "f({ 2, 1, {} })", "f({ {}, {} })", "f({ 1, nil, 3 })",
      "f(setmetatable({}, { __len = function() return 1.5 end }))",
      "f(setmetatable({}, { __len = function() return 'x' end }))",
      "f(setmetatable({}, { __len = function() return math.maxinteger end }))",
      "f(setmetatable({}, { __len = function() return 2^31 - 1 end }))",
      "f(setmetatable({}, { __len = function() return '2' end, __index = { 2, 1 } }))",
      "f(setmetatable({}, { __len = function() error('no length') end }))",
      "f({ 1, 2, 3, 4, 5 }, function() return true end)",
      "f({ 1, 1, 1, 1, 1 }, function(a, b) return a <= b end)",
      "f({ 1, 1, 1 }, function(a, b) return a <= b end)",
      "f({ 2, 1 }, function() error 'from the comparator' end)",
      "f({ 2, 1 }, function() error('from the comparator', 2) end)",
      "f(setmetatable({}, { __len = function() return 2 end, __index = function() error('no', 2) end }))",
      "f(setmetatable({ 2, 1 }, { __index = function() error 'no' end, __len = function() return 3 end }))",
      "f(setmetatable({}, { __len = function() return 2 end, __index = 5 }))",
      "local m = setmetatable({}, { __len = function() return 2 end }) "
        .. "getmetatable(m).__index = m f(m, function() end) return rawlen(m)",
      "return f({ 2, 1 })",
    } do
      same_as_stock(table.sort, sort, code)
    end
    same_as_stock(function(...) pcall(table.sort, ...) end, function(...) pcall(sort, ...) end, "f()")
  end)

  it("finds a comparator that contradicts itself in a list of any length", function()
    for _, n in ipairs { 4, 5, 8, 9, 17, 100, 1000 } do
      local list = {}
      for i = 1, n do list[i] = i end
      for _, comp in ipairs { function() return true end, function(a, b) return a ~= b end } do
        local ok, err = pcall(sort, list, comp)
        assert.is_false(ok)
        assert.matches("invalid order function for sorting", err)
      end
    end
  end)

  it("raises what the comparator raises, and leaves the list as it was", function()
    local fault, list, calls = {}, { 3, 2, 1, 4 }, 0
    local ok, err = pcall(sort, list, function(a, b)
      peri.sleep(0)
      calls = calls + 1
      if calls == 3 then error(fault) end
      return a < b
    end)
    assert.is_false(ok)
    assert.equal(fault, err)
    assert.same({ 3, 2, 1, 4 }, list)
  end)

  it("sorts what the list held at the call, and puts it in the places of then", function()
    local list = { 3, 2, 1 }
    local task = peri.create_task(sort, list, sleepy(less))
    spin(1)
    list[1], list[2], list[3], list[4] = "a", nil, "c", "d"
    task:await()
    assert.same({ 1, 2, 3, "d" }, list)
  end)

  it("ends at a cancellation and at a kill, the list as it was", function()
    for _, how in ipairs { "cancel", "kill" } do
      local list, closed, went_on = { 3, 2, 1, 5, 4 }, 0, false
      local task = peri.create_task(function()
        pcall(function()
          local ok, err = pcall(sort, list, function(a, b)
            local _ <close> = finally(function() closed = closed + 1 end)
            peri.sleep(1)
            return a < b
          end)
          if not ok then error(err, 0) end
          went_on = true
        end)
        peri.current_task():cancel()
        peri.sleep(0)
      end)
      ends(task, how)
      assert.same({ 3, 2, 1, 5, 4 }, list)
      assert.same({ 1, false }, { closed, went_on })
    end
  end)

  it("works outside of tasks and in generators", function()
    local out, err, code = support.run_stock [[
      local sort = require "perilune.yieldable".sort
      local list = { 3, 1, 2, 9, 5 }
      sort(list, function(a, b) return a > b end)
      print(table.concat(list, " "))
    ]]
    assert.same({ "9 5 3 2 1\n", "", 0 }, { out, err, code })
    -- What a comparator yields goes to who resumed the generator.
    local pairs_asked = 0
    local answer
    local ask = coroutine.wrap(function()
      local list = { "c", "a", "b" }
      sort(list, function(a, b) return coroutine.yield(a, b) end)
      return list
    end)
    local a, b = ask()
    while b do
      pairs_asked = pairs_asked + 1
      answer = a < b
      a, b = ask(answer)
    end
    assert.same({ "a", "b", "c" }, a)
    assert.is_true(pairs_asked >= 2)
  end)

  it("is refused a wait where its caller is", function()
    raises(peri.RuntimeError,
      "cannot wait in 'sleep': the C function 'table.sort' in between cannot be suspended",
      table.sort, { 2, 1 }, function()
        sort({ 2, 1 }, sleepy(less))
      end)
  end)
end)

-- gsub ------------------------------------------------------------------------

describe("yieldable.gsub", function()
  local gsub = yieldable.gsub

  it("waits in its function and in the __index of its table", function()
    assert.same({ "<hello> <world>", 2 }, { gsub("hello world", "%w+", function(w)
      return "<" .. peri.sleep(0, w) .. ">"
    end) })
    local looked_up = {}
    local names = setmetatable({}, { __index = function(_, name)
      looked_up[#looked_up + 1] = peri.sleep(0, name)
      if name ~= "b" then return name:upper() end
    end })
    assert.same({ "A $b C", 3 }, { gsub("$a $b $c", "%$(%w)", names) })
    assert.same({ "a", "b", "c" }, looked_up)
  end)

  -- Patterns from pieces, subjects from few letters: much matches, much is empty.
  local pieces = {
    "a", "b", ".", "%w", "[ab]", "[^a]", "%s", "a*", "b-", ".-", "%w*", "a?", "a+", "(a)", "(b*)",
    "()", ")", "a)", "(%w)(%s?)", "(.)%1", "%f[%w]", "%f[^%w]", "%b()", "$", "((a)b)",
  }

  local function random_pattern()
    local parts = { random(6) == 1 and "^" or "" }
    for i = 1, random(0, 3) do parts[i + 1] = pieces[random(#pieces)] end
    if random(8) == 1 then parts[#parts + 1] = "$" end
    return table.concat(parts)
  end

  local function random_subject()
    local letters = { "a", "b", "c", " ", "(", ")", "\0" }
    local parts = {}
    for i = 1, random(0, 14) do parts[i] = letters[random(#letters)] end
    return table.concat(parts)
  end

  local function recorder(calls, wait)
    return function(...)
      if wait then peri.sleep(0) end
      local key = { n = select("#", ...), ... }
      for i = 1, key.n do key[i] = math.type(key[i]) or key[i] end
      calls[#calls + 1] = table.concat(key, "|")
      local kind = #calls % 5
      if kind == 0 then return nil end
      if kind == 1 then return false end
      if kind == 2 then return #calls end
      return "<" .. calls[#calls] .. ">"
    end
  end

  local function replacements(wait)
    local calls = {}
    local fn = recorder(calls, wait)
    return calls, { fn, setmetatable({}, { __index = function(_, key) return fn(key) end }),
      { a = "1", b = false, ab = 2, [1] = "first" }, "<%0>", "", 7, "%1%%" }
  end

  it("gives and calls what string.gsub does #heavy", function()
    math.randomseed(seed)
    local matched = 0
    for _ = 1, 3000 do
      local s, pattern, kind = random_subject(), random_pattern(), random(7)
      local max = random(4) == 1 and random(-1, 3) or nil
      local stock_calls, stock = replacements(false)
      local our_calls, ours = replacements(random(4) == 1)
      local expected = table.pack(pcall(string.gsub, s, pattern, stock[kind], max))
      local got = table.pack(pcall(gsub, s, pattern, ours[kind], max))
      local what = ("seed %d: gsub(%q, %q, kind %d, %s)"):format(seed, s, pattern, kind, max)
      assert.same(expected, got, what)
      assert.same(stock_calls, our_calls, what)
      matched = matched + (expected[1] and expected[3] or 0)
    end
    assert.is_true(matched > 1000, "too little matched: " .. matched)
  end)

  it("does with anchors, empty matches, positions and limits what string.gsub does", function()
    for _, code in ipairs {
      "return f('abc', '', function() return '-' end)",
      "return f('', '', function() return '-' end)",
      "return f('abc', '^', function() return '-' end)",
      "return f('aaa', '^a', function() return '-' end)",
      "return f('abc', '$', function() return '-' end)",
      "return f('hello world', 'o*', function(x) return '<' .. x .. '>' end)",
      "return f('a,b,,c', '[^,]*', function(x) return '<' .. x .. '>' end)",
      "return f('abc', '()', function(x) return x end)",
      "return f('abc', '()b()', function(x, y) return x .. y end)",
      "return f('abc', '%w', function() return 'x' end, 2)",
      "return f('abc', '%w', function() return 'x' end, 0)",
      "return f('abc', '%w', function() return 'x' end, -1)",
      "return f('abc', '%w', function() return 'x' end, 2.0)",
      "return f('abc', '%w', function() return 'x' end, '2')",
      "return f(123, 2, function() return 5 end)",
      "return f(123, 'x', function() return 5 end)",
      "return f('abc', 'b', function() return 1.0 end)",
      "return f('abc', 'b', function() return 2^63 end)",
      "return f('a.b', '.', function() return 'x' end)",
      "return f('x^y', '%^', function() return '-' end)",
      "return f('THE (quick) fox', '%b()', function(x) return x:upper() end)",
      "return f('THE (quick) fox', '%f[%a]%a+', function(x) return x:lower() end)",
      "return f('one two', '(%w+) (%w+)', function(a, b) return b .. ' ' .. a end)",
      "return f('abc', '%w', setmetatable({ a = 'x' }, {}))",
      "return f(('x'):rep(300), ('(x)'):rep(32), function(...) return select('#', ...) end)",
    } do
      same_as_stock(string.gsub, gsub, code)
    end
  end)

  it("tells mistakes as string.gsub does", function()
    for _, code in ipairs {
      "f()", "f('x')", "f('x', 'x')", "f('x', 'x', nil)", "f('x', 'x', true)", "f({}, 'x', 'x')",
      "f('x', {}, 'x')", "f('x', 'x', 'x', 'y')", "f('x', 'x', 'x', 1.5)", "f('x', 'x', print, {})",
      "m.f('x')", "m:f('x')", "f('x', 'x', io.stdout)",
      "f('abc', 'b', function() return {} end)", "f('abc', 'b', function() return true end)",
      "f('abc', 'b', function() return print end)",
      "f('abc', 'b', { b = {} })", "f('abc', 'b', setmetatable({}, { __index = function() return {} end }))",
      "f('abc', 'b', '%')", "f('abc', 'b', '%2')", "f('abc', 'b', '%x')", "f('abc', '(b)', '%2')",
      "f('abc', '[', print)", "f('abc', 'b%', print)", "f('abc', '(', print)", "f('abc', ')', print)",
      "f('abc', '%f', print)", "f('abc', '%b', print)", "f('abc', '%1', print)", "f('abc', '(()', print)",
      "f('abc', ('()'):rep(33), print)", "f('abc', '[%', print)", "f('abc', '[a', 'x')",
      "f(('x'):rep(1000), ('x?'):rep(500) .. ('x'):rep(500) .. '[', print)",
      "f('abc', 'b', function() error('from the function', 2) end)",
      "f('abc', 'b', function() error('from the function') end)",
      "f('abc', 'b', setmetatable({}, { __index = function() error('from the table', 2) end }))",
      "f('abc', 'b', setmetatable({}, { __index = 5 }))",
      "local t = setmetatable({}, {}) getmetatable(t).__index = t f('abc', 'b', t)",
    } do
      same_as_stock(string.gsub, gsub, code)
    end
    assert.same({ pcall(string.gsub, "x", "[", print) }, { pcall(gsub, "x", "[", print) })
  end)

  it("takes the place of string.gsub", function()
    local stock = string.gsub
    local _ <close> = finally(function() string.gsub = stock end) -- luacheck: ignore
    string.gsub = gsub -- luacheck: ignore
    assert.equal("ha", (("ah"):gsub("(a)(h)", function(a, h)
      peri.sleep(0)
      return h .. a
    end)))
    local ok, err = pcall(function() return (("x"):gsub("x")) end)
    assert.is_false(ok)
    assert.matches("bad argument #2 to 'gsub' %(string/function/table expected, got no value%)$", err)
  end)

  it("ends at a cancellation and at a kill", function()
    for _, how in ipairs { "cancel", "kill" } do
      local lines, say = trace()
      local task = peri.create_task(function()
        local _ <close> = finally(function() say "closed" end)
        gsub("abc", "%w", function(x)
          say(x)
          peri.sleep(x == "b" and 60 or 0)
        end)
        say "never"
      end)
      spin(3)
      ends(task, how)
      assert.same({ "a", "b", "closed" }, lines)
    end
  end)
end)

-- tostring ----------------------------------------------------------------------

describe("yieldable.tostring", function()
  local tostring_ = yieldable.tostring

  it("waits in __tostring", function()
    local object = setmetatable({}, { __tostring = function() return peri.sleep(0, "told") end })
    assert.equal("told", tostring_(object))
  end)

  it("tells values as tostring does", function()
    local named, named_wrongly = setmetatable({}, { __name = "Thing" }), setmetatable({}, { __name = 1 })
    for _, value in ipairs { 1, 1.5, -0.0, 1 / 0, "x", "", true, false, print, named, named_wrongly,
      io.stdout, coroutine.create(print), peri.Future(), peri.ValueError "x" } do
      assert.equal(tostring(value), tostring_(value))
    end
    assert.equal("nil", tostring_(nil))
    assert.matches("^Thing: ", tostring_(named))
  end)

  it("gives and tells what tostring does", function()
    for _, code in ipairs {
      "local x = f()", "local x = m.f()", "return f(nil, 1)", "return select('#', f(1, 2))",
      "local x = f(setmetatable({}, { __tostring = function() return {} end }))",
      "local x = f(setmetatable({}, { __tostring = function() end }))",
      "return math.type(f(setmetatable({}, { __tostring = function() return 1 end })))",
      "return f(setmetatable({}, { __tostring = function() return 1.0 end }))",
      "local x = f(setmetatable({}, { __tostring = function() error 'no' end }))",
      "local x = f(setmetatable({}, { __tostring = function() error('no', 2) end }))",
    } do
      same_as_stock(tostring, tostring_, code)
    end
    local ok, err = pcall(function()
      local text = tostring_(setmetatable({}, { __tostring = sleepy(function() return {} end) }))
      return text
    end)
    assert.is_false(ok)
    assert.matches("^[^:]+:%d+: '__tostring' must return a string$", err)
  end)

  it("ends at a cancellation and at a kill", function()
    for _, how in ipairs { "cancel", "kill" } do
      local object = setmetatable({}, { __tostring = function() return peri.sleep(60, "late") end })
      ends(peri.create_task(tostring_, object), how)
    end
  end)
end)

-- xpcall --------------------------------------------------------------------------

describe("yieldable.xpcall", function()
  local xpcall_ = yieldable.xpcall

  it("waits in the function and in the handler", function()
    local function fail(text)
      peri.sleep(0)
      error(text, 0)
    end
    assert.same({ false, "handled oops" }, { xpcall_(fail, function(err)
      return "handled " .. peri.sleep(0, err)
    end, "oops") })
    assert.same({ true, 1, nil, 3, n = 4 },
      table.pack(xpcall_(function(...) return peri.sleep(0, ...) end, fail, 1, nil, 3)))
  end)

  it("hands the handler the traceback of the place of the error", function()
    local function culprit()
      peri.sleep(0)
      error "oops"
    end
    local function caller()
      local _ <close> = finally(function() pcall(error, "another one") end)
      culprit()
      return 1
    end
    local _, told = xpcall_(caller, function(_, traceback) return traceback end)
    assert.matches("^stack traceback:\n", told)
    assert.matches("in upvalue 'culprit'", told:gsub("function 'culprit'", "upvalue 'culprit'"), 1, true)
    assert.matches("yieldable_spec.lua:%d+: in function <[^>]*>", told)
    -- The same error again is another error, with frames of its own.
    local _, again = xpcall_(error, function(_, traceback) return traceback end, "oops")
    assert.is_nil(again:find("culprit", 1, true))
    assert.is_nil(again:find("in task", 1, true))
  end)

  it("calls a handler that is a C function where the error is raised, as xpcall does", function()
    local function culprit() error "oops" end
    local function call_culprit() culprit() end
    local ok, text = xpcall_(call_culprit, debug.traceback)
    assert.is_false(ok)
    assert.matches("oops\nstack traceback:\n", text, 1, true)
    assert.matches("culprit", text, 1, true)
    assert.same({ false, "OOPS" }, { xpcall_(error, string.upper, "oops") })
  end)

  it("gives and tells what xpcall does", function()
    for _, code in ipairs {
      "f()", "f(print)", "f(print, nil)", "f(print, 1)", "m.f(print)",
      "return f(nil, function(e) return e end)",
      "return f({}, function(e) return e end)",
      "return f(error, function(e) return e, 2 end)",
      "return f(error, function(e) return e, 2 end, 'x')",
      "return f(error, function(e) end, 'x')",
      "return f(error, function(e) return type(e) end, {})",
      "return f(function() return 1, 2 end, function() end)",
      "return f(function() local x = nil; return x.y end, function(e) return e end)",
      "return f(error, function(e) error('again', 0) end, 'x')",
      "local n = 0 return f(error, function(e) n = n + 1 if n < 9 then error('again') end return n .. e end, 'x')",
      "local function deep() return 1 + deep() end return f(deep, function(e) return (e:gsub('%(.*', '')) end)",
      "return f(string.rep, function(e) return e end, 'x', -1, {})",
      "return f(setmetatable({}, { __call = function(_, x) return x end }), print, 5)",
    } do
      same_as_stock(xpcall, xpcall_, code)
    end
  end)

  it("catches a cancellation, as xpcall does, and the handler may wait on", function()
    local lines, say = trace()
    local task = peri.create_task(function()
      say(xpcall_(peri.sleep, function(err, traceback)
        peri.sleep(0)
        return peri.iscancel(err), traceback
      end, 60))
      return "went on"
    end)
    spin(1)
    task:cancel()
    assert.equal("went on", task:await())
    assert.same({ "false true" }, lines)
  end)

  it("hands what is raised in a handler that waits to the handler, a cancellation too", function()
    local seen = {}
    local task = peri.create_task(function()
      return xpcall_(error, function(err)
        seen[#seen + 1] = tostring(err)
        if #seen == 1 then peri.sleep(60) end
        return "done"
      end, "oops")
    end)
    spin(2)
    task:cancel "stop"
    assert.same({ false, "done" }, { task:await() })
    assert.same({ "oops", "CancelledError: stop" }, seen)
  end)

  it("never catches a kill, in the function or in the handler", function()
    local lines, say = trace()
    local function handler() say "handler" end
    local function body()
      local _ <close> = finally(function() say "closed" end)
      peri.sleep(60)
    end
    ends(peri.create_task(function()
      xpcall_(body, handler)
      say "never"
    end), "kill")
    ends(peri.create_task(function()
      xpcall_(error, function() body() end, "oops")
      say "never"
    end), "kill")
    assert.same({ "closed", "closed" }, lines)
  end)
end)
