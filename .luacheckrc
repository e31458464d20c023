std = "lua54"
exclude_files = { "build", "lua/perilune/meta", "spec/conformance/cases" }

files["spec"] = { std = "lua54+busted" }
