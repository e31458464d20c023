-- The specs of futures.lua, for both kinds of pools.
local directory = debug.getinfo(1, "S").source:match "^@(.*)futures_spec%.lua$"
local specs = assert(loadfile(directory .. "futures.lua", "t", _ENV))

specs "ThreadPoolExecutor"
specs "ProcessPoolExecutor"
