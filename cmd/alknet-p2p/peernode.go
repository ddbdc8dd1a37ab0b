package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"

	"github.com/alkdev/alknet-p2p/node"
	"github.com/alkdev/alknet-p2p/protocols"
	"github.com/alkdev/alknet-p2p/protocols/auth"
	"github.com/alkdev/alknet-p2p/protocols/call"
	"github.com/alkdev/alknet-p2p/transport"
)

// peerNode is what the commands ask of a node: the one that runs as a daemon,
// through its control socket, or one in this process.
type peerNode interface {
	// status and ticket tell of the node itself.
	status(ctx context.Context) (*node.Status, error)
	ticket(ctx context.Context) (string, error)
	// ping yields each reply and returns the result, also beside an error.
	ping(ctx context.Context, r request, reply func(node.Ping) error) (*node.PingResult, error)
	// why tells how the target is reached and why not better, doctor what is in
	// the way of the node; progress hears what is being done.
	why(ctx context.Context, r request) (*node.Why, error)
	doctor(ctx context.Context, r request, progress func(what string)) (*node.Diagnosis, error)
	// operations lists what the target offers to us.
	operations(ctx context.Context, r request) ([]call.OperationInfo, error)
	// call returns the output of an operation, subscribe yields each item.
	call(ctx context.Context, r request) (json.RawMessage, error)
	subscribe(ctx context.Context, r request, item func(json.RawMessage) error) error
}

// request is what a peerNode is asked; each method reads its own fields.
type request struct {
	Target string `json:"target"`

	Operation string          `json:"operation,omitempty"`
	Input     json.RawMessage `json:"input,omitzero"`   // omitempty would drop {}
	Timeout   duration        `json:"timeout,omitzero"` // of the call; 0: the default
	Token     string          `json:"token,omitzero"`   // brought with the call

	Ticket *ticketRequest `json:"ticket,omitzero"`

	Count       int      `json:"count,omitzero"`
	Interval    duration `json:"interval,omitzero"`
	UntilDirect duration `json:"until_direct,omitzero"`

	Lifetime duration `json:"lifetime,omitzero"` // of a NAT's mapping, to be measured
}

// localNode is a node in this process.
type localNode struct{ *node.Node }

var _ peerNode = localNode{}

func (n localNode) status(context.Context) (*node.Status, error) {
	st := n.Status()
	return &st, nil
}

func (n localNode) ticket(context.Context) (string, error) { return n.Ticket(), nil }

func (n localNode) ping(ctx context.Context, r request, reply func(node.Ping) error) (*node.PingResult, error) {
	replies, result := n.Ping(ctx, r.Target, node.PingOptions{
		Count: r.Count, Interval: r.Interval.Duration, UntilDirect: r.UntilDirect.Duration,
	})
	for line := range replies {
		if err := reply(line); err != nil {
			return nil, err
		}
	}
	if errors.Is(result.Err, node.ErrMalformedTarget) { // nobody was pinged
		return nil, dialFailure(ctx, r.Target, result.Err)
	}
	if result.Err != nil {
		return result, dialFailure(ctx, r.Target, result.Err)
	}
	return result, nil
}

func (n localNode) why(ctx context.Context, r request) (*node.Why, error) {
	why, err := n.Why(ctx, r.Target)
	if err != nil {
		return nil, dialFailure(ctx, r.Target, err)
	}
	return why, nil
}

func (n localNode) doctor(ctx context.Context, r request, progress func(what string)) (*node.Diagnosis, error) {
	if r.Lifetime.Duration < 0 || r.Lifetime.Duration > maxMappingLife {
		return nil, usagef("the lifetime must be between 0 and %s", maxMappingLife)
	}
	return n.Doctor(ctx, r.Lifetime.Duration, progress)
}

func (n localNode) operations(ctx context.Context, r request) ([]call.OperationInfo, error) {
	s, err := n.session(ctx, r)
	if err != nil {
		return nil, err
	}
	if r.Timeout.Duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, r.Timeout.Duration)
		defer cancel()
	}
	list, err := s.List(ctx)
	return list, refusal(r.Target, err)
}

func (n localNode) call(ctx context.Context, r request) (json.RawMessage, error) {
	s, err := n.session(ctx, r)
	if err != nil {
		return nil, err
	}
	out, err := s.Call(ctx, r.Operation, r.Input, r.options()...)
	return out, refusal(r.Target, err)
}

func (n localNode) subscribe(ctx context.Context, r request, item func(json.RawMessage) error) error {
	s, err := n.session(ctx, r)
	if err != nil {
		return err
	}
	sub, err := s.Subscribe(ctx, r.Operation, r.Input, r.options()...)
	if err != nil {
		return refusal(r.Target, err)
	}
	defer sub.Close()
	for {
		v, err := sub.Next(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return refusal(r.Target, err)
		}
		if err := item(v); err != nil {
			return err
		}
	}
}

// session dials a peer. The host bounds how long that takes.
func (n localNode) session(ctx context.Context, r request) (*call.Session, error) {
	if err := knock(ctx, n.Node, r.Target, r.Token); err != nil {
		return nil, err
	}
	s, err := n.CallSession(ctx, r.Target)
	if err != nil {
		return nil, dialFailure(ctx, r.Target, err)
	}
	return s, nil
}

func (r *request) options() (list []call.CallOption) {
	if r.Timeout.Duration > 0 {
		list = append(list, call.WithTimeout(r.Timeout.Duration))
	}
	if r.Token != "" {
		list = append(list, call.WithToken(auth.TokenFromText(r.Token)))
	}
	return list
}

// refusal is the error of a call that the target did not let in, or has shut
// out meanwhile; any other stays as it is.
func refusal(target string, err error) error {
	if reset, ok := errors.AsType[*protocols.StreamResetError](err); ok && reset.Remote && reset.Code == protocols.CodeUnauthorised {
		return failf(exitDenied, codeForbidden,
			"%s does not let this node in, or no longer: its owner may add its key (peer add), or give a ticket for --token-file", target)
	}
	return err
}

// dialFailure is a peer that could not be reached, or is not who it should be.
func dialFailure(ctx context.Context, target string, err error) error {
	switch {
	case ctx.Err() != nil:
		return err
	case errors.Is(err, protocols.ErrProtocolNotSupported):
		return failf(exitFailed, codeFailed, "%s does not serve that protocol", target)
	}
	f := failf(exitUnreachable, codeUnreachable, "cannot reach %s: %s", target, err)
	unknown := strings.TrimPrefix(err.Error(), node.ErrUnknownTarget.Error()+": ")
	switch {
	case errors.Is(err, node.ErrMalformedTarget):
		return usagef("%s", unknown)
	case errors.Is(err, node.ErrUnknownTarget):
		f.Message = unknown
	case errors.Is(err, transport.ErrUnreachable):
		f.Message = "cannot reach " + target + ": it is not online, or nobody here knows where it is"
		f.Retryable = true
	}
	return f
}
