//go:build !linux

package udp

import "net"

func newDriver(conn *net.UDPConn, six bool) (driver, error) { return newPlain(conn, six) }
