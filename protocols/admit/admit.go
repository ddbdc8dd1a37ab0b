// Package admit is the door of a node that admits no strangers: the one
// protocol, beside the duties of relays and of the DHT, that it speaks with a
// key it does not know.
//
// Whoever holds a capability ticket (package ticket) knocks with it and, if it
// is good, is admitted: sessions of that key are accepted from then on, and
// its requests bring the ticket again to say what they are for. One small
// request, one answer of two bytes, three seconds: nothing else happens here.
// The bytes are in SPEC.md.
package admit

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"golang.org/x/time/rate"

	"github.com/alkdev/alknet-p2p/protocols"
	"github.com/alkdev/alknet-p2p/protocols/auth"
)

const (
	// Protocol is the libp2p protocol ID of the door.
	Protocol protocol.ID = "/alknet/admit"
	// MaxRequest bounds a request, its header included.
	MaxRequest = 1024

	version = 1
	header  = 3
	timeout = 3 * time.Second
	// answerTimeout is for a round trip, negotiation and the door's own time.
	answerTimeout = 10 * time.Second
	maxStreams    = 64
	maxPerPeer    = 2
	perSecond     = 50
	burst         = 200
)

// answers.
const (
	answerAdmitted = 0
	answerRefused  = 1
	answerBusy     = 2
)

var (
	// ErrRefused: the ticket is not good for this key at that node; why, only
	// the node's own log says.
	ErrRefused = errors.New("the ticket was refused")
	// ErrBusy: too many are knocking; the ticket was not looked at.
	ErrBusy = errors.New("the door is busy")

	errMalformed = errors.New("malformed request")
)

// Host is what the door needs of the transport.
type Host interface {
	// OpenStream opens a stream to the peer, connecting first if need be.
	OpenStream(ctx context.Context, p peer.ID, id protocol.ID) (network.Stream, error)
	// SetStreamHandler and RemoveStreamHandler route inbound streams.
	SetStreamHandler(id protocol.ID, h network.StreamHandler)
	RemoveStreamHandler(id protocol.ID)
}

// Config of a Door. Host and Redeem are required.
type Config struct {
	Host Host
	// Redeem lets the key in if the token is good for it; it is called
	// concurrently. The error is logged, not told.
	Redeem func(ctx context.Context, token auth.Token, fingerprint string) error
	// Logger is silent when nil.
	Logger *slog.Logger
}

// Door answers those who knock. It owns the goroutines of their streams.
type Door struct {
	cfg     Config
	ctx     context.Context
	cancel  context.CancelFunc
	limiter *rate.Limiter
	wg      sync.WaitGroup

	mu     sync.Mutex
	closed bool
	open   int
	peers  map[peer.ID]int
}

// Open begins to answer.
func Open(cfg Config) (*Door, error) {
	if cfg.Host == nil || cfg.Redeem == nil {
		return nil, errors.New("door: host and redeem are required")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	d := &Door{cfg: cfg, limiter: rate.NewLimiter(perSecond, burst), peers: map[peer.ID]int{}}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	cfg.Host.SetStreamHandler(Protocol, d.inbound)
	return d, nil
}

// Close stops answering and returns after the last goroutine. It may be called
// twice.
func (d *Door) Close() {
	d.mu.Lock()
	first := !d.closed
	d.closed = true
	d.mu.Unlock()
	if first {
		d.cfg.Host.RemoveStreamHandler(Protocol)
		d.cancel()
	}
	d.wg.Wait()
}

// inbound takes a stream and returns at once.
func (d *Door) inbound(st network.Stream) {
	p := st.Conn().RemotePeer()
	if !d.enter(p) {
		_ = st.ResetWithError(network.StreamErrorCode(protocols.CodeOverloaded))
		return
	}
	go func() {
		defer d.wg.Done()
		defer d.leave(p)
		d.serve(p, st)
	}()
}

func (d *Door) enter(p peer.ID) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed || d.open == maxStreams || d.peers[p] == maxPerPeer {
		return false
	}
	d.open++
	d.peers[p]++
	d.wg.Add(1)
	return true
}

