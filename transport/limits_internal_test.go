package transport

import (
	"testing"

	"github.com/libp2p/go-libp2p/core/network"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/stretchr/testify/require"
)

// Many nodes behind one address come back at once when a relay was restarted:
// libp2p's default would let 16 of them in, and then one every five seconds.
// Somebody who opens ever more is stopped.
func TestManyNodesBehindOneAddress(t *testing.T) {
	m, err := newResourceManager(true)
	require.NoError(t, err)
	defer m.Close()
	for _, from := range []string{"/ip4/5.20.0.2/tcp/4242", "/ip6/2a04:1000::2/tcp/4242"} {
		at := ma.StringCast(from)
		open := func() bool {
			scope, err := m.OpenConnection(network.DirInbound, false, at)
			if err == nil {
				scope.Done()
			}
			return err == nil
		}
		for range 500 {
			require.True(t, open(), from)
		}
		refused := 0
		for range 500 {
			if !open() {
				refused++
			}
		}
		require.Greater(t, refused, 400, from)
	}
}
