// Package protocols maps ALPN identifiers to handlers and gives each handler a
// session: all streams of one ALPN between this node and one peer.
//
// A service is an ALPN (NODE-1). A [ProtocolHandler] registered for
// "alknet/call" receives a [Connection] for every peer that opens the libp2p
// protocol "/alknet/call", or to whom this node opens it; either side may open
// streams on it. The [Router] finds or makes sessions, resolves who the peer
// is, runs the handlers and ends them in order.
package protocols

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"github.com/alkdev/alknet-p2p/protocols/auth"
)

// ProtocolHandler serves one ALPN.
//
// Handle runs once per session, whichever side opened it, in a goroutine of
// its own. It returns when the session is over or when ctx ends; what its
// result means is written at NODE-8. Handlers that start goroutines wait for
// them and recover their panics.
type ProtocolHandler interface {
	// ALPN names the protocol, such as "alknet/call".
	ALPN() string
	// Handle serves one session until it ends.
	Handle(ctx context.Context, conn Connection, peer auth.Context) error
}

// Connection is one session as its handler sees it (NODE-4, NODE-43). All
// methods may be called concurrently.
type Connection interface {
	// AcceptStream waits for the next stream the peer opens.
	AcceptStream(ctx context.Context) (Stream, error)
	// OpenStream opens a stream to the peer.
	OpenStream(ctx context.Context) (Stream, error)
	// ALPN is the protocol this session belongs to.
	ALPN() string
	// ID is unique among the sessions of this process (NODE-65).
	ID() uint64
	// RemoteAddr is the text of the best path at the moment; informational,
	// may be empty, never an identity (NODE-55).
	RemoteAddr() string
	// SetIdentity records who the peer is, once; later calls fail with
	// ErrIdentityAlreadySet.
	SetIdentity(auth.Identity) error
	// Identity returns what SetIdentity recorded.
	Identity() (auth.Identity, bool)
	// Close resets the session's streams with code and ends the session; the
	// reason stays local (NODE-47). Code 0 means that all is well: streams
	// whose Close was called before may then still finish. It never closes
	// the shared connection beneath.
	Close(code uint32, reason string) error
	// Done is closed when the session has ended.
	Done() <-chan struct{}
}

// Stream is one bidirectional exchange of a session.
type Stream interface {
	io.Reader
	io.Writer
	// CloseWrite ends our half: the peer reads EOF.
	CloseWrite() error
	// Close ends both halves gracefully and returns at once: in the
	// background our half is ended, the peer's is read to its end, for at
	// most 5 s, and the stream is let go (NODE-64).
	Close() error
	// Reset ends both halves abruptly; code is a hint to the peer.
	Reset(code uint32) error
	// SetDeadline bounds pending and future reads and writes.
	SetDeadline(time.Time) error
}

// StreamSource is where a Connection takes its streams from: a libp2p peer, a
// single byte stream, or an in-memory pair. Its errors need not be those of
// NODE-7, but a source that has ended says ErrConnectionClosed. Its streams'
// Close may be abrupt: the Connection closes gracefully by itself, and it
// resets the streams it has been given when it ends.
type StreamSource interface {
	// AcceptStream waits for the next stream the peer opens.
	AcceptStream(ctx context.Context) (Stream, error)
	// OpenStream opens a stream to the peer.
	OpenStream(ctx context.Context) (Stream, error)
	// RemoteAddr is the text of the best path at the moment, or "".
	RemoteAddr() string
	// Close ends the source, once: waiting calls return, streams that wait to
	// be accepted are reset with code. Streams given away are not its concern.
	Close(code uint32, reason string) error
}

// Reset codes (NODE-47); outside the range libp2p reserves.
const (
	CodeHandlerError      uint32 = 41000
	CodeProtocolViolation uint32 = 41001
	CodeOverloaded        uint32 = 41002
	CodeShutdown          uint32 = 41003
	CodeUnauthorised      uint32 = 41004
	CodeAborted           uint32 = 41005
)

// Errors of sessions and streams (NODE-7), matched with errors.Is.
var (
	// ErrConnectionClosed: the session is over, either side closed it; a
	// clean exit for a handler. Of a stream it may also be the connection
	// beneath that is lost. It matches net.ErrClosed.
	ErrConnectionClosed = fmt.Errorf("session closed: %w", net.ErrClosed)
	// ErrStreamClosed: this stream is over, or the session cannot open more.
	ErrStreamClosed = errors.New("stream closed")
	// ErrStreamTimeout: a deadline passed.
	ErrStreamTimeout = errors.New("stream timed out")
	// ErrAuthRequired: returned by Handle to close the session with
	// CodeUnauthorised (NODE-8).
	ErrAuthRequired = errors.New("authentication required")
	// ErrIdentityAlreadySet: SetIdentity was called before.
	ErrIdentityAlreadySet = errors.New("identity already set")
	// ErrProtocolNotSupported: the peer does not serve the ALPN (NODE-45, 48).
	ErrProtocolNotSupported = errors.New("protocol not supported by the peer")
	// ErrNoHandler: this node does not serve the ALPN itself.
	ErrNoHandler = errors.New("no handler for the protocol")
	// ErrNotAdmitted: this node admits no sessions of the peer for the ALPN.
	ErrNotAdmitted = errors.New("peer is not admitted")
	// ErrWrongPeer: the key that answered is not the peer that was asked for
	// by name (NODE-52).
	ErrWrongPeer = errors.New("the key belongs to another peer")
)

// StreamResetError is a stream that ended abruptly, found with errors.As. It
// matches ErrStreamClosed and libp2p's network.ErrReset.
type StreamResetError struct {
	Code   uint32 // as the resetting side gave it; 0 when unknown
	Remote bool   // true when the peer reset it
}

// Error implements error.
func (e *StreamResetError) Error() string {
	side := "locally"
	if e.Remote {
		side = "by the peer"
	}
	return fmt.Sprintf("stream reset %s (code %d)", side, e.Code)
}

// Is implements the matching of errors.Is.
func (e *StreamResetError) Is(target error) bool {
	return target == ErrStreamClosed || target == network.ErrReset
}