func (d *Door) leave(p peer.ID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.open--
	if d.peers[p]--; d.peers[p] == 0 {
		delete(d.peers, p)
	}
}

// serve reads one request and answers it.
func (d *Door) serve(p peer.ID, st network.Stream) {
	ctx, cancel := context.WithTimeout(d.ctx, timeout)
	defer cancel()
	// The stream ends with the time, or with the Door, whatever it waits for.
	stop := context.AfterFunc(ctx, func() { _ = st.ResetWithError(network.StreamErrorCode(protocols.CodeAborted)) })
	defer stop()
	token, err := readRequest(st)
	switch {
	case ctx.Err() != nil: // which a reset of both halves tells us before it has told the peer
		_ = st.ResetWithError(network.StreamErrorCode(protocols.CodeAborted))
		return
	case err != nil:
		_ = st.ResetWithError(network.StreamErrorCode(protocols.CodeProtocolViolation))
		return
	}
	if _, err := st.Write([]byte{version, d.judge(ctx, p, token)}); err != nil {
		_ = st.ResetWithError(network.StreamErrorCode(protocols.CodeAborted))
		return
	}
	_ = st.Close()
}

func (d *Door) judge(ctx context.Context, p peer.ID, token auth.Token) byte {
	if !d.limiter.Allow() {
		return answerBusy
	}
	fingerprint, err := auth.FingerprintFromPeer(p)
	if err == nil {
		err = d.cfg.Redeem(ctx, token, fingerprint)
	}
	if err != nil {
		d.cfg.Logger.Warn("not admitted", "peer", p, "err", err)
		return answerRefused
	}
	d.cfg.Logger.Info("admitted by ticket", "peer", p)
	return answerAdmitted
}

// Knock asks the peer to let this node in on the ticket. It fails with
// ErrRefused, ErrBusy, or what keeps the peer from being reached.
func Knock(ctx context.Context, host Host, p peer.ID, ticket auth.Token) error {
	request, err := appendRequest(nil, ticket)
	if err != nil {
		return err
	}
	st, err := host.OpenStream(ctx, p, Protocol)
	if err != nil {
		return fmt.Errorf("knock at %s: %w", p, err)
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = st.ResetWithError(network.StreamErrorCode(protocols.CodeAborted)) })
	defer stop()
	defer st.Close()
	if _, err := st.Write(request); err != nil {
		return fmt.Errorf("knock at %s: %w", p, err)
	}
	var answer [2]byte
	if _, err := io.ReadFull(st, answer[:]); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return fmt.Errorf("knock at %s: %w", p, err)
	}
	switch {
	case answer[0] != version || answer[1] > answerBusy:
		return fmt.Errorf("knock at %s: answer %x is not understood", p, answer)
	case answer[1] == answerRefused:
		return ErrRefused
	case answer[1] == answerBusy:
		return ErrBusy
	}
	return nil
}

func appendRequest(b []byte, token auth.Token) ([]byte, error) {
	text := token.Reveal()
	if text == "" || header+len(text) > MaxRequest {
		return nil, fmt.Errorf("a ticket is 1 to %d bytes", MaxRequest-header)
	}
	b = append(b, version)
	b = binary.BigEndian.AppendUint16(b, uint16(len(text)))
	return append(b, text...), nil
}

// readRequest reads no byte beyond the request.
func readRequest(r io.Reader) (auth.Token, error) {
	var head [header]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return auth.Token{}, err
	}
	n := int(binary.BigEndian.Uint16(head[1:]))
	if head[0] != version || n == 0 || header+n > MaxRequest {
		return auth.Token{}, errMalformed
	}
	text := make([]byte, n)
	if _, err := io.ReadFull(r, text); err != nil {
		return auth.Token{}, err
	}
	return auth.TokenFromText(string(text)), nil
}
