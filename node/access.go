package node

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/alkdev/alknet-p2p/protocols/admit"
	"github.com/alkdev/alknet-p2p/protocols/auth"
	"github.com/alkdev/alknet-p2p/protocols/auth/ticket"
	"github.com/alkdev/alknet-p2p/transport"
)

// access is who gets in, and on which ticket. It asks the registry and the
// ledger of tickets anew each time, so that a change of either counts at once.
type access struct {
	peers   *auth.Peers
	key     ed25519.PrivateKey
	network string
	store   ticket.Store
	keeper  *ticket.Keeper
	own     atomic.Pointer[auth.Admission]
}

func newAccess(cfg *Config) (*access, error) {
	a := &access{peers: cfg.Peers, key: cfg.Key, network: cfg.Network, store: cfg.Tickets}
	if a.network == "" {
		a.network = transport.DefaultNetwork
	}
	if a.store == nil {
		a.store = new(ticket.Memory)
	}
	if err := a.setAdmission(cfg.Admission); err != nil {
		return nil, err
	}
	if len(cfg.Key) != ed25519.PrivateKeySize {
		return nil, errors.New("config: Key is not an ed25519 private key")
	}
	public, _ := cfg.Key.Public().(ed25519.PublicKey)
	var err error
	a.keeper, err = ticket.NewKeeper(public, a.network, a.store)
	return a, err
}

func (a *access) setAdmission(own auth.Admission) error {
	if err := (&auth.Config{Admission: own}).Validate(); err != nil {
		return fmt.Errorf("node: %w", err)
	}
	own = (&auth.Config{Admission: own}).Clone().Admission
	a.own.Store(&own)
	return nil
}

// admits says who may have sessions for the ALPN: what the registry says, else
// what the node itself does.
func (a *access) admits(alpn string) auth.Admit {
	if said := a.peers.Admits(alpn); said != "" {
		return said
	}
	return a.own.Load().For(alpn)
}

// isStranger reports whether the node as a whole is closed to the key.
func (a *access) isStranger(p peer.ID) bool {
	if a.admits("") != auth.AdmitClosed {
		return false
	}
	key, err := auth.FingerprintFromPeer(p)
	if err != nil {
		return true
	}
	_, known := a.peers.NameOf(key)
	return !known && !a.keeper.Guest(key)
}

func (a *access) connsPerSource() int { return a.peers.RateLimits().MaxConnectionsPerIP }

func (a *access) maxTokenFailures() int { return a.peers.RateLimits().MaxAuthAttempts }

// SetAdmission changes who may have sessions, where the registry does not say
// it; see Config.Admission. Sessions that are not admitted any more end.
func (n *Node) SetAdmission(a auth.Admission) error {
	if err := n.access.setAdmission(a); err != nil {
		return err
	}
	n.Recheck()
	return nil
}

// IssueTicket makes a capability ticket of this node: whoever holds the token may
// call the operations it names, as package ticket says. The network of the terms
// is this node's when empty. note is for people who read the ledger. The token
// is shown by no other method, ever.
func (n *Node) IssueTicket(ctx context.Context, terms ticket.Terms, note string) (*ticket.Ticket, auth.Token, error) {
	if terms.Network == "" {
		terms.Network = n.access.network
	}
	t, token, err := ticket.Sign(n.access.key, terms)
	if err != nil {
		return nil, auth.Token{}, err
	}
	if err := n.access.store.Update(ctx, func(l *ticket.Ledger) error { return l.Record(t, note) }); err != nil {
		return nil, auth.Token{}, fmt.Errorf("issue ticket: %w", err)
	}
	return t, token, nil
}

// Knock brings a capability ticket to the door of the node that issued it: from
// then on that node lets this one in, for as long as the ticket is good, and has
// bound the ticket to this node's key unless it is a bearer's. It is needed where
// strangers are not admitted, and does no harm elsewhere; calls bring the ticket
// again, by call.WithToken. The error is admit.ErrRefused when the ticket is not
// good.
func (n *Node) Knock(ctx context.Context, target string, token auth.Token) error {
	if n.router.Load() == nil {
		return transport.ErrClosed
	}
	t, err := n.resolve(target)
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range t.peers {
		err := admit.Knock(ctx, n.host, p, token)
		if err == nil {
			return nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(errs...)
}
