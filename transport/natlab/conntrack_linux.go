package natlab

import (
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// forgetUDP drops the connection-tracking entries of UDP over IPv4, and with
// them all kernel NAT of it.
func (n namespace) forgetUDP() error {
	var udp netlink.ConntrackFilter
	if err := udp.AddProtocol(unix.IPPROTO_UDP); err != nil {
		return err
	}

	return n.do(func() error {
		_, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, &udp)

		return err
	})
}
