package magic

import (
	"context"
	"errors"
	"math"
	"sync"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/transport"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/quic-go/quic-go"
)

// Conn is one QUIC connection to a peer over the magic socket. A
// network.Conn's As method finds it, and the *quic.Conn beneath.
type Conn struct {
	quic      *quic.Conn
	transport *Transport
	scope     network.ConnManagementScope
	remote    peer.ID
	remoteKey crypto.PubKey
	outbound  bool
	closing   sync.Once
	release   func() // lets the socket forget the peer
}

var _ transport.CapableConn = (*Conn)(nil)

// Outbound tells whether this side dialled. The swarm's own direction does not
// say: dialled connections reach it through the listener as well (PATH-4).
func (c *Conn) Outbound() bool { return c.outbound }

// As finds the *Conn or the *quic.Conn beneath.
func (c *Conn) As(target any) bool {
	switch t := target.(type) {
	case **Conn:
		*t = c
	case **quic.Conn:
		*t = c.quic
	default:
		return false
	}
	return true
}

// Close ends the connection.
func (c *Conn) Close() error { return c.CloseWithError(0) }

// CloseWithError ends the connection and tells the peer why.
func (c *Conn) CloseWithError(code network.ConnErrorCode) error {
	err := c.quic.CloseWithError(quic.ApplicationErrorCode(code), "")
	c.closing.Do(func() {
		c.scope.Done()
		c.release()
	})
	return err
}

// IsClosed tells whether the connection has ended.
func (c *Conn) IsClosed() bool { return c.quic.Context().Err() != nil }

// OpenStream opens a stream, waiting for the peer's limit if need be.
func (c *Conn) OpenStream(ctx context.Context) (network.MuxedStream, error) {
	s, err := c.quic.OpenStreamSync(ctx)
	if err != nil {
		return nil, parseError(err)
	}
	return &stream{Stream: s}, nil
}

// AcceptStream waits for a stream of the peer.
func (c *Conn) AcceptStream() (network.MuxedStream, error) {
	s, err := c.quic.AcceptStream(context.Background())
	if err != nil {
		return nil, parseError(err)
	}
	return &stream{Stream: s}, nil
}

// LocalPeer is this node.
func (c *Conn) LocalPeer() peer.ID { return c.transport.self }

// RemotePeer is the other node, proven in the handshake.
func (c *Conn) RemotePeer() peer.ID { return c.remote }

// RemotePublicKey is the other node's key, proven in the handshake.
func (c *Conn) RemotePublicKey() crypto.PubKey { return c.remoteKey }

// ConnState names the transport.
func (c *Conn) ConnState() network.ConnectionState {
	return network.ConnectionState{Transport: "alknet"}
}

// LocalMultiaddr is /alknet.
func (c *Conn) LocalMultiaddr() ma.Multiaddr { return Addr }

// RemoteMultiaddr is /alknet: where packets really go changes.
func (c *Conn) RemoteMultiaddr() ma.Multiaddr { return Addr }

// Scope is the connection's share of the resource manager.
func (c *Conn) Scope() network.ConnScope { return c.scope }

// Transport is the magic transport.
func (c *Conn) Transport() transport.Transport { return c.transport }

// parseError turns QUIC's errors into libp2p's, so that reset codes survive.
func parseError(err error) error {
	if err == nil {
		return nil
	}
	if se := (*quic.StreamError)(nil); errors.As(err, &se) {
		var code network.StreamErrorCode = network.StreamCodeOutOfRange
		if se.ErrorCode <= math.MaxUint32 {
			code = network.StreamErrorCode(se.ErrorCode)
		}
		return &network.StreamError{ErrorCode: code, Remote: se.Remote, TransportError: se}
	}
	if ae := (*quic.ApplicationError)(nil); errors.As(err, &ae) {
		var code network.ConnErrorCode = network.ConnCodeOutOfRange
		if ae.ErrorCode <= math.MaxUint32 {
			code = network.ConnErrorCode(ae.ErrorCode)
		}
		return &network.ConnError{ErrorCode: code, Remote: ae.Remote, TransportError: ae}
	}
	var (
		idle  *quic.IdleTimeoutError
		reset *quic.StatelessResetError
		fault *quic.TransportError
	)
	if errors.As(err, &idle) || errors.As(err, &reset) || errors.As(err, &fault) {
		return &network.ConnError{TransportError: err} // the connection is lost, not the stream alone
	}
	return err
}
