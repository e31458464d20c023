-- The results as plain text, as markdown and as JSON.
local measure = require "measure"

local report = {}

--- Three figures that count, and no exponent.
local function number(x)
  local size = math.abs(x)
  local digits = size >= 100 and 0 or size >= 10 and 1 or size >= 1 and 2 or 3
  return ("%." .. digits .. "f"):format(x)
end

-- Every row as a list of cells, the heading first.
local function cells(result)
  local case = result.case
  local heading = { "program", case.columns[1][2], "min..max" }
  if case.base then
    table.insert(heading, "ratio")
  end
  for i = 2, #case.columns do
    table.insert(heading, case.columns[i][2])
  end
  local list = { heading }
  for _, row in ipairs(result.rows) do
    if not row.failed then
      local main = row.columns[case.columns[1][1]]
      local line = { row.label, number(main.median) }
      line.is_base = row.is_base
      table.insert(line, number(main.min) .. ".." .. number(main.max))
      if case.base then
        table.insert(line, row.ratio and ("%.2f"):format(row.ratio.median) or "-")
      end
      for i = 2, #case.columns do
        table.insert(line, number(row.columns[case.columns[i][1]].median))
      end
      table.insert(list, line)
    end
  end
  return list
end

local function heading_of(case, key)
  for _, column in ipairs(case.columns) do
    if column[1] == key then
      return column[2]
    end
  end
end

--- An aim in words: what is asked, what was measured, whether it is met.
function report.aim(case, entry)
  local aim = entry.aim
  local function format(x)
    return aim.ratio and ("%.2f"):format(x) or number(x)
  end
  local bound = format(aim.ratio or aim.limit)
  if aim.ratio then
    bound = ("%sx %s"):format(bound, case.base)
  end
  local value = entry.value and format(entry.value) or "not measured"
  return ("%s, %s <= %s: %s, %s"):format(
    aim.of,
    heading_of(case, aim.key),
    bound,
    value,
    entry.met and "met" or "MISSED"
  )
end

local function widths(list)
  local w = {}
  for _, line in ipairs(list) do
    for i, cell in ipairs(line) do
      w[i] = math.max(w[i] or 0, #cell)
    end
  end
  return w
end

local function notes(result, prefix)
  local list = {}
  for _, entry in ipairs(measure.aims(result)) do
    table.insert(list, prefix .. "aim: " .. report.aim(result.case, entry))
  end
  for _, row in ipairs(result.rows) do
    if row.failed then
      table.insert(list, ("%sfailed: %s: %s"):format(prefix, row.label, row.failed))
    end
  end
  -- One line for each reason: a missing runtime takes several programs with it.
  local reasons = {}
  for _, skip in ipairs(result.skipped) do
    local labels = reasons[skip.reason]
    if not labels then
      labels = {}
      reasons[skip.reason] = labels
      table.insert(reasons, skip.reason)
    end
    table.insert(labels, skip.label)
  end
  for _, reason in ipairs(reasons) do
    local labels = table.concat(reasons[reason], "; ")
    table.insert(list, ("%sskipped, %s: %s"):format(prefix, reason, labels))
  end
  return list
end

--- The table of a case as plain text.
function report.text(result)
  local list = cells(result)
  local w = widths(list)
  local out = { result.case.title }
  for _, line in ipairs(list) do
    local parts = {}
    for i, cell in ipairs(line) do
      parts[i] = ("%" .. (i == 1 and "-" or "") .. w[i] .. "s"):format(cell)
    end
    table.insert(out, "  " .. table.concat(parts, "  "))
  end
  for _, note in ipairs(notes(result, "  ")) do
    table.insert(out, note)
  end
  return table.concat(out, "\n") .. "\n"
end

--- The table of a case in markdown; the base is bold.
function report.markdown(result)
  local out = { "### " .. result.case.title, "" }
  for n, line in ipairs(cells(result)) do
    local name = line.is_base and "**" .. line[1] .. "**" or line[1]
    local row = name .. " | " .. table.concat(line, " | ", 2)
    table.insert(out, "| " .. row .. " |")
    if n == 1 then
      table.insert(out, "| --- |" .. (" ---: |"):rep(#line - 1))
    end
  end
  local list = notes(result, "- ")
  if #list > 0 then
    table.insert(out, "")
    table.insert(out, table.concat(list, "\n"))
  end
  return table.concat(out, "\n") .. "\n"
end

local json

local function json_members(t, keys)
  local parts = {}
  for _, key in ipairs(keys) do
    table.insert(parts, ("%q: %s"):format(key, json(t[key])))
  end
  return "{" .. table.concat(parts, ", ") .. "}"
end

-- Tables with an array part, and empty ones, are arrays; no table here is both.
function json(value)
  if type(value) == "table" then
    if #value > 0 or next(value) == nil then
      local parts = {}
      for i, item in ipairs(value) do
        parts[i] = json(item)
      end
      return "[" .. table.concat(parts, ", ") .. "]"
    end
    local keys = {}
    for key in pairs(value) do
      table.insert(keys, key)
    end
    table.sort(keys)
    return json_members(value, keys)
  elseif type(value) == "string" then
    local escaped = value:gsub('[%c"\\]', function(c)
      return ("\\u%04x"):format(c:byte())
    end)
    return '"' .. escaped .. '"'
  elseif type(value) == "number" then
    return ("%.6g"):format(value)
  end
  return tostring(value)
end

--- All results with every sample.
function report.json(results, description)
  local benches = {}
  for _, result in ipairs(results) do
    local rows, aims = {}, {}
    for _, row in ipairs(result.rows) do
      table.insert(rows, {
        label = row.label,
        failed = row.failed,
        columns = row.columns,
        ratio = row.ratio,
      })
    end
    for _, entry in ipairs(measure.aims(result)) do
      local aim = entry.aim
      table.insert(aims, {
        of = aim.of,
        key = aim.key,
        ratio = aim.ratio,
        limit = aim.limit,
        value = entry.value,
        met = entry.met,
      })
    end
    table.insert(benches, {
      benchmark = result.bench,
      title = result.case.title,
      rows = rows,
      aims = aims,
      skipped = result.skipped,
    })
  end
  return json { machine = description, results = benches } .. "\n"
end

return report
