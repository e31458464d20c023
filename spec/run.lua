-- perilune spec/run.lua [BUSTED ARGUMENTS]
-- Runs busted inside the runtime: hooks and test bodies may wait. Without a
-- file or directory among the arguments every *_spec.lua under spec/ is run;
-- paths are relative to the repository. PERILUNE names the program that specs
-- start as a child. PERILUNE_SPEC_GC=max sets the collector to its maximum, and
-- leaves out what is tagged #heavy, which would take hours then.
--
-- busted restores package.loaded after each file. A perilune.* module first
-- loaded inside a file would therefore be loaded once more by the next file
-- that requires it, and its classes would exist twice. So all of them are
-- loaded here, before busted starts.

local function output_of(command)
  local pipe = assert(io.popen(command))
  local text = pipe:read "a"
  pipe:close()
  return (text:gsub("\n$", ""))
end

local script = arg[0]
local here = output_of(("cd '%s' && pwd -P"):format(script:match "^(.*)/[^/]*$" or "."))
local root = here:match "^(.*)/[^/]*$"
package.path = here .. "/?.lua;" .. here .. "/?/init.lua;" .. package.path

require "perilune"
for name in pairs(package.preload) do
  if name:find "^perilune%." then require(name) end
end

-- The core object that the runner makes is not handed to a helper script, but
-- the harness needs it to put its own executor in place of busted's for `it`.
local support = require "support"
local make_core = require "busted.core"
package.loaded["busted.core"] = function()
  local core = make_core()
  support.harness.core = core
  return core
end

local options = {
  "--directory=" .. root,
  "--pattern=_spec%.lua$",
  "--helper=" .. here .. "/support/helper.lua",
  "--loaders=lua",
}
-- With the collector at its maximum a cycle follows the other: a value that
-- nothing anchors is gone at the next allocation or so.
if os.getenv "PERILUNE_SPEC_GC" == "max" then
  collectgarbage("incremental", 1, 1000, 1)
  options[#options + 1] = "--exclude-tags=heavy"
end
-- Ours come first, so that the caller's win.
table.move(arg, 1, #arg, #options + 1)
table.move(options, 1, #options, 1, arg)

local run = require "busted.runner"
run { standalone = false }
