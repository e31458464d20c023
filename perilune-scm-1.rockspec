rockspec_format = "3.0"
package = "perilune"
version = "scm-1"
-- For `luarocks make` in a checkout.
source = {
  url = ".",
}
description = {
  summary = "An async runtime for Lua 5.4 with the model of Python's asyncio",
  detailed = [[
Perilune maps Lua coroutines onto a libuv loop: tasks, futures, cancellation,
timeouts and locks as asyncio has them, as a module of stock Lua, as a program,
or embedded in a C host.]],
  license = "MIT",
}
supported_platforms = { "unix" }
dependencies = {
  "lua >= 5.4, < 5.5",
}
external_dependencies = {
  LIBUV = {
    header = "uv.h",
    library = "uv",
  },
}
build = {
  type = "cmake",
  variables = {
    CMAKE_BUILD_TYPE = "RelWithDebInfo",
    CMAKE_INSTALL_PREFIX = "$(PREFIX)",
    PERILUNE_ONLY_MODULE = "ON",
    CMODDIR = "$(LIBDIR)",
    LUA_INCLUDE_DIR = "$(LUA_INCDIR)",
    PERILUNE_LUA_PROGRAM = "$(LUA)",
    UV_INCLUDE_DIR = "$(LIBUV_INCDIR)",
    BUILD_TESTING = "OFF",
  },
}
