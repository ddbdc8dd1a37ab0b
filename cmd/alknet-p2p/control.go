package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"time"

	json2 "github.com/go-json-experiment/json"

	"github.com/alkdev/alknet-p2p/node"
	"github.com/alkdev/alknet-p2p/protocols/call"
)

// The control socket: HTTP over a unix socket in the home, for the user who
// runs the node and nobody else. There is no operation of the vault on it.
// Every request is a POST of one request as JSON, every answer is messages as
// JSON lines, of which the last has end or error set: an answer that stops
// without was cut off.

const (
	// maxSocketPath is the longest path of a socket that every system takes.
	maxSocketPath = 100
	// maxControlRequest bounds a request: an input of the largest frame.
	maxControlRequest = 65 << 20
)

// socket is where the control socket of the home is. A home whose path is too
// long for a socket has it in a folder of the user's in /tmp: never in one
// that the environment names, so that both ends mean the same.
func (h home) socket() (path string, own bool) {
	path = filepath.Join(string(h), "control.sock")
	if len(path) <= maxSocketPath {
		return path, false
	}
	sum := sha256.Sum256([]byte(h))
	return filepath.Join("/tmp", fmt.Sprintf("alknet-p2p-%d", os.Geteuid()), hex.EncodeToString(sum[:12])+".sock"), true
}

// controlServer serves the control socket of one node. It owns the goroutines
// of its HTTP server; close returns after the last.
type controlServer struct {
	node  peerNode
	owner ownNode
	http  http.Server
	done  chan struct{}
}

// ownNode is what only the owner of a running node asks of it.
type ownNode interface {
	// reload reads the files of the home again.
	reload() (*reloadReport, error)
	// issueTicket makes a capability ticket.
	issueTicket(ctx context.Context, r ticketRequest) (*ticketAnswer, error)
}

// serveControl listens on the home's socket. The home's lock must be held: a
// socket that is there already was left by a process that is gone.
func serveControl(h home, n peerNode, owner ownNode, log *slog.Logger) (*controlServer, error) {
	path, own := h.socket()
	if own {
		if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("control socket: %w", err)
		}
		if err := checkPrivateDir(filepath.Dir(path)); err != nil {
			return nil, fmt.Errorf("control socket: %w", err)
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	listener, err := listenPrivate(path)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	s := &controlServer{node: n, owner: owner, done: make(chan struct{})}
	s.http = http.Server{
		Handler:           s.routes(),
		ReadHeaderTimeout: 5 * time.Second,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	go func() {
		defer close(s.done)
		_ = s.http.Serve(listener) // ends with Close
	}()
	return s, nil
}

// close ends all requests.
func (s *controlServer) close() {
	_ = s.http.Close()
	<-s.done
}

// message is one line of an answer.
type message struct {
	Status     *node.Status         `json:"status,omitzero"`
	Ticket     string               `json:"ticket,omitzero"`
	Reload     *reloadReport        `json:"reload,omitzero"`
	Issued     *ticketAnswer        `json:"issued,omitzero"`
	Operations []call.OperationInfo `json:"operations,omitempty"`
	Output     json.RawMessage      `json:"output,omitzero"` // of a call; omitempty would drop {}
	Item       json.RawMessage      `json:"item,omitzero"`   // of a subscription
	Ping       *node.Ping           `json:"ping,omitzero"`
	Result     *node.PingResult     `json:"result,omitzero"`
	Why        *node.Why            `json:"why,omitzero"`
	Doctor     *node.Diagnosis      `json:"doctor,omitzero"`
	Progress   string               `json:"progress,omitzero"` // what is being waited for

	End    bool     `json:"end,omitzero"`
	Error  *failure `json:"error,omitzero"`
	Exit   int      `json:"exit,omitzero"`   // of Error: its exit code
	Called bool     `json:"called,omitzero"` // of Error: an operation answered it
}

func (s *controlServer) routes() http.Handler {
	mux := http.NewServeMux()
	handle := func(name string, serve func(ctx context.Context, r request, send func(message) error) error) {
		mux.HandleFunc("POST /v1/"+name, func(w http.ResponseWriter, r *http.Request) { answer(w, r, serve) })
	}
	handle("status", func(ctx context.Context, _ request, send func(message) error) error {
		st, err := s.node.status(ctx)
		return sendIf(err, send, message{Status: st})
	})
	handle("ticket", func(ctx context.Context, _ request, send func(message) error) error {
		ticket, err := s.node.ticket(ctx)
		return sendIf(err, send, message{Ticket: ticket})
	})
	handle("reload", func(_ context.Context, _ request, send func(message) error) error {
		report, err := s.owner.reload()
		return sendIf(err, send, message{Reload: report})
	})
	handle("issue-ticket", func(ctx context.Context, r request, send func(message) error) error {
		if r.Ticket == nil {
			return usagef("no ticket is asked for")
		}
		t, err := s.owner.issueTicket(ctx, *r.Ticket)
		return sendIf(err, send, message{Issued: t})
	})
	handle("operations", func(ctx context.Context, r request, send func(message) error) error {
		ops, err := s.node.operations(ctx, r)
		return sendIf(err, send, message{Operations: ops})
	})
	handle("call", func(ctx context.Context, r request, send func(message) error) error {
		out, err := s.node.call(ctx, r)
		return sendIf(err, send, message{Output: out})
	})
	handle("subscribe", func(ctx context.Context, r request, send func(message) error) error {
		return s.node.subscribe(ctx, r, func(item json.RawMessage) error { return send(message{Item: item}) })
	})
	handle("why", func(ctx context.Context, r request, send func(message) error) error {
		why, err := s.node.why(ctx, r)
		return sendIf(err, send, message{Why: why})
	})
	handle("doctor", func(ctx context.Context, r request, send func(message) error) error {
		// Whoever asked may be gone; its context ends then.
		found, err := s.node.doctor(ctx, r, func(what string) { _ = send(message{Progress: what}) })
		return sendIf(err, send, message{Doctor: found})
	})
	handle("ping", func(ctx context.Context, r request, send func(message) error) error {
		result, err := s.node.ping(ctx, r, func(p node.Ping) error { return send(message{Ping: &p}) })
		if result == nil {
			return err
		}
		return errors.Join(send(message{Result: result}), err)
	})
	return mux
}

func sendIf(err error, send func(message) error, m message) error {
	if err != nil {
		return err
	}
	return send(m)
}

// answer reads the request, serves it and says how it ended.
func answer(w http.ResponseWriter, r *http.Request, serve func(context.Context, request, func(message) error) error) {
	var req request
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxControlRequest))
	if err == nil {
		err = json2.Unmarshal(body, &req, json2.RejectUnknownMembers(true))
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	flush := http.NewResponseController(w).Flush
	if err := flush(); err != nil { // at once: by that the client knows a node that hangs
		return
	}
	send := func(m message) error { return errors.Join(writeJSON(w, m), flush()) }
	if err := serve(r.Context(), req, send); err != nil {
		f := asFailure(err)
		_ = send(message{Error: f, Exit: f.exit, Called: f.called}) // whoever asked may be gone
		return
	}
	_ = send(message{End: true})
}
