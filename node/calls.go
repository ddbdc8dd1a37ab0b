package node

import (
	"context"
	"encoding/json"

	"github.com/alkdev/alknet-p2p/protocols/call"
)

// CallSession returns the call session with a peer, making one if there is
// none; see Open for what a target is.
func (n *Node) CallSession(ctx context.Context, target string) (*call.Session, error) {
	conn, err := n.Open(ctx, target, call.ALPN)
	if err != nil {
		return nil, err
	}
	return n.calls.Session(ctx, conn)
}

// Call calls an operation of a peer and returns its output. Errors that the
// peer answered are *call.Error.
func (n *Node) Call(ctx context.Context, target, operation string, input any, opts ...call.CallOption) (json.RawMessage, error) {
	s, err := n.CallSession(ctx, target)
	if err != nil {
		return nil, err
	}
	return s.Call(ctx, operation, input, opts...)
}

// Subscribe opens a subscription to an operation of a peer. Close it, or end
// ctx, to abort.
func (n *Node) Subscribe(ctx context.Context, target, operation string, input any, opts ...call.CallOption) (*call.Subscription, error) {
	s, err := n.CallSession(ctx, target)
	if err != nil {
		return nil, err
	}
	return s.Subscribe(ctx, operation, input, opts...)
}
