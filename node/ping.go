package node

import (
	"context"
	"errors"
	"iter"
	"time"

	"github.com/alkdev/alknet-p2p/protocols/ping"
	"github.com/alkdev/alknet-p2p/transport"
)

// PingOptions say how a peer is pinged. The zero value pings four times, once
// a second.
type PingOptions struct {
	Count       int           // how many; 4 when zero, without end when negative
	Interval    time.Duration // between two; 1 s when zero
	Timeout     time.Duration // after which a reply counts as lost; 5 s when zero
	UntilDirect time.Duration // ping until the path is direct, this long at most; 0 = not
}

// Ping is one line of a ping's report. Err is set on the last one when the
// peer could not be reached.
type Ping struct {
	Seq       int      `json:"seq"`
	RTT       *float64 `json:"rtt_ms,omitempty"`
	Path      string   `json:"path,omitempty"`
	Addr      string   `json:"addr,omitempty"`
	SinceDial float64  `json:"since_dial_ms"`
	Lost      bool     `json:"lost,omitzero"`
}

// PingResult is the last line of a ping's report.
type PingResult struct {
	Result    string   `json:"result"` // direct, relayed, failed
	FirstByte *float64 `json:"first_byte_ms"`
	Direct    *float64 `json:"direct_ms"`
	Err       error    `json:"-"` // why it failed
}

// Ping dials a peer and measures round trips and paths. It yields each reply
// as it comes; result is complete once the sequence has ended.
func (n *Node) Ping(ctx context.Context, target string, opts PingOptions) (replies iter.Seq[Ping], result *PingResult) {
	opts.defaults()
	result = &PingResult{Result: "failed"}
	return func(yield func(Ping) bool) { n.ping(ctx, target, opts, result, yield) }, result
}

func (o *PingOptions) defaults() {
	if o.Interval <= 0 {
		o.Interval = time.Second
	}
	if o.Timeout <= 0 {
		o.Timeout = 5 * time.Second
	}
	if o.Count == 0 {
		o.Count = 4
		if o.UntilDirect > 0 {
			o.Count = -1
		}
	}
}

func (n *Node) ping(ctx context.Context, target string, opts PingOptions, result *PingResult, yield func(Ping) bool) {
	dialled := time.Now()
	conn, err := n.Open(ctx, target, ping.ALPN)
	if err != nil {
		result.Err = err
		return
	}
	pinger, err := ping.NewPinger(ctx, conn)
	if err != nil {
		result.Err = err
		return
	}
	defer pinger.Close()
	t, err := n.resolve(target)
	if err != nil {
		result.Err = err
		return
	}
	tick := time.NewTicker(opts.Interval)
	defer tick.Stop()
	for seq := 1; opts.Count < 0 || seq <= opts.Count; seq++ {
		line, err := n.pingOnce(ctx, pinger, seq, opts.Timeout)
		line.SinceDial = *millis(time.Since(dialled))
		if err != nil && !line.Lost {
			result.Result, result.Err = "failed", err
			return
		}
		if !line.Lost {
			path := n.connectedPath(t)
			line.Path, line.Addr = string(path.Kind), pathAddr(path)
			if result.FirstByte == nil {
				result.FirstByte = millis(time.Since(dialled))
			}
			result.Result = line.Path
			if path.Kind == transport.PathDirect && result.Direct == nil {
				result.Direct = millis(time.Since(dialled))
			}
		}
		if !yield(line) {
			return
		}
		if opts.UntilDirect > 0 && (result.Direct != nil || time.Since(dialled) >= opts.UntilDirect) {
			return
		}
		if seq == opts.Count {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (n *Node) pingOnce(ctx context.Context, p *ping.Pinger, seq int, timeout time.Duration) (Ping, error) {
	pctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	rtt, err := p.Ping(pctx)
	if err == nil {
		return Ping{Seq: seq, RTT: millis(max(rtt, time.Microsecond))}, nil
	}
	lost := errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil
	return Ping{Seq: seq, Lost: lost}, err
}

// connectedPath is the path to whichever of the target's keys answered.
func (n *Node) connectedPath(t *target) transport.Path {
	for _, p := range t.peers {
		if path := n.host.Path(p); path.Kind != transport.PathNone {
			return path
		}
	}
	return transport.Path{Kind: transport.PathNone}
}
