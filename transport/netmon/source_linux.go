package netmon

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// kernelTimeout bounds an answer of the kernel, which takes microseconds.
	kernelTimeout = 2 * time.Second
	dumpTries     = 3
)

// groups are what the kernel is asked to report.
var groups = []int{
	unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
	unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE,
}

// kernel is the source that netlink (rtnetlink(7)) is. Its sockets stay in
// the network namespace of the thread that opened them.
type kernel struct {
	reports *os.File
	ask     *netlink.Handle
}

// openSource opens netlink, or polls where that is forbidden.
func openSource(log *slog.Logger) (source, error) {
	k, err := openKernel()
	if err != nil {
		log.Debug("network changes are polled", "err", err)
		return newPoll(), nil
	}
	return k, nil
}

func openKernel() (*kernel, error) {
	var mask uint32
	for _, g := range groups {
		mask |= 1 << (g - 1)
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, os.NewSyscallError("open netlink", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: mask}); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("bind netlink", err)
	}
	reports := os.NewFile(uintptr(fd), "netlink")
	ask, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err == nil {
		err = ask.SetSocketTimeout(kernelTimeout)
	}
	if err != nil {
		reports.Close()
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	k := &kernel{reports, ask}
	if _, err := k.read(); err != nil { // some sandboxes open it and forbid all else
		k.stop()
		k.close()
		return nil, err
	}
	return k, nil
}

func (k *kernel) watch(changed func(down int) bool) {
	b := make([]byte, 1<<16)
	for {
		n, err := k.reports.Read(b)
		down := 0
		switch {
		case err == nil:
			down = lostLink(b[:n])
		case errors.Is(err, unix.ENOBUFS): // more reports than fit: something changed
		default:
			return // stopped
		}
		if !changed(down) {
			return
		}
	}
}

// lostLink returns the index of an interface that a report says is down or has
// no link, or 0.
func lostLink(report []byte) int {
	messages, err := syscall.ParseNetlinkMessage(report)
	if err != nil {
		return 0
	}
	for _, m := range messages {
		if m.Header.Type != unix.RTM_NEWLINK || len(m.Data) < unix.SizeofIfInfomsg || m.Data[0] != unix.AF_UNSPEC {
			continue
		}
		index, flags := binary.NativeEndian.Uint32(m.Data[4:]), binary.NativeEndian.Uint32(m.Data[8:])
		if flags&unix.IFF_UP == 0 || flags&unix.IFF_RUNNING == 0 {
			return int(index)
		}
	}
	return 0
}

func (k *kernel) stop() { k.reports.Close() }

func (k *kernel) close() { k.ask.Close() }

func (k *kernel) read() (State, error) {
	links, err := dump(k.ask.LinkList)
	if err != nil {
		return State{}, fmt.Errorf("list network interfaces: %w", err)
	}
	addrs, err := dump(func() ([]netlink.Addr, error) { return k.ask.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return State{}, fmt.Errorf("list network addresses: %w", err)
	}
	exit4, gateway4 := k.route(far4)
	exit6, gateway6 := k.route(far6)

	var s State
	for _, l := range links {
		a := l.Attrs()
		i := Interface{
			Name: a.Name, Index: a.Index,
			Up: a.RawFlags&unix.IFF_UP != 0 && a.RawFlags&unix.IFF_RUNNING != 0,
		}
		if a.Index == exit4 {
			i.Default4, i.gateway4 = true, gateway4
		}
		if a.Index == exit6 {
			i.Default6, i.gateway6 = true, gateway6
		}
		for _, addr := range addrs {
			if addr.LinkIndex != a.Index || addr.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) != 0 {
				continue
			}
			if ip, ok := netip.AddrFromSlice(addr.IP); ok {
				bits, _ := addr.Mask.Size()
				i.Addrs = append(i.Addrs, netip.PrefixFrom(ip.Unmap(), bits))
			}
		}
		s.Interfaces = append(s.Interfaces, i)
	}
	s.sort()
	return s, nil
}

// route returns by which interface and gateway packets leave for an address;
// 0 if they do not. It follows policy rules, as tunnels set them.
func (k *kernel) route(to netip.Addr) (index int, gateway netip.Addr) {
	routes, err := k.ask.RouteGet(net.IP(to.AsSlice()))
	if err != nil || len(routes) == 0 {
		return 0, netip.Addr{}
	}
	gateway, _ = netip.AddrFromSlice(routes[0].Gw)
	return routes[0].LinkIndex, gateway.Unmap()
}

// dump lists something that may change meanwhile.
func dump[T any](list func() ([]T, error)) (out []T, err error) {
	for range dumpTries {
		if out, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return out, err
		}
	}
	return out, err
}
