package call_test

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/protocols"
	"github.com/alkdev/alknet-p2p/protocols/auth"
	"github.com/alkdev/alknet-p2p/protocols/call"
)

// The transcripts of testdata, in the language described in their README, are
// played by a bare peer against a node; time is virtual.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/transcripts/*.txt")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			synctest.Test(t, func(t *testing.T) { play(t, file, string(text)) })
		})
	}
}

// testOperations are what the node of the transcripts serves.
func testOperations() []call.Operation {
	str := func(s string) *string { return &s }
	wait := func(ctx context.Context, _ *call.Request) (any, error) {
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}
	return []call.Operation{
		call.Echo(),
		query("test/wait", wait),
		query("test/deaf", func(context.Context, *call.Request) (any, error) {
			time.Sleep(time.Hour)
			return "late", nil
		}),
		query("test/sleep", func(ctx context.Context, r *call.Request) (any, error) {
			var ms int
			if err := r.Decode(&ms); err != nil {
				return nil, err
			}
			select {
			case <-time.After(time.Duration(ms) * time.Millisecond):
				return ms, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}),
		query("test/whoami", func(_ context.Context, r *call.Request) (any, error) {
			return struct {
				Identity     *auth.Identity `json:"identity"`
				ForwardedFor *auth.Identity `json:"forwarded_for"`
			}{r.Identity, r.ForwardedFor}, nil
		}),
		query("test/panic", func(context.Context, *call.Request) (any, error) { panic("boom") }),
		query("test/error", func(context.Context, *call.Request) (any, error) { return nil, errors.New("a secret") }),
		query("test/malformed", func(context.Context, *call.Request) (any, error) { return json.RawMessage(`{"a":`), nil }),
		{
			Spec: call.Spec{
				Name: "test/domain", Type: call.OpMutation,
				Errors: []call.ErrorSpec{{
					Code: "FILE_NOT_FOUND", Description: "no such file",
					Schema: json.RawMessage(`{"type":"object","required":["path"]}`),
				}},
			},
			Handler: call.HandlerFunc(func(_ context.Context, r *call.Request) (any, error) {
				var in struct {
					Code    call.Code
					Details json.RawMessage
				}
				if err := r.Decode(&in); err != nil {
					return nil, err
				}
				return nil, &call.Error{Code: in.Code, Message: "told so", Retryable: true, Details: in.Details}
			}),
		},
		{
			Spec:    call.Spec{Name: "test/hidden", Visibility: call.Internal},
			Handler: call.HandlerFunc(wait),
		},
		{
			Spec: call.Spec{Name: "test/admin", Access: auth.Access{RequiredScopes: []string{"admin"}}},
			Handler: call.HandlerFunc(func(_ context.Context, r *call.Request) (any, error) {
				return r.Identity.ID, nil
			}),
		},
		{
			Spec: call.Spec{
				Name:        "test/typed",
				InputSchema: json.RawMessage(`{"type":"object","required":["path"],"properties":{"path":{"type":"string"},"n":{"type":"integer"}}}`),
				Access:      auth.Access{ResourceType: str("service"), ResourceAction: str("read")},
			},
			Handler: call.HandlerFunc(func(_ context.Context, r *call.Request) (any, error) { return r.Input, nil }),
		},
		stream("test/count", func(_ context.Context, r *call.Request, emit func(any) error) error {
			var n int
			if err := r.Decode(&n); err != nil {
				return err
			}
			for i := range n {
				if err := emit(i); err != nil {
					return err
				}
			}
			return nil
		}),
		stream("test/ticks", func(ctx context.Context, _ *call.Request, emit func(any) error) error {
			for i := 0; ; i++ {
				select {
				case <-time.After(time.Second):
				case <-ctx.Done():
					return ctx.Err()
				}
				if err := emit(i); err != nil {
					return err
				}
			}
		}),
		stream("test/broken", func(_ context.Context, _ *call.Request, emit func(any) error) error {
			if err := emit(1); err != nil {
				return err
			}
			return call.Errorf(call.CodeInvalidInput, "cannot go on")
		}),
		stream("test/crash", func(_ context.Context, _ *call.Request, emit func(any) error) error {
			if err := emit(1); err != nil {
				return err
			}
			panic("boom")
		}),
	}
}

// player holds the bare peer's side of a transcript.
type player struct {
	t       *testing.T
	at      string // file:line
	ctx     context.Context
	conn    protocols.Connection
	session *call.Session
	handled <-chan error

	mu      sync.Mutex
	streams map[string]*bare
	opened  int // streams the node has opened

	calls map[string]chan string
	subs  map[string]*call.Subscription
}

// bare is a stream as the peer sees it: what arrived, in order.
type bare struct {
	protocols.Stream
	mu  sync.Mutex
	got []string
}

func play(t *testing.T, file, text string) {
	ctx, cancel := context.WithCancel(t.Context())
	var limits call.Limits
	if _, rest, ok := strings.Cut("\n"+text, "\nlimit "); ok {
		_, err := fmt.Sscan(rest, &limits.Requests)
		require.NoError(t, err)
		limits.Subscriptions = limits.Requests
	}
	proto := call.New(call.Config{Limits: limits, Provider: tokens{}, MaxTokenFailures: func() int { return 2 }})
	require.NoError(t, proto.Register(testOperations()...))
	a, b := protocols.Pipe(call.ALPN)
	peer := known("user")
	peer.Identity.Resources["service"] = []string{"read"}
	if strings.Contains("\n"+text, "\nanonymous\n") {
		peer = anonymous()
	}
	handled := make(chan error, 1)
	go func() {
		err := proto.Handle(ctx, a, peer)
		_ = a.Close(0, "handled")
		handled <- err
	}()
	session, err := proto.Session(ctx, a)
	require.NoError(t, err)
	p := &player{
		t: t, ctx: ctx, conn: b, session: session, handled: handled,
		streams: map[string]*bare{}, calls: map[string]chan string{}, subs: map[string]*call.Subscription{},
	}
	go p.accept()
	n := 0
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimSpace(line)
		p.at = fmt.Sprintf("%s:%d: %s", file, n, line)
		if line != "" && line[0] != '#' && line != "anonymous" && !strings.HasPrefix(line, "limit ") {
			p.line(line)
			synctest.Wait()
		}
	}
	cancel()
	_ = b.Close(0, "over")
	synctest.Wait()
	time.Sleep(2 * time.Hour) // for handlers that do not listen
}

