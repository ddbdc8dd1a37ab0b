package protocols

import (
	"context"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

// openTimeout bounds OpenStream where the caller's ctx does not (NODE-48).
const openTimeout = 10 * time.Second

// peerSource is the StreamSource of a libp2p peer: it opens streams on the
// best connection of the moment and queues those the peer opens.
type peerSource struct {
	host   Host
	peer   peer.ID
	alpn   string
	queue  chan network.Stream
	closed chan struct{}
}

func newPeerSource(host Host, p peer.ID, alpn string, queue int) *peerSource {
	return &peerSource{
		host:   host,
		peer:   p,
		alpn:   alpn,
		queue:  make(chan network.Stream, queue),
		closed: make(chan struct{}),
	}
}

// offer queues a stream, or reports that the queue is full. The caller sees
// to it that the session is open meanwhile.
func (s *peerSource) offer(st network.Stream) bool {
	select {
	case s.queue <- st:
		return true
	default:
		return false
	}
}

func (s *peerSource) AcceptStream(ctx context.Context) (Stream, error) {
	select {
	case st := <-s.queue:
		return netStream{st}, nil
	case <-s.closed:
		return nil, ErrConnectionClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (s *peerSource) OpenStream(ctx context.Context) (Stream, error) {
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, openTimeout)
		defer cancel()
	}
	st, err := s.host.OpenStream(ctx, s.peer, ProtocolID(s.alpn))
	if err != nil {
		return nil, err
	}
	return netStream{st}, nil
}

func (s *peerSource) RemoteAddr() string { return s.host.RemoteAddr(s.peer) }

// Close is called once, by the session, which accepts no offer any more.
func (s *peerSource) Close(code uint32, _ string) error {
	close(s.closed)
	for {
		select {
		case st := <-s.queue:
			_ = st.ResetWithError(network.StreamErrorCode(code))
		default:
			return nil
		}
	}
}

// netStream gives a libp2p stream the methods of a Stream.
type netStream struct{ network.Stream }

func (s netStream) Reset(code uint32) error {
	return s.ResetWithError(network.StreamErrorCode(code))
}
