//go:build linux

package acceptance

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/alkdev/alknet-p2p/transport"
	"github.com/alkdev/alknet-p2p/transport/discovery"
	"github.com/alkdev/alknet-p2p/transport/natlab"
)

var (
	bulkNode   = flag.String("throughput.node", "", "be an end of a throughput benchmark, with this configuration (for the benchmark itself)")
	bulkRounds = flag.Int("throughput.rounds", 5, "transfers of each kind, taken in turn")
	bulkSize   = flag.Int64("throughput.mib", 512, "mebibytes of each transfer")
)

const bulkID protocol.ID = "/test/bulk"

// bulkConfig is what the benchmark tells its programs.
type bulkConfig struct {
	Kind string // stock, direct, tcp, 443, relayed; relay for the relay, slow-relay for one that limits its clients
	Join string // the relay's ticket
	IP   string // of this host
}

// bulkReady is the first line of a program's output; each line it reads is an
// order, answered by one line more.
type bulkReady struct{ Peer, Addr, Ticket string }

// bulkOrder asks for a transfer to a peer; without one, for the processor time
// used since the last order. It begins when the path is of a kind, by default
// that of the program.
type bulkOrder struct {
	Peer, Addr, Path string
	MiB              int64
}

type bulkResult struct {
	Took, CPU time.Duration
	Err       string
}

// bulkEnd is a libp2p host of either make.
type bulkEnd struct {
	ready  bulkReady
	handle func(network.StreamHandler)
	open   func(ctx context.Context, p peer.ID, o bulkOrder) (network.Stream, error)
}

// throughputEnd runs one end until standard input ends.
func throughputEnd(text string) error {
	var cfg bulkConfig
	if err := json.Unmarshal([]byte(text), &cfg); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	e, err := newBulkEnd(ctx, cfg)
	if err != nil {
		return err
	}
	e.handle(func(s network.Stream) {
		defer s.Close()
		buf := make([]byte, 1<<20)
		for {
			if _, err := io.ReadFull(s, buf); err != nil {
				return
			}
			if _, err := s.Write([]byte{1}); err != nil {
				return
			}
		}
	})
	out := json.NewEncoder(os.Stdout)
	if err := out.Encode(e.ready); err != nil {
		return err
	}
	used := processorTime()
	for in := json.NewDecoder(os.Stdin); ; {
		var o bulkOrder
		if err := in.Decode(&o); err != nil {
			return nil // the benchmark is over
		}
		var r bulkResult
		if o.Peer != "" {
			if r.Took, err = e.transfer(ctx, o); err != nil {
				r.Err = err.Error()
			}
		}
		now := processorTime()
		r.CPU, used = now-used, now
		if err := out.Encode(r); err != nil {
			return err
		}
	}
}

