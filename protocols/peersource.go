package protocols

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

// openTimeout bounds OpenStream where the caller's ctx does not (NODE-48).
const openTimeout = 10 * time.Second

// peerSource is the StreamSource of a libp2p peer: it opens streams on the
// best connection of the moment and queues those the peer opens.
type peerSource struct {
	host     Host
	peer     peer.ID
	alpn     string
	queue    chan network.Stream
	closed   chan struct{}
	accepted atomic.Bool // at least one stream
	// late takes the streams that came too late for this session.
	late func(network.Stream)
}

func newPeerSource(host Host, p peer.ID, alpn string, queue int, late func(network.Stream)) *peerSource {
	return &peerSource{
		host:   host,
		peer:   p,
		alpn:   alpn,
		queue:  make(chan network.Stream, queue),
		closed: make(chan struct{}),
		late:   late,
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
		s.accepted.Store(true)
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

// Close is called once, by the session, which accepts no offer any more. When
// all is well, streams that wait to be accepted have crossed with the end of
// the session and belong to the next one; but not those of a handler that
// accepts none, or they would go round for ever.
func (s *peerSource) Close(code uint32, _ string) error {
	close(s.closed)
	next := code == 0 && s.accepted.Load()
	for {
		select {
		case st := <-s.queue:
			if next {
				s.late(st)
				continue
			}
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
