package protocols

import (
	"context"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
)

// Host is what the Router needs from the transport beneath it; the host of
// package transport satisfies it, and so does any libp2p host behind a few
// lines of glue. All methods may be called concurrently.
type Host interface {
	// Connect returns once a connection to the peer is live, making one if
	// needed. It never waits for identify (PATH-4).
	Connect(ctx context.Context, p peer.ID) error
	// OpenStream opens a stream for the protocol on the best live connection
	// to the peer, connecting first if there is none. Negotiation is lazy: a
	// refusal may show on first read or write (NODE-48).
	OpenStream(ctx context.Context, p peer.ID, id protocol.ID) (network.Stream, error)
	// SetStreamHandler and RemoveStreamHandler route inbound streams.
	SetStreamHandler(id protocol.ID, h network.StreamHandler)
	RemoveStreamHandler(id protocol.ID)
	// WatchPeers calls changed whenever a peer becomes connected or loses its
	// last connection. changed must not block. stop ends it.
	WatchPeers(changed func(p peer.ID, connected bool)) (stop func())
	// Protect keeps the connections to p from being trimmed while a session
	// is open; Unprotect lifts it (PATH-5).
	Protect(p peer.ID)
	Unprotect(p peer.ID)
	// RemoteAddr is the text of the best path to p, or "".
	RemoteAddr(p peer.ID) string
}
