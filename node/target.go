package node

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/alkdev/alknet-p2p/protocols"
	"github.com/alkdev/alknet-p2p/protocols/auth"
	"github.com/alkdev/alknet-p2p/transport"
	"github.com/alkdev/alknet-p2p/transport/discovery"
	"github.com/alkdev/alknet-p2p/transport/magic"
	"github.com/alkdev/alknet-p2p/transport/relay"
)

// ErrUnknownTarget: the text names no peer: it is neither a name in the
// registry, nor a node key, nor a ticket.
var ErrUnknownTarget = errors.New("unknown target")

// ErrMalformedTarget: the text looks like a key or a ticket and is not one. Such
// errors match ErrUnknownTarget too.
var ErrMalformedTarget = errors.New("neither a key nor a ticket")

// target is a peer somebody wants to reach: one or more keys, and the name it
// must turn out to have, if it was named.
type target struct {
	text  string
	name  auth.PeerName // "" when given by key
	peers []peer.ID
}

// resolve reads a target as people write it: a peer name, "ed25519:…",
// "12D3KooW…" or a ticket (NODE-52).
func (n *Node) resolve(text string) (*target, error) {
	if strings.HasPrefix(text, "alk1") {
		t, err := discovery.ParseTicket(text)
		if err == nil {
			if t.Network != n.network {
				return nil, fmt.Errorf("%w: the ticket is for network %q, this node is in %q", ErrUnknownTarget, t.Network, n.network)
			}
			n.host.AddTicket(t)
			return &target{text: text, peers: []peer.ID{t.Peer}}, nil
		}
		if _, known := n.peers.ByName(auth.PeerName(text)); !known {
			return nil, fmt.Errorf("%w: %w: %w", ErrUnknownTarget, ErrMalformedTarget, err)
		}
	}
	if p, err := auth.ParseKey(text); err == nil {
		return &target{text: text, peers: []peer.ID{p}}, nil
	} else if strings.HasPrefix(text, "ed25519:") || strings.HasPrefix(text, "12D3KooW") {
		return nil, fmt.Errorf("%w: %w: %w", ErrUnknownTarget, ErrMalformedTarget, err)
	}
	entry, ok := n.peers.ByName(auth.PeerName(text))
	if !ok {
		return nil, fmt.Errorf("%w: no peer is named %q; add it with its key, or give the key itself", ErrUnknownTarget, text)
	}
	t := &target{text: text, name: auth.PeerName(text)}
	for _, fp := range entry.Fingerprints {
		if p, err := auth.PeerFromFingerprint(fp); err == nil {
			t.peers = append(t.peers, p)
		}
	}
	if !entry.Enabled || len(t.peers) == 0 {
		return nil, fmt.Errorf("%w: peer %q is disabled or has no key to dial", ErrUnknownTarget, text)
	}
	return t, nil
}

// Join enters the network by further tickets, while the node runs. Nothing is
// done unless all of them are valid and of this node's network.
func (n *Node) Join(tickets ...string) error {
	parsed := make([]*discovery.Ticket, len(tickets))
	for i, text := range tickets {
		var err error
		if parsed[i], err = discovery.ParseTicket(text); err != nil {
			return fmt.Errorf("join: %w", err)
		}
	}
	return n.host.Join(parsed...)
}

// Open returns the session with a peer for a protocol, making one if there is
// none. The target is a peer name, a node key in either form, or a ticket; a
// named peer must prove to be the one of that name. Either side may open
// streams on the session; Handle of the registered handler runs on both
// (NODE-45).
func (n *Node) Open(ctx context.Context, target, alpn string) (protocols.Connection, error) {
	router := n.router.Load()
	if router == nil {
		return nil, transport.ErrClosed
	}
	t, err := n.resolve(target)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, p := range n.preference.order(t.peers) {
		conn, err := router.Open(ctx, p, alpn, t.name)
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	if t.name != "" {
		n.lookForSuccessor() // it may have another key by now
	}
	return nil, errors.Join(errs...)
}

// knownTo tells whether a key belongs to an enabled peer.
func knownTo(peers *auth.Peers) func(relay.Key) bool {
	return func(k relay.Key) bool {
		if peers == nil {
			return false
		}
		p, err := magic.PeerID(k)
		if err != nil {
			return false
		}
		fp, err := auth.FingerprintFromPeer(p)
		if err != nil {
			return false
		}
		_, ok := peers.ResolveFromFingerprint(fp)
		return ok
	}
}
