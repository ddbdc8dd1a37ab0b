package tcp

import "syscall"

// unsentLimit is how many bytes that have not been sent yet the kernel takes
// for one connection. By default it takes as much as it has sent and waits to
// be acknowledged, which makes packets late instead of dropped (PATH-26).
const unsentLimit = 64 << 10

// steady is the congestion control of connections that carry packets. There the
// QUIC above decides how much is sent; BBR takes that for a line that could carry
// more, never ends its startup, in which it sends up to 2.9 times what arrives,
// and so fills the line's queue (PATH-26).
const steady = "cubic"

// MakePrompt keeps packets on a connection from waiting long in the kernel and on
// the line, on systems that can: no more than 64 KiB that was not sent is taken,
// and the congestion control is one that does not overshoot. A connection that
// refuses works all the same.
func MakePrompt(raw syscall.RawConn) { _ = raw.Control(makePrompt) }
