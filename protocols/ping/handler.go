package ping

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/alkdev/alknet-p2p/protocols"
	"github.com/alkdev/alknet-p2p/protocols/auth"
)

const (
	defaultRate    = 100
	defaultStreams = 8
	defaultIdle    = 5 * time.Minute
)

// Config says how much a peer may ask of a Handler. The zero value has the
// defaults.
type Config struct {
	// Rate is how many pings a second one session is answered, and how many
	// at once after a pause; more wait. 0 = 100.
	Rate int
	// Streams is how many streams of one session are served at a time; more
	// are reset with CodeOverloaded. 0 = 8.
	Streams int
	// Idle is how long a stream may be silent before it is closed; 0 = 5 min.
	Idle time.Duration
	// Logger; nil is silent.
	Logger *slog.Logger
}

// Handler answers pings. It may serve many sessions at once.
type Handler struct{ config Config }

var _ protocols.ProtocolHandler = (*Handler)(nil)

// NewHandler returns a Handler; limits that are not positive have their
// defaults.
func NewHandler(config Config) *Handler {
	config.Rate = cmp.Or(max(config.Rate, 0), defaultRate)
	config.Streams = cmp.Or(max(config.Streams, 0), defaultStreams)
	config.Idle = cmp.Or(max(config.Idle, 0), defaultIdle)
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	return &Handler{config}
}

// ALPN implements protocols.ProtocolHandler.
func (h *Handler) ALPN() string { return ALPN }

// Handle implements protocols.ProtocolHandler: it answers on every stream the
// peer opens until the session ends or the node drains.
func (h *Handler) Handle(ctx context.Context, conn protocols.Connection, peer auth.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var streams sync.WaitGroup
	defer streams.Wait()
	defer cancel()
	streams.Go(func() {
		select {
		case <-protocols.Draining(ctx):
			cancel()
		case <-ctx.Done():
		}
	})

	log := h.config.Logger.With("peer", peer.PeerName, "protocol", ALPN)
	limit := rate.NewLimiter(rate.Limit(h.config.Rate), h.config.Rate)
	places := make(chan struct{}, h.config.Streams)
	for {
		st, err := conn.AcceptStream(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		}
		select {
		case places <- struct{}{}:
		default:
			_ = st.Reset(protocols.CodeOverloaded)
			continue
		}
		streams.Go(func() {
			defer func() { <-places }()
			if err := h.answer(ctx, st, limit); err != nil {
				log.Debug("ping stream failed", "err", err)
			}
		})
	}
}

// answer serves one stream and ends it.
func (h *Handler) answer(ctx context.Context, st protocols.Stream, limit *rate.Limiter) (err error) {
	stop := context.AfterFunc(ctx, func() { _ = st.Reset(protocols.CodeShutdown) })
	defer stop()
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v\n%s", v, debug.Stack())
			_ = st.Reset(protocols.CodeHandlerError)
		}
	}()
	frame := make([]byte, frameSize)
	for {
		if err := st.SetDeadline(time.Now().Add(h.config.Idle)); err != nil && !errors.Is(err, errors.ErrUnsupported) {
			return fmt.Errorf("set deadline: %w", err)
		}
		switch _, err := io.ReadFull(st, frame); {
		case errors.Is(err, io.ErrUnexpectedEOF):
			_ = st.Reset(protocols.CodeProtocolViolation)
			return fmt.Errorf("%w: the stream ends inside it", errFrame)
		case errors.Is(err, io.EOF), errors.Is(err, protocols.ErrStreamTimeout):
			return st.Close()
		case err != nil:
			return err
		}
		seq, err := parseFrame(frame, kindPing)
		if err != nil {
			_ = st.Reset(protocols.CodeProtocolViolation)
			return err
		}
		// Whoever asks too fast is read more slowly.
		if err := limit.Wait(ctx); err != nil {
			return fmt.Errorf("wait for the rate: %w", err)
		}
		if _, err := st.Write(appendFrame(frame[:0], kindPong, seq)); err != nil {
			return fmt.Errorf("answer: %w", err)
		}
	}
}
