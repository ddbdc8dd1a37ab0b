package tcp

import "syscall"

// unsentLimit is how many bytes that have not been sent yet the kernel takes
// for one connection. By default it takes as much as it has sent and waits to
// be acknowledged, which makes packets late instead of dropped (PATH-26).
const unsentLimit = 64 << 10

// LimitUnsent lets the kernel take no more than 64 KiB that it has not sent, on
// systems that can. A connection that refuses works all the same.
func LimitUnsent(raw syscall.RawConn) { _ = raw.Control(setUnsentLimit) }
