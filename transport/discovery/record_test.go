package discovery

import (
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"
)

// sealed is a record by testKey(key), issued now.
func sealed(t testing.TB, key byte, change ...func(*Record)) *Record {
	t.Helper()
	now := uint64(time.Now().UnixMilli())
	r := &Record{
		Network: testNetwork,
		Peer:    testID(key),
		Seq:     now,
		Relays:  []peer.AddrInfo{{ID: testID(200), Addrs: addrsOf("/ip4/203.0.114.9/tcp/4242")}},
	}
	for _, f := range change {
		f(r)
	}
	if r.Expiry.IsZero() {
		r.Expiry = time.UnixMilli(int64(r.Seq)).Add(MaxRecordLife)
	}
	raw, err := Seal(testKey(key), r)
	require.NoError(t, err)
	opened, err := openRecord(raw, r.Network, r.Peer)
	require.NoError(t, err)
	return opened
}
