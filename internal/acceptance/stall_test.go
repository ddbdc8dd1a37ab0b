//go:build linux

package acceptance

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/transport/natlab"
)

// A relay that stands still for a while, as on a machine with too much to do, is
// silent to all its clients (PATH-28). They go on over the connections they have
// when it answers again: if all came with new handshakes at once, it would not
// answer for long.
func TestPATH28StalledRelayKeepsItsConnections(t *testing.T) {
	const (
		clients = 20
		stall   = 9 * time.Second // an idle link asks after five, and waits for two
	)
	lab := natlab.Start(t, natlab.Config{Public: []string{"relay", "a", "b"}, Required: *required})
	relay := newRoamer(t, lab.Host("relay"), roamConfig{Relay: true})
	join := []string{relay.ready.Ticket}
	a := newRoamer(t, lab.Host("a"), roamConfig{Join: join})
	newRoamer(t, lab.Host("b"), roamConfig{Join: join, Idle: clients, PeerID: a.ready.PeerID})
	before := relay.tcpPeers()
	require.GreaterOrEqual(t, len(before), clients)

	require.NoError(t, relay.signal(syscall.SIGSTOP))
	time.Sleep(stall)
	require.NoError(t, relay.signal(syscall.SIGCONT))
	linked := func() int { return relay.logged("relay client connected") }
	require.Eventually(t, func() bool { return linked() >= 2*clients }, 30*time.Second, 100*time.Millisecond,
		"the clients have new links, or the relay was not silent to them")
	time.Sleep(5 * time.Second) // for what is closed late
	after := relay.tcpPeers()
	kept := 0
	for remote := range before {
		if after[remote] {
			kept++
		}
	}
	t.Logf("%d of %d connections kept, %d now", kept, len(before), len(after))
	require.GreaterOrEqual(t, kept, len(before)*9/10)
	require.LessOrEqual(t, len(after), len(before)*5/4, "what was made beside them is closed")
}

// tcpPeers are the other ends of the process's host's TCP connections.
func (r *roamer) tcpPeers() map[string]bool {
	r.t.Helper()
	const established = "01"
	all := make(map[string]bool)
	for _, file := range []string{"tcp", "tcp6"} {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", r.proc.Pid, file))
		require.NoError(r.t, err)
		for line := range strings.Lines(string(text)) {
			if f := strings.Fields(line); len(f) > 3 && f[3] == established {
				all[f[2]] = true
			}
		}
	}
	return all
}

// logged counts the lines of the process's log that contain the text.
func (r *roamer) logged(text string) int {
	r.t.Helper()
	log, err := os.ReadFile(r.log)
	require.NoError(r.t, err)
	return strings.Count(string(log), text)
}
