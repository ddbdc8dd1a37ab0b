package transport

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/multiformats/go-multistream"
)

// openTimeout bounds the opening of a stream (NODE-48).
const openTimeout = 10 * time.Second

// OpenStream opens a stream for the protocol on the best connection to the
// peer, connecting first if there is none. It waits neither for identify nor
// for the peer to agree to the protocol: a refusal shows on the first read
// (PATH-4, NODE-48).
func (h *Host) OpenStream(ctx context.Context, p peer.ID, id protocol.ID) (network.Stream, error) {
	c := h.bestConn(p)
	if c == nil {
		if err := h.Connect(ctx, p); err != nil {
			return nil, err
		}
		if c = h.bestConn(p); c == nil {
			return nil, fmt.Errorf("open stream to %s: connection lost", p)
		}
	}
	return openOn(ctx, c, id)
}

// openOn opens a stream on one connection, whatever others there are.
func openOn(ctx context.Context, c network.Conn, id protocol.ID) (network.Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	s, err := c.NewStream(ctx)
	if err != nil {
		return nil, fmt.Errorf("open stream to %s: %w", c.RemotePeer(), err)
	}
	if err := s.SetProtocol(id); err != nil {
		_ = s.ResetWithError(network.StreamResourceLimitExceeded)
		return nil, fmt.Errorf("open stream to %s: %w", c.RemotePeer(), err)
	}
	return &lazyStream{Stream: s, rw: multistream.NewMSSelect(s, id)}, nil
}

// openAnswered is openOn that returns once the peer has agreed to the protocol:
// a connection that lost its peer may not know it.
func openAnswered(ctx context.Context, c network.Conn, id protocol.ID) (network.Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	s, err := c.NewStream(ctx)
	if err != nil {
		return nil, fmt.Errorf("open stream to %s: %w", c.RemotePeer(), err)
	}
	stop := context.AfterFunc(ctx, func() { _ = s.Reset() })
	err = s.SetProtocol(id)
	if err == nil {
		err = multistream.SelectProtoOrFail(id, s)
	}
	if !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = s.Reset()
		return nil, fmt.Errorf("open stream to %s: %w", c.RemotePeer(), err)
	}
	return s, nil
}

// lazyStream sends the protocol's name together with the first bytes and
// checks the peer's answer on the first read.
type lazyStream struct {
	network.Stream
	rw io.ReadWriteCloser
}

func (s *lazyStream) Read(b []byte) (int, error)  { return s.rw.Read(b) }
func (s *lazyStream) Write(b []byte) (int, error) { return s.rw.Write(b) }

func (s *lazyStream) Close() error {
	// The negotiation may still be waiting for the peer.
	_ = s.SetReadDeadline(time.Now().Add(openTimeout))
	return s.rw.Close()
}

func (s *lazyStream) CloseWrite() error {
	if f, ok := s.rw.(interface{ Flush() error }); ok {
		_ = f.Flush() // what is wrong with the stream shows on read
	}
	return s.Stream.CloseWrite()
}