// accept names the streams that the node opens: a, b, c.
func (p *player) accept() {
	for {
		s, err := p.conn.AcceptStream(p.ctx)
		if err != nil {
			return
		}
		p.mu.Lock()
		name := string(rune('a' + p.opened))
		p.opened++
		p.streams[name] = p.read(s)
		p.mu.Unlock()
	}
}

func (p *player) read(s protocols.Stream) *bare {
	b := &bare{Stream: s}
	go func() {
		for {
			got, err := readFrame(s)
			b.mu.Lock()
			if err != nil {
				got = ending(err)
			}
			if got != "" {
				b.got = append(b.got, got)
			}
			b.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return b
}

func readFrame(r io.Reader) (string, error) {
	var prefix [4]byte
	if _, err := io.ReadFull(r, prefix[:]); err != nil {
		return "", err
	}
	body := make([]byte, binary.BigEndian.Uint32(prefix[:]))
	_, err := io.ReadFull(r, body)
	return string(body), err
}

func ending(err error) string {
	var reset *protocols.StreamResetError
	switch {
	case errors.Is(err, io.EOF):
		return "end"
	case errors.As(err, &reset) && !reset.Remote:
		return "" // by the transcript itself
	case errors.As(err, &reset):
		return fmt.Sprintf("reset %d", reset.Code)
	case errors.Is(err, protocols.ErrConnectionClosed):
		return "closed"
	}
	return err.Error()
}

// stream returns a stream by name, opening numbered ones.
func (p *player) stream(name string) *bare {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.streams[name]
	if s == nil {
		require.Contains(p.t, "123456789", name, p.at)
		raw, err := p.conn.OpenStream(p.ctx)
		require.NoError(p.t, err, p.at)
		s = p.read(raw)
		p.streams[name] = s
	}
	return s
}

// line acts on one line of a transcript.
func (p *player) line(line string) {
	word, rest, _ := strings.Cut(line, " ")
	switch {
	case len(word) == 2 && word[1] == '>':
		p.say(p.stream(word[:1]), rest)
	case len(word) == 2 && word[1] == '<':
		p.expect(p.stream(word[:1]), rest)
	case word == "quiet":
		p.quiet()
	case word == "wait":
		d, err := time.ParseDuration(rest)
		require.NoError(p.t, err, p.at)
		time.Sleep(d)
	case word == "handled":
		require.Equal(p.t, rest, fmt.Sprint(<-p.handled), p.at)
	default:
		p.node(word, rest)
	}
}

func (p *player) say(s *bare, text string) {
	var err error
	switch word, rest, _ := strings.Cut(text, " "); word {
	case "end":
		err = s.CloseWrite()
	case "reset":
		err = s.Reset(protocols.CodeAborted)
	case "hex":
		var b []byte
		b, err = hex.DecodeString(rest)
		require.NoError(p.t, err, p.at)
		_, err = s.Write(b)
	default:
		_, err = s.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(text))), text...))
	}
	require.NoError(p.t, err, p.at)
}

