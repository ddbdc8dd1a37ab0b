package discovery

import (
	"context"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
)

// runInNamespace runs this test in a process in a network namespace of its
// own, if we are root: zeroconf opens sockets from goroutines of its own, so
// the namespace of one thread would not do.
func runInNamespace(t *testing.T) bool {
	t.Helper()
	if os.Geteuid() != 0 {
		return false
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v", "-discovery.namespace")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	require.NoError(t, err)
	return true
}

// addInterface makes a local network with only this node on it: a cable with
// nobody at its other end.
func addInterface(t *testing.T) {
	t.Helper()
	lo, err := netlink.LinkByName("lo")
	require.NoError(t, err)
	require.NoError(t, netlink.LinkSetUp(lo))
	lan := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "lan0"}, PeerName: "lan1"}
	require.NoError(t, netlink.LinkAdd(lan))
	end, err := netlink.LinkByName("lan1")
	require.NoError(t, err)
	require.NoError(t, netlink.LinkSetUp(end))
	addr, err := netlink.ParseAddr("192.168.77.1/24")
	require.NoError(t, err)
	require.NoError(t, netlink.AddrAdd(lan, addr))
	require.NoError(t, netlink.LinkSetUp(lan))
}
