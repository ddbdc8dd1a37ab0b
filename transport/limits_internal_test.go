package transport

import (
	"fmt"
	"testing"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/test"
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

// A relay to which all clients come at once turns away those whose handshakes
// it could not end in time; each that is done lets another one in.
func TestRelayBoundsHandshakes(t *testing.T) {
	m, err := newResourceManager(true)
	require.NoError(t, err)
	defer m.Close()
	open := func(i int) (network.ConnManagementScope, error) {
		return m.OpenConnection(network.DirInbound, false, ma.StringCast(fmt.Sprintf("/ip4/5.20.%d.%d/tcp/4242", i/250, i%250)))
	}
	var coming []network.ConnManagementScope
	for i := range maxHandshakes {
		scope, err := open(i)
		require.NoError(t, err)
		coming = append(coming, scope)
	}
	_, err = open(maxHandshakes)
	require.ErrorIs(t, err, network.ErrResourceLimitExceeded)
	for i := range maxHandshakes {
		p, err := test.RandPeerID()
		require.NoError(t, err)
		require.NoError(t, coming[i].SetPeer(p))
	}
	for i := range maxHandshakes {
		_, err := open(maxHandshakes + i)
		require.NoError(t, err, "those that are up do not count")
	}
}