func (p *player) expect(s *bare, want string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	require.NotEmpty(p.t, s.got, "nothing arrived: %s", p.at)
	require.Equal(p.t, want, s.got[0], p.at)
	s.got = s.got[1:]
}

func (p *player) quiet() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, s := range p.streams {
		s.mu.Lock()
		require.Empty(p.t, s.got, "stream %s: %s", name, p.at)
		s.mu.Unlock()
	}
}

// node makes the node act as a caller.
func (p *player) node(word, rest string) {
	id, rest, _ := strings.Cut(rest, " ")
	switch word {
	case "call":
		name, input, _ := strings.Cut(rest, " ")
		ctx, cancel := context.WithCancel(p.ctx)
		if timeout, ok := strings.CutPrefix(input, "within "); ok {
			d, err := time.ParseDuration(timeout)
			require.NoError(p.t, err, p.at)
			ctx, cancel = context.WithTimeout(p.ctx, d)
			input = "null"
		}
		done := make(chan string, 1)
		p.calls[id] = done
		go func() {
			defer cancel()
			out, err := p.session.Call(ctx, name, json.RawMessage(input), call.WithRequestID(id))
			done <- outcome(out, err)
		}()
	case "result":
		select {
		case got := <-p.calls[id]:
			require.Equal(p.t, rest, got, p.at)
		default:
			require.Fail(p.t, "no result yet", p.at)
		}
	case "subscribe":
		name, input, _ := strings.Cut(rest, " ")
		sub, err := p.session.Subscribe(p.ctx, name, json.RawMessage(input), call.WithRequestID(id), call.WithWindow(4))
		require.NoError(p.t, err, p.at)
		p.subs[id] = sub
	case "next":
		ctx, cancel := context.WithTimeout(p.ctx, time.Millisecond)
		defer cancel()
		require.Equal(p.t, rest, outcome(p.subs[id].Next(ctx)), p.at)
	case "close":
		require.NoError(p.t, p.subs[id].Close(), p.at)
	case "abort":
		p.session.Abort(id)
	default:
		require.Fail(p.t, "unknown line", p.at)
	}
}

// outcome writes how a call or a wait for a value ended.
func outcome(out json.RawMessage, err error) string {
	var e *call.Error
	switch {
	case err == nil:
		return string(out)
	case errors.Is(err, io.EOF):
		return "end"
	case errors.As(err, &e):
		side := "local"
		if e.Remote() {
			side = "remote"
		}
		return strings.TrimSpace(fmt.Sprintf("%s error %v %s", side, e, e.Details))
	}
	return "not a *call.Error: " + err.Error()
}
