package node

import (
	"context"
	"errors"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/alkdev/alknet-p2p/transport"
)

// Why tells how a peer is reached and why not better, in the form in which the
// command prints it.
type Why struct {
	Target string   `json:"target"` // as it was given
	PeerID string   `json:"peer_id"`
	Result string   `json:"result"` // direct, relayed, unreachable
	Addr   string   `json:"addr"`   // remote address, or the relay's peer ID
	RTT    *float64 `json:"rtt_ms"`
	// Reason says why the path is not direct, Cure what to do; "" when it is.
	Reason string `json:"reason"`
	Cure   string `json:"cure"`
	Steps  []Step `json:"steps"`
}

// Step is one step of a dial, in milliseconds since it began.
type Step struct {
	Ms      float64 `json:"ms"`
	What    string  `json:"what"` // record, relay, handshake, address, call, probe, hard NAT, path
	Detail  string  `json:"detail"`
	Verdict string  `json:"verdict"`
}

// Why dials a peer that there is no connection to, watches for three seconds
// whether a relayed path becomes direct, and tells what was tried and what came
// of it (PATH-34). That the peer is not reached is an answer, not an error.
func (n *Node) Why(ctx context.Context, target string) (*Why, error) {
	if n.router.Load() == nil {
		return nil, transport.ErrClosed
	}
	t, err := n.resolve(target)
	if err != nil {
		return nil, err
	}
	var last *Why
	for _, p := range n.preference.order(t.peers) { // the key that is used, else the last one tried
		w, err := n.host.Why(ctx, p)
		if err != nil {
			return nil, err
		}
		last = describeWhy(target, p, w)
		if w.Err == nil {
			break
		}
	}
	if last == nil {
		return nil, errors.New("the target has no key to dial")
	}
	return last, nil
}

func describeWhy(target string, p peer.ID, w transport.Why) *Why {
	out := &Why{
		Target: target, PeerID: p.String(), Result: string(w.Path.Kind), Addr: pathAddr(w.Path), RTT: millis(w.Path.RTT),
		Reason: w.Cause, Cure: w.Cure, Steps: make([]Step, 0, len(w.Steps)),
	}
	if w.Path.Kind == transport.PathNone {
		out.Result = "unreachable"
	}
	for _, s := range w.Steps {
		out.Steps = append(out.Steps, Step{Ms: float64(s.At.Round(10*time.Microsecond).Microseconds()) / 1000, What: s.What, Detail: s.Detail, Verdict: s.Verdict})
	}
	return out
}
