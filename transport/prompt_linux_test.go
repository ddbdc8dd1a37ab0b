package transport_test

import (
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/alkdev/alknet-p2p/transport"
)

// PATH-26: the kernel holds little that was not sent yet at either end of a
// link to a relay, be it TCP or the web's, and does not overfill its line.
func TestPATH26LinksHoldLittleUnsent(t *testing.T) {
	for _, listen := range []string{"/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/tcp/0/tls/ws"} {
		t.Run(listen, func(t *testing.T) { holdLittleUnsent(t, listen) })
	}
}

func holdLittleUnsent(t *testing.T, listen string) {
	relay := newHost(t, func(c *transport.Config) {
		c.Relay, c.Listen = &transport.RelayConfig{}, []string{listen}
	})
	client := newHost(t, joining(t, relay))
	require.NoError(t, client.Online(within(t, 10*time.Second)))

	entries, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	ends := 0
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		require.NoError(t, err)
		if _, err := unix.Getpeername(fd); err != nil {
			continue // no connection
		}
		limit, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT)
		if err != nil {
			continue // not TCP
		}
		ends++
		require.Equal(t, 64<<10, limit)
		control, err := unix.GetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION)
		require.NoError(t, err)
		require.Equal(t, "cubic", control)
	}
	require.GreaterOrEqual(t, ends, 2, "both ends of the link are in this process")
}