// transfer sends a MiB at a time, each acknowledged, and tells how long it took.
func (e *bulkEnd) transfer(ctx context.Context, o bulkOrder) (time.Duration, error) {
	p, err := peer.Decode(o.Peer)
	if err != nil {
		return 0, err
	}
	s, err := e.open(ctx, p, o)
	if err != nil {
		return 0, err
	}
	defer s.Close()
	buf, ack := make([]byte, 1<<20), make([]byte, 1)
	begin := time.Now()
	sent := make(chan error, 1)
	go func() {
		for range o.MiB {
			if _, err := s.Write(buf); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	for range o.MiB {
		if _, err := io.ReadFull(s, ack); err != nil {
			return 0, err
		}
	}
	return time.Since(begin), <-sent
}

func newBulkEnd(ctx context.Context, cfg bulkConfig) (*bulkEnd, error) {
	if cfg.Kind == "stock" {
		h, err := libp2p.New(libp2p.ListenAddrStrings("/ip4/" + cfg.IP + "/udp/4001/quic-v1"))
		if err != nil {
			return nil, err
		}
		return &bulkEnd{
			ready:  bulkReady{Peer: h.ID().String(), Addr: h.Addrs()[0].String()},
			handle: func(f network.StreamHandler) { h.SetStreamHandler(bulkID, f) },
			open: func(ctx context.Context, p peer.ID, o bulkOrder) (network.Stream, error) {
				a, err := ma.NewMultiaddr(o.Addr)
				if err != nil {
					return nil, err
				}
				if err := h.Connect(ctx, peer.AddrInfo{ID: p, Addrs: []ma.Multiaddr{a}}); err != nil {
					return nil, err
				}
				return h.NewStream(ctx, p, bulkID)
			},
		}, nil
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	tcfg := transport.Config{Key: key, Network: "throughput", NoMDNS: true}
	want := transport.PathDirect
	switch cfg.Kind {
	case "relay":
		tcfg.Relay = &transport.RelayConfig{Rate: -1}
	case "slow-relay":
		tcfg.Relay = &transport.RelayConfig{}
	case "relayed":
		tcfg.Listen, want = []string{}, transport.PathRelayed
	case "direct":
		// No stock listener that could be dialled instead.
		tcfg.Listen = []string{"/ip4/" + cfg.IP + "/tcp/0"}
	case "443":
		tcfg.Listen443 = true
	}
	if cfg.Join != "" {
		t, err := discovery.ParseTicket(cfg.Join)
		if err != nil {
			return nil, err
		}
		tcfg.Join = []*discovery.Ticket{t}
	}
	h, err := transport.New(tcfg)
	if err != nil {
		return nil, err
	}
	if err := h.Start(ctx); err != nil {
		return nil, err
	}
	online, stop := context.WithTimeout(ctx, 20*time.Second)
	defer stop()
	if err := h.Online(online); err != nil {
		return nil, err
	}
	ticket, err := h.Ticket()
	if err != nil {
		return nil, err
	}
	return &bulkEnd{
		ready:  bulkReady{Peer: h.ID().String(), Ticket: ticket.String()},
		handle: func(f network.StreamHandler) { h.SetStreamHandler(bulkID, f) },
		open: func(ctx context.Context, p peer.ID, o bulkOrder) (network.Stream, error) {
			want := want
			if o.Path != "" {
				want = transport.PathKind(o.Path)
			}
			s, err := h.OpenStream(ctx, p, bulkID)
			if err != nil {
				return nil, err
			}
			for end := time.Now().Add(10 * time.Second); h.Path(p).Kind != want; time.Sleep(10 * time.Millisecond) {
				if time.Now().After(end) {
					return nil, fmt.Errorf("path is %s, not %s", h.Path(p).Kind, want)
				}
			}
			return s, nil
		},
	}, nil
}

// processorTime is what this process has used so far.
func processorTime() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// bulkProc is a running end.
type bulkProc struct {
	b     testing.TB
	ready bulkReady
	in    *json.Encoder
	out   *json.Decoder
}

func startBulk(b testing.TB, host *natlab.Host, cfg bulkConfig) *bulkProc {
	b.Helper()
	cfg.IP = host.Addr().String()
	text, err := json.Marshal(cfg)
	require.NoError(b, err)
	self, err := os.Executable()
	require.NoError(b, err)
	var cmd *exec.Cmd = host.Command(context.Background(), self, "-throughput.node="+string(text))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(b, err)
	out, err := cmd.StdoutPipe()
	require.NoError(b, err)
	require.NoError(b, cmd.Start())
	b.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	p := &bulkProc{b: b, in: json.NewEncoder(in), out: json.NewDecoder(bufio.NewReader(out))}
	require.NoError(b, p.out.Decode(&p.ready))
	return p
}

func (p *bulkProc) order(o bulkOrder) bulkResult {
	p.b.Helper()
	require.NoError(p.b, p.in.Encode(o))
	var r bulkResult
	require.NoError(p.b, p.out.Decode(&r))
	require.Empty(p.b, r.Err)
	return r
}

// BenchmarkThroughput sends through one stream from one host to another, over
// cables of the kernel with an MTU of 1500: by stock go-libp2p QUIC, by the
// direct path and by the relayed one, in turn. The figures are medians; the
// processor's time is that of both ends, and of the relay.
func BenchmarkThroughput(b *testing.B) {
	lab := natlab.Start(b, natlab.Config{Public: []string{"relay", "a", "b"}, Required: *required})
	relay := startBulk(b, lab.Host("relay"), bulkConfig{Kind: "relay"})
	kinds := []string{"stock", "direct", "relayed"}
	pairs := make(map[string]bulkPair)
	for _, k := range kinds {
		cfg := bulkConfig{Kind: k, Join: relay.ready.Ticket}
		pairs[k] = bulkPair{startBulk(b, lab.Host("a"), cfg), startBulk(b, lab.Host("b"), cfg)}
	}
	compareBulk(b, relay, kinds, pairs)
}

// BenchmarkThroughputTCP does so by the direct paths of hosts that UDP does not
// get out from: over TCP, and, where nothing else is let out, over port 443.
func BenchmarkThroughputTCP(b *testing.B) {
	lab := natlab.Start(b, natlab.Config{
		Public: []string{"relay", "b", "c"}, Required: *required,
		Peers: []natlab.Peer{{Name: "d", Kind: natlab.UDPBlocked}, {Name: "e", Kind: natlab.Egress443Only}},
	})
	relay := startBulk(b, lab.Host("relay"), bulkConfig{Kind: "relay"})
	join := relay.ready.Ticket
	compareBulk(b, relay, []string{"tcp", "443"}, map[string]bulkPair{
		"tcp": {startBulk(b, lab.Host("d"), bulkConfig{Kind: "tcp", Join: join}), startBulk(b, lab.Host("b"), bulkConfig{Kind: "tcp", Join: join})},
		"443": {startBulk(b, lab.Host("e"), bulkConfig{Kind: "tcp", Join: join}), startBulk(b, lab.Host("c"), bulkConfig{Kind: "443", Join: join})},
	})
}

// bulkPair are the two ends of a kind.
type bulkPair struct{ from, to *bulkProc }

// compareBulk measures each kind in turn, and compares them with the first.
func compareBulk(b *testing.B, relay *bulkProc, kinds []string, pairs map[string]bulkPair) {
	b.Helper()
	gigabytes := float64(*bulkSize) * (1 << 20) / 1e9
	rates, costs := make(map[string][]float64), make(map[string][]float64)
	for b.Loop() {
		for round := range *bulkRounds + 1 {
			for _, k := range kinds {
				p := pairs[k]
				p.to.order(bulkOrder{})
				relay.order(bulkOrder{})
				p.from.order(bulkOrder{})
				size := *bulkSize
				if round == 0 {
					size = 64 // to warm up
				}
				r := p.from.order(bulkOrder{Peer: p.to.ready.Peer, Addr: p.to.ready.Addr, MiB: size})
				if round == 0 {
					continue
				}
				cpu := r.CPU + p.to.order(bulkOrder{}).CPU
				if k == "relayed" {
					cpu += relay.order(bulkOrder{}).CPU
				}
				rates[k] = append(rates[k], gigabytes*1000/r.Took.Seconds())
				costs[k] = append(costs[k], cpu.Seconds()/gigabytes)
			}
		}
	}
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\n\tMB/s\tratio\tCPU s/GB\tratio")
	for _, k := range kinds {
		fmt.Fprintf(w, "%s\t%.0f\t%.2f\t%.2f\t%.2f\n", k, middle(rates[k]), middle(rates[k])/middle(rates[kinds[0]]),
			middle(costs[k]), middle(costs[k])/middle(costs[kinds[0]]))
		b.ReportMetric(middle(rates[k])/middle(rates[kinds[0]]), k+"/"+kinds[0])
		b.ReportMetric(middle(costs[k]), k+"-cpu-s/GB")
	}
	w.Flush()
	b.Log(text.String())
}

func middle(of []float64) float64 {
	s := slices.Sorted(slices.Values(of))
	return s[len(s)/2]
}
