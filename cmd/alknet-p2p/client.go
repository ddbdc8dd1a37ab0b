package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"strings"
	"time"

	json2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/alkdev/alknet-p2p/node"
	"github.com/alkdev/alknet-p2p/protocols/call"
)

// controlWait is how long a node that runs may take to take up a request.
const controlWait = 10 * time.Second

// client asks the node that runs on a home, through its control socket.
type client struct {
	home home
	http http.Client
}

var _ peerNode = (*client)(nil)

func newClient(h home) *client {
	path, _ := h.socket()
	return &client{home: h, http: http.Client{Transport: &http.Transport{
		DisableKeepAlives:     true,
		ResponseHeaderTimeout: controlWait,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			c, err := d.DialContext(ctx, "unix", path)
			if err != nil {
				return nil, err
			}
			if err := checkServer(path, c); err != nil {
				return nil, errors.Join(failf(exitFailed, codeFailed, "control socket: %s", err), c.Close())
			}
			return c, nil
		},
	}}}
}

func (c *client) status(ctx context.Context) (st *node.Status, err error) {
	err = c.ask(ctx, "status", request{}, func(m message) error { st = m.Status; return nil })
	if err == nil && st == nil {
		err = errNoAnswer
	}
	return st, err
}

func (c *client) ticket(ctx context.Context) (ticket string, err error) {
	err = c.ask(ctx, "ticket", request{}, func(m message) error { ticket = m.Ticket; return nil })
	return ticket, err
}

// reload lets the node read its files again.
func (c *client) reload(ctx context.Context) (report *reloadReport, err error) {
	err = c.ask(ctx, "reload", request{}, func(m message) error { report = m.Reload; return nil })
	if err == nil && report == nil {
		err = errNoAnswer
	}
	return report, err
}

// issueTicket lets the node make a capability ticket.
func (c *client) issueTicket(ctx context.Context, r ticketRequest) (t *ticketAnswer, err error) {
	err = c.ask(ctx, "issue-ticket", request{Ticket: &r}, func(m message) error { t = m.Issued; return nil })
	if err == nil && t == nil {
		err = errNoAnswer
	}
	return t, err
}

func (c *client) ping(ctx context.Context, r request, reply func(node.Ping) error) (result *node.PingResult, err error) {
	err = c.ask(ctx, "ping", r, func(m message) error {
		if m.Ping != nil {
			return reply(*m.Ping)
		}
		result = m.Result
		return nil
	})
	if err == nil && result == nil {
		err = errNoAnswer
	}
	return result, err
}

func (c *client) why(ctx context.Context, r request) (why *node.Why, err error) {
	err = c.ask(ctx, "why", r, func(m message) error { why = m.Why; return nil })
	if err == nil && why == nil {
		err = errNoAnswer
	}
	return why, err
}

func (c *client) doctor(ctx context.Context, r request, progress func(string)) (found *node.Diagnosis, err error) {
	err = c.ask(ctx, "doctor", r, func(m message) error {
		if m.Progress != "" {
			progress(m.Progress)
		}
		if m.Doctor != nil {
			found = m.Doctor
		}
		return nil
	})
	if err == nil && found == nil {
		err = errNoAnswer
	}
	return found, err
}

func (c *client) operations(ctx context.Context, r request) (ops []call.OperationInfo, err error) {
	err = c.ask(ctx, "operations", r, func(m message) error { ops = m.Operations; return nil })
	return ops, err
}

func (c *client) call(ctx context.Context, r request) (out json.RawMessage, err error) {
	err = c.ask(ctx, "call", r, func(m message) error { out = m.Output; return nil })
	return out, err
}

func (c *client) subscribe(ctx context.Context, r request, item func(json.RawMessage) error) error {
	return c.ask(ctx, "subscribe", r, func(m message) error { return item(m.Item) })
}

var errNoAnswer = errors.New("the node gave no answer")

// ask sends a request and yields each message but the last.
func (c *client) ask(ctx context.Context, what string, r request, each func(message) error) error {
	body, err := json2.Marshal(r, jsontext.AllowDuplicateNames(true))
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://control/v1/"+what, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return c.notRunning(ctx, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
		return fmt.Errorf("the node refused the request: %s", strings.TrimSpace(string(text)))
	}
	lines := bufio.NewReader(resp.Body)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return errors.New("the node has stopped")
		}
		var m message
		if err := json2.Unmarshal(line, &m, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)); err != nil {
			return fmt.Errorf("answer of the node: %w", err)
		}
		switch {
		case m.Error != nil:
			m.Error.exit, m.Error.called = m.Exit, m.Called
			return m.Error
		case m.End:
			return nil
		}
		if err := each(m); err != nil {
			return err
		}
	}
}

// notRunning says what to do when nobody listens on the socket.
func (c *client) notRunning(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var (
		op   *net.OpError
		own  *failure
		late net.Error
	)
	switch dial := errors.As(err, &op) && op.Op == "dial"; {
	case dial && errors.Is(err, fs.ErrPermission):
		return failf(exitDenied, codeForbidden, "the node on %s is another user's", c.home)
	case errors.As(err, &own):
		return own
	case !dial && errors.As(err, &late) && late.Timeout():
		return failf(exitTimeout, codeTimeout, "the node on %s does not answer: it hangs; stop it and start it again", c.home)
	case !dial: // net/http has several words for a connection that ends before the answer
		return failf(exitDenied, codeForbidden, "the node on %s hung up: it answers its owner, and no program that an operation runs", c.home)
	}
	return failf(exitNoDaemon, codeNoDaemon, "no node is running on %s; start one: alknet-p2p --home %s up", c.home, quote(string(c.home)))
}

// isNotRunning reports whether err is that of a home without a node.
func isNotRunning(err error) bool {
	var f *failure
	return errors.As(err, &f) && f.Code == codeNoDaemon
}

// quote makes text fit to be pasted into a shell.
func quote(text string) string {
	plain := func(c rune) bool {
		return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("/._-:+@%,=", c)
	}
	if text != "" && strings.IndexFunc(text, func(c rune) bool { return !plain(c) }) < 0 {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}
