-- What peri_run_file and peri_start_file run.
script_ran = 0 -- luacheck: ignore
for i = 1, 4 do script_ran = script_ran + i end -- luacheck: ignore
