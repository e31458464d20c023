---@meta

---A socket for datagrams, which `net.create_datagram_endpoint` makes.
---`for data, host, port in socket do` receives until it is closed.
---@class perilune.DatagramSocket
---@field dropped integer datagrams that came and found no room
local DatagramSocket = {}

---Sends a datagram: to an address, or where the socket is connected to.
---
---Raises OSError (`code` such as "EMSGSIZE"; of a connected socket "ECONNREFUSED"
---for one that was sent before), ValueError for what is no IP address, and
---TimeoutError if the kernel has no room for it within `timeout` seconds.
---
---Cancellation: what waits for room is sent all the same.
---@param data string
---@param host? string an IP address
---@param port? integer
---@param options? { timeout: number? } seconds; may stand for host and port
---@async
function DatagramSocket:send(data, host, port, options) end

---Waits for the next datagram, and tells where it is from.
---
---Raises OSError if the socket is closed, or if one that was sent before was
---refused, and TimeoutError if none comes within `timeout` seconds.
---
---Cancellation: no datagram is lost.
---@param options? { timeout: number? } seconds
---@return string data
---@return string host
---@return integer port
---@async
function DatagramSocket:recv(options) end

---Connects to an address; nil: to none any more. Raises OSError.
---@param host string? an IP address
---@param port? integer
function DatagramSocket:connect(host, port) end

---Closes the socket; harmless if it is closed. Tasks that wait for a datagram get
---an error.
function DatagramSocket:close() end

---Tells whether the socket is closed.
---@return boolean
function DatagramSocket:is_closing() end

---The address that the socket is bound to. Raises OSError.
---@return string host
---@return integer port
function DatagramSocket:getsockname() end

---The address that the socket is connected to. Raises OSError.
---@return string host
---@return integer port
function DatagramSocket:getpeername() end

---The descriptor, which stays the socket's.
---@return integer
function DatagramSocket:fileno() end

---Allows sending to the broadcast address. Raises OSError.
---@param on? boolean true if not given
function DatagramSocket:set_broadcast(on) end

---Sets how many routers a datagram may pass. Raises OSError.
---@param n integer 1 to 255
function DatagramSocket:set_ttl(n) end

---Sets whether what is sent to a group comes to this machine as well. Raises
---OSError.
---@param on? boolean true if not given
function DatagramSocket:set_multicast_loopback(on) end

---Sets how many routers a datagram to a group may pass. Raises OSError.
---@param n integer 1 to 255
function DatagramSocket:set_multicast_ttl(n) end

---Sets the interface that datagrams to groups leave by, told by its address; nil:
---the system's choice. Raises OSError.
---@param address string?
function DatagramSocket:set_multicast_interface(address) end

---Takes part in a multicast group. Raises OSError.
---@param group string its IP address
---@param interface? string the IP address of an interface; nil: the system's choice
function DatagramSocket:join_multicast(group, interface) end

---Leaves a multicast group. Raises OSError.
---@param group string its IP address
---@param interface? string as it was joined
function DatagramSocket:leave_multicast(group, interface) end

---Sets the size of the kernel's buffer. Raises OSError.
---@param n integer bytes
function DatagramSocket:set_send_buffer_size(n) end

---Sets the size of the kernel's buffer. Raises OSError.
---@param n integer bytes
function DatagramSocket:set_receive_buffer_size(n) end
