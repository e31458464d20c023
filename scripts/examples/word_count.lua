-- word_count.lua [--threads] [--timeout SECONDS] [-n N] PATH...: the N (10) most
-- frequent words of the text files that PATH names or has below it. A word is what
-- stands between other things than ASCII letters; case does not matter.
--
-- Tasks walk and read, worker processes count (--threads: threads of this one). On
-- a terminal a bar on stderr shows how far it is. After --timeout or Ctrl-C it
-- prints what it has counted so far, and says so. Exits with 0 if all was counted,
-- 1 if not, 2 after a wrong argument.
local peri = require "perilune"
local fs = require "perilune.fs"
local futures = require "perilune.futures"
local stdio = require "perilune.stdio"

local BATCH <const> = 32 -- files in a job
local AT_ONCE <const> = 8 -- batches read or counted at a time

local complete = true

local function complain(problem)
  io.stderr:write("word_count: ", tostring(problem), "\n")
  complete = false
end

-- The job: texts to a table of words, and how often each occurs.
local function count_words(texts)
  local counts = {}
  for _, text in ipairs(texts) do
    for word in text:lower():gmatch "%a+" do counts[word] = (counts[word] or 0) + 1 end
  end
  return counts
end

-- What has been counted, and how many files were found.
local totals, files_done, files = {}, 0, 0

-- The batches of files below the paths.
local function collect(paths)
  local batches = {}
  local function add(path)
    if files % BATCH == 0 then batches[#batches + 1] = {} end
    table.insert(batches[#batches], path)
    files = files + 1
  end
  for _, path in ipairs(paths) do
    local ok, stat = peri.pcall(fs.stat, path)
    if not ok then
      complain(stat)
    elseif stat.type ~= "directory" then
      add(path)
    else
      for below, kind in fs.walk(path, { on_error = complain }) do
        if kind == "file" then add(below) end
      end
    end
  end
  return batches
end

-- The text of a file; nil: it cannot be read, or has a zero byte in its beginning
-- and is no text.
local function read_text(path)
  local ok, text = peri.pcall(fs.read_file, path)
  if not ok then return complain(text) end
  if not text:sub(1, 1024):find("\0", 1, true) then return text end
end

local function count_batch(executor, slots, batch)
  local _ <close> = slots:guard()
  local texts = {}
  for _, path in ipairs(batch) do texts[#texts + 1] = read_text(path) end
  return executor:submit(count_words, texts):await(), #batch
end

local bar_shown = stdio.isatty "stderr"

local function draw_bar(done, total)
  if not bar_shown then return end
  local full = total > 0 and 40 * done // total or 40
  stdio.stderr:write(("\r\27[K[%s%s] %d/%d"):format(("#"):rep(full), ("."):rep(40 - full), done, total))
end

local function clear_bar()
  if bar_shown then stdio.stderr:write "\r\27[K" end
end

local function count_all(executor, paths)
  local slots = peri.Semaphore(AT_ONCE)
  local batches = collect(paths)
  local group <close> = peri.TaskGroup()
  local tasks = {}
  for i, batch in ipairs(batches) do
    tasks[i] = group:create_task(count_batch, executor, slots, batch)
  end
  for task in peri.as_completed(tasks) do
    local counts, n = task:await()
    for word, count in pairs(counts) do totals[word] = (totals[word] or 0) + count end
    files_done = files_done + n
    draw_bar(files_done, files)
  end
end

local function report(n)
  clear_bar()
  local words = {}
  for word in pairs(totals) do words[#words + 1] = word end
  table.sort(words, function(a, b)
    if totals[a] ~= totals[b] then return totals[a] > totals[b] end
    return a < b
  end)
  for i = 1, math.min(n, #words) do
    stdio.stdout:write(("%7d %s\n"):format(totals[words[i]], words[i]))
  end
  stdio.stdout:drain()
end

local function usage()
  io.stderr:write "usage: word_count.lua [--threads] [--timeout SECONDS] [-n N] PATH...\n"
  os.exit(2)
end

local function read_arguments()
  local options, paths = { n = 10, Executor = futures.ProcessPoolExecutor }, {}
  local i = 1
  while arg[i] do
    local word = arg[i]
    if word == "--threads" then
      options.Executor = futures.ThreadPoolExecutor
    elseif word == "--timeout" then
      i = i + 1
      options.timeout = tonumber(arg[i]) or usage()
    elseif word == "-n" then
      i = i + 1
      options.n = math.tointeger(tonumber(arg[i])) or usage()
    elseif word:find "^%-." then
      usage()
    else
      paths[#paths + 1] = word
    end
    i = i + 1
  end
  return #paths > 0 and options or usage(), paths
end

local options, paths = read_arguments()

local function main()
  local executor <close> = options.Executor()
  -- What has not begun when this ends early need not be counted any more.
  local _ <close> = peri.defer(executor.shutdown, executor, { cancel_futures = true, wait = false })
  count_all(executor, paths)
end

-- pcall, not peri.pcall: Ctrl-C cancels the task, and the report comes all the same.
-- It is shielded: a second Ctrl-C ends the wait, and the program, but not the report.
local ok, err
if options.timeout then
  ok, err = pcall(peri.timeout, options.timeout, main)
else
  ok, err = pcall(main)
end
peri.shield(peri.call(report, options.n)):await()
if not ok then
  if not peri.iscancel(err) and not peri.TimeoutError:is(err) then error(err, 0) end
  complain(("%s: these are the words of %d of %d files"):format(
    peri.iscancel(err) and "interrupted" or ("stopped after %g s"):format(options.timeout),
    files_done, files))
end
os.exit(complete and 0 or 1)
