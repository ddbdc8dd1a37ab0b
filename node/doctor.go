package node

import (
	"context"
	"time"

	"github.com/alkdev/alknet-p2p/transport"
)

// Diagnosis is what Doctor found, in the form in which the command prints it.
type Diagnosis struct {
	Checks []Check `json:"checks"`
}

// Check is one finding; see [transport.Check].
type Check struct {
	Name   string `json:"name"`
	Relay  string `json:"relay,omitempty"` // peer ID of whom it is about
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
	Cause  string `json:"cause"` // "" when OK
	Cure   string `json:"cure"`
}

// Troubles counts the findings that are not OK.
func (d *Diagnosis) Troubles() (n int) {
	for _, c := range d.Checks {
		if !c.OK {
			n++
		}
	}
	return n
}

// Doctor looks at the ways from this node to its relays and at the NAT before
// it, in some five seconds. With a lifetime it also measures for how long the
// NAT keeps an idle mapping, which takes up to that long. progress may be nil;
// it hears what is being done and must not block.
func (n *Node) Doctor(ctx context.Context, lifetime time.Duration, progress func(what string)) (*Diagnosis, error) {
	checks, err := n.host.Doctor(ctx, transport.DoctorOptions{Lifetime: lifetime, Progress: progress})
	if err != nil {
		return nil, err
	}
	out := &Diagnosis{Checks: make([]Check, 0, len(checks))}
	for _, c := range checks {
		out.Checks = append(out.Checks, Check{
			Name: c.Name, Relay: c.Relay.String(), OK: c.OK, Detail: c.Detail, Cause: c.Cause, Cure: c.Cure,
		})
	}
	return out, nil
}
