-- Rounds, medians and ratios. The programs of a case run in turn, A B C A B C,
-- and a ratio is taken between two runs of one round: what else the machine does
-- comes and goes slowly, so it falls on both.
local machine = require "machine"

local measure = {}

local function median(list)
  local sorted = table.move(list, 1, #list, 1, {})
  table.sort(sorted)
  local n = #sorted
  return (sorted[(n + 1) // 2] + sorted[n // 2 + 1]) / 2
end

local function summary(list)
  return {
    median = median(list),
    min = math.min(table.unpack(list)),
    max = math.max(table.unpack(list)),
    samples = list,
  }
end

local own = { floor = true, ["shared-floor"] = true, perilune = true, lua = true }

-- The programs of the case that can run here, and those that cannot.
local function prepare(bench, case, peers)
  local rows, skipped = {}, {}
  for _, program in ipairs(case.programs) do
    if peers or own[program[2]] then
      local command, reason = machine.command(bench, program)
      if command then
        local row = { label = program[1], program = program, command = command }
        row.samples = {}
        table.insert(rows, row)
      else
        table.insert(skipped, { label = program[1], reason = reason })
      end
    end
  end
  return rows, skipped
end

-- A program that failed once is not run again: half a set of rounds has no
-- partner for its ratios.
local function run_row(row, case)
  local figures, reason = machine.run(row.program, row.command)
  if not figures then
    row.failed = reason
    return
  end
  for _, column in ipairs(case.columns) do
    local key = column[1]
    if not figures[key] then
      row.failed = "printed no figure named " .. key
      return
    end
    row.samples[key] = row.samples[key] or {}
    table.insert(row.samples[key], figures[key])
  end
end

local function ratios(row, base, key)
  local list = {}
  for i, value in ipairs(row.samples[key]) do
    list[i] = value / base.samples[key][i]
  end
  return summary(list)
end

local function find(rows, label)
  for _, row in ipairs(rows) do
    if row.label == label and not row.failed then
      return row
    end
  end
end

--- What a case came to: rows with `columns[key]`, `ratios[key]` and `ratio`, that
--- of the first column (medians, ranges, samples), or `failed`; and the list
--- `skipped`.
function measure.case(bench, case, options)
  local rows, skipped = prepare(bench, case, options.peers)
  for round = 1, options.rounds do
    for _, row in ipairs(rows) do
      if not row.failed then
        options.progress(round, row.label)
        run_row(row, case)
      end
    end
  end
  local first = case.columns[1][1]
  local base = find(rows, case.base)
  for _, row in ipairs(rows) do
    if not row.failed then
      row.columns, row.ratios = {}, {}
      for _, column in ipairs(case.columns) do
        local key = column[1]
        row.columns[key] = summary(row.samples[key])
        row.ratios[key] = base and ratios(row, base, key)
      end
      row.ratio = row.ratios[first]
      row.is_base = row == base
    end
  end
  return { bench = bench, case = case, rows = rows, skipped = skipped }
end

--- The aims of a case with what was measured: `value` is nil where the program
--- or its base did not run.
function measure.aims(result)
  local list = {}
  for _, aim in ipairs(result.case.aims) do
    local row = find(result.rows, aim.of)
    local figure = row and (aim.ratio and row.ratios or row.columns)[aim.key]
    local value = figure and figure.median
    table.insert(list, {
      aim = aim,
      value = value,
      met = value ~= nil and value <= (aim.ratio or aim.limit),
    })
  end
  return list
end

return measure
