-- A gather of functions one of whose children had become an ordinary task, and
-- ended before the others, never ended. (The specs did not see it: inside of
-- run() no child was a bare task, since the main task had a context.)
local peri = require "perilune"

local function ordinary()
  peri.current_task() -- makes the task an object
end

describe("a gather of functions", function()
  for _, order in ipairs { { 1, 2, 3 }, { 2, 1, 3 }, { 3, 2, 1 }, { 2, 2, 1 }, { 1, 1, 1 } } do
    for _, asks in ipairs { { true }, { false, true }, { false, false, true }, { true, true, true } } do
      it(("ends when children end in the order %s and some ask for themselves (%s)")
        :format(table.concat(order), #asks), function()
        local functions = {}
        for i = 1, 3 do
          functions[i] = function()
            if asks[i] then ordinary() end
            peri.sleep(order[i])
            return i
          end
        end
        local gather = peri.gather(functions)
        assert.same({ n = 3, 1, 2, 3 }, peri.wait_for(gather, 10))
        assert.same(peri.get_running_loop():time(), math.max(table.unpack(order)))
      end)
    end
  end
end)
