---@meta

---A stream of bytes both ways: a TCP connection, a Unix socket, a pipe, a terminal.
---One task at a time may read, any number may write. A `<close>` variable closes it:
---a block that ends well waits until the output has gone, one that an error leaves
---does not.
---
---Errors are OSErrors with `code`, `errno`, `syscall` and `address` or `path`. A wait
---that another task's `close` ends has the code ECANCELED, a call after it EBADF.
---Methods that wait take `{timeout = seconds}` last, by the real clock, and raise
---TimeoutError.
---
---Python: `asyncio.StreamReader` and `StreamWriter`, in one object.
---@class perilune.Stream
local Stream = {}

---Reads up to n bytes, as soon as there are any. Without n, or with n < 0: all until
---the end.
---
---Raises RuntimeError if another task is reading.
---
---Cancellation: no byte is lost.
---
---Python: `StreamReader.read`, differs in that `read(n)` gives nil at the end.
---@param n? integer bytes
---@param options? { timeout: number? } seconds
---@return string? data nil at the end; "" of `read()` there
---@async
function Stream:read(n, options) end

---Reads exactly n bytes.
---
---Raises IncompleteReadError (`partial`, `expected`) if the end comes before, and
---RuntimeError if another task is reading.
---
---Cancellation: no byte is lost.
---
---Python: `StreamReader.readexactly`.
---@param n integer bytes
---@param options? { timeout: number? } seconds
---@return string
---@async
function Stream:readexactly(n, options) end

---Reads up to a separator, which is the end of what it returns. Of several, the one
---that ends first.
---
---Raises IncompleteReadError (`partial`) if the end comes before, LimitOverrunError
---(`consumed`: what can be read away) if more than the limit comes before, and
---RuntimeError if another task is reading.
---
---Cancellation: no byte is lost.
---
---Python: `StreamReader.readuntil`.
---@param separator? string|string[] "\n" if none is given
---@param options? { timeout: number? } seconds
---@return string
---@async
function Stream:readuntil(separator, options) end

---Reads a line with its newline, which a last line may lack.
---
---Raises ValueError if the line is longer than the limit; it is dropped as far as it
---has come. RuntimeError if another task is reading.
---
---Cancellation: no byte is lost.
---
---Python: `StreamReader.readline`, differs in that it gives nil at the end.
---@param options? { timeout: number? } seconds
---@return string? line
---@async
function Stream:readline(options) end

---Iterates over the lines, without their newlines, until the end: `for line in
---stream:lines() do`. Does not close the stream. Raises what `readline` does.
---
---Python: `async for line in reader`.
---@param options? { timeout: number? } seconds for each line
---@return fun(stream: perilune.Stream): string?
---@return perilune.Stream
---@async
function Stream:lines(options) end

---Whether the input has ended and all of it was read.
---
---Python: `StreamReader.at_eof`.
---@return boolean
function Stream:at_eof() end

---Copies to another stream until the end, and returns how many bytes that were. They
---do not become Lua strings; where the other stream is congested, this one's peer
---has to wait. The other one is not closed, nor its output ended.
---
---Raises what reading here and writing there would.
---
---Cancellation: what was read has been written or queued.
---@param other perilune.Stream
---@param options? { timeout: number? } seconds for all of it
---@return integer bytes
---@async
function Stream:forward(other, options) end

---Writes strings, one after the other: at once what the kernel takes, the rest is
---queued. Numbers are written as their text. Does not wait: see `drain`.
---
---Raises OSError if the connection is lost (EPIPE, ECONNRESET), the output ended
---(EPIPE) or the stream closed (EBADF).
---
---Python: `StreamWriter.write`, differs in that it raises at once.
---@param ... string|number
function Stream:write(...) end

---Writes the strings of a list. See `write`.
---
---Python: `StreamWriter.writelines`.
---@param list (string|number)[]
function Stream:writelines(list) end

---Waits, if more is queued than the high-water mark, until it is less than the low
---one.
---
---Raises OSError if the connection is lost.
---
---Cancellation: what is queued stays queued.
---
---Python: `StreamWriter.drain`.
---@param options? { timeout: number? } seconds
---@async
function Stream:drain(options) end

---Ends the output, once what is queued has gone; input still comes. Of a pipe that
---has only output it is the end.
---
---Raises OSError ENOTSUP where that is not possible.
---
---Python: `StreamWriter.write_eof`.
function Stream:write_eof() end

---Whether `write_eof` is possible.
---
---Python: `StreamWriter.can_write_eof`.
---@return boolean
function Stream:can_write_eof() end

---Sets the water marks of `drain`.
---
---Raises ValueError if low is above high.
---
---Python: `WriteTransport.set_write_buffer_limits`.
---@param limits? { high: integer?, low: integer? } bytes: 65,536 and a quarter of it
function Stream:set_write_buffer_limits(limits) end

---The limits of the output that may wait, as `set_write_buffer_limits` has set
---them.
---@return integer low
---@return integer high
function Stream:get_write_buffer_limits() end

---How many bytes are queued.
---
---Python: `WriteTransport.get_write_buffer_size`.
---@return integer
function Stream:get_write_buffer_size() end

---Closes the stream: no input any more, and no connection once what is queued has
---gone, for which there may be a limit (`set_close_timeout`). Tasks that wait for
---input or room get an OSError ECANCELED.
---
---Python: `StreamWriter.close`.
function Stream:close() end

---Sets how long a closed stream tries to get rid of its output: it is aborted when
---nothing of it has gone for so long. Those of a server's connections have 60
---seconds, since their handlers have ended, others no limit.
---@param seconds? number seconds; nil: no limit
function Stream:set_close_timeout(seconds) end

---Closes the connection now; what is queued is lost.
---
---Python: `WriteTransport.abort`.
function Stream:abort() end

---Waits until the stream is closed, by whomever.
---
---Raises the OSError by which the connection was lost, if it was.
---
---Cancellation: touches nothing.
---
---Python: `StreamWriter.wait_closed`.
---@param options? { timeout: number? } seconds
---@async
function Stream:wait_closed(options) end

---Whether `close` or `abort` was called, or the connection lost.
---
---Python: `StreamWriter.is_closing`.
---@return boolean
function Stream:is_closing() end

---The address of this end.
---@return string? host a Unix socket's path, "" if it has none; nil of a pipe
---@return integer? port
function Stream:getsockname() end

---The address of the other end; known after `close`, too, if it is TCP.
---@return string? host a Unix socket's path, "" if it has none; nil of a pipe
---@return integer? port
function Stream:getpeername() end

---The descriptor, which stays the stream's; nil once it is closed.
---@return integer?
function Stream:fileno() end

---TCP: whether small writes are sent at once. They are, unless this says otherwise.
---@param on? boolean true if it is not given
function Stream:set_nodelay(on) end

---TCP: whether, and after how many seconds without a word, the kernel asks if the
---other end is still there.
---@param on? boolean|number true if it is not given
function Stream:set_keepalive(on) end

---TCP: how long the kernel tries to get rid of the output after the close. 0: not at
---all, and a reset for the peer.
---@param seconds? number seconds; nil: as long as it likes
function Stream:set_linger(seconds) end

---Says how much output the kernel may hold.
---@param bytes integer of the kernel's buffer
function Stream:set_send_buffer_size(bytes) end

---Says how much input the kernel may hold.
---@param bytes integer of the kernel's buffer
function Stream:set_receive_buffer_size(bytes) end
