//go:build linux

package acceptance

import (
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/transport/natlab"
)

var (
	netsCells  = flag.String("networks.cells", "", "pairs of networks to measure, dialler:dialled, by commas")
	netsKinds  = flag.String("networks.kinds", "", "networks to measure, each dialling each, by commas; \"all\" for the seven of the matrix")
	netsOthers = flag.Bool("networks.others", false, "measure the networks that are not in the matrix")
	netsRounds = flag.Int("networks.rounds", 1, "dials of each pair")
	netsWait   = flag.Duration("networks.wait", 10*time.Second, "how long a path may take to become direct")
	netsDelay  = flag.Duration("networks.delay", 0, "of every cable")
	netsLoss   = flag.Float64("networks.loss", 0, "of every cable, 0 to 1")
	netsJSON   = flag.String("networks.json", "", "file for the figures")
	netsLogs   = flag.String("networks.logs", "", "folder for the nodes' logs of pairs that stay relayed or fail")
)

// matrixKinds are the seven kinds of network that each dial each.
var matrixKinds = []string{"none", "full-cone", "address-restricted", "port-restricted", "symmetric", "cgnat", "udp-blocked"}

// otherCells are the networks outside the matrix.
var otherCells = []string{
	"egress-443-only:none", "egress-443-only:port-restricted", "port-restricted:egress-443-only",
	"egress-443-only:symmetric", "egress-443-only:egress-443-only",
	"egress-443-only:listens-443", "listens-443:egress-443-only", "udp-blocked:listens-443",
	"cgnat:same-carrier",
	"port-restricted:same-lan", "hairpin:same-lan", "isolated-hairpin:same-lan", "isolated:same-lan",
	"ipv6-firewalled:ipv6-firewalled", "ipv6-firewalled:none", "dual:ipv6-firewalled", "dual:dual", "ipv6-firewalled:port-restricted",
	"forgets-in-20s:forgets-in-20s", "forgets-in-30s:forgets-in-30s", "forgets-in-20s:cgnat",
	"remaps:none", "remaps:port-restricted", "port-restricted:remaps", "remaps:remaps", "remaps:symmetric",
	"random-ports:random-ports", "masquerade:masquerade",
}

// site is where one end of a pair stands.
type site struct {
	peer      natlab.Peer   // but its name
	listen443 bool          // the node listens there
	remaps    bool          // gives other ports now and then
	idle      time.Duration // after which the pair talks again
}

// siteOf reads a name. What is relative is so to the host other.
func siteOf(name, other string) (site, error) {
	const cold = 50 * time.Second // after which a pair that is silent keeps no path (PATH-17)
	switch name {
	case "same-carrier":
		return site{peer: natlab.Peer{Kind: natlab.CGNAT, Carrier: other}}, nil
	case "same-lan":
		return site{peer: natlab.Peer{Behind: other}}, nil
	case "hairpin":
		return site{peer: natlab.Peer{Hairpin: true}}, nil
	case "isolated":
		return site{peer: natlab.Peer{Isolated: true}}, nil
	case "isolated-hairpin":
		return site{peer: natlab.Peer{Isolated: true, Hairpin: true}}, nil
	case "dual":
		return site{peer: natlab.Peer{IPv6: true}}, nil
	case "random-ports":
		return site{peer: natlab.Peer{RandomPorts: true}}, nil
	case "forgets-in-20s":
		return site{peer: natlab.Peer{UDPTimeout: 20 * time.Second}, idle: cold + 20*time.Second}, nil
	case "forgets-in-30s":
		return site{peer: natlab.Peer{UDPTimeout: 30 * time.Second}, idle: cold + 30*time.Second}, nil
	case "listens-443":
		return site{peer: natlab.Peer{Kind: natlab.None}, listen443: true}, nil
	case "remaps":
		return site{peer: natlab.Peer{}, remaps: true, idle: time.Second}, nil
	}
	if !slices.Contains(natlab.Kinds(), natlab.Kind(name)) {
		return site{}, fmt.Errorf("no network is called %q", name)
	}
	return site{peer: natlab.Peer{Kind: natlab.Kind(name)}}, nil
}

// cell is a pair of networks and what its dials came to.
type cell struct {
	From string      `json:"from"`
	To   string      `json:"to"`
	Runs []dialledBy `json:"runs"`

	a, b *nodeProc
	nets [2]site
}

// dialledBy is one dial by key, in seconds.
type dialledBy struct {
	Connected bool     `json:"connected"`
	FirstByte *float64 `json:"first_byte_s"`
	Direct    *float64 `json:"direct_s"`      // null: stayed relayed
	TCP       bool     `json:"tcp,omitempty"` // what became direct
	Addr      string   `json:"addr,omitempty"`
	Again     *float64 `json:"again_s,omitempty"` // an answer after idleness or other ports
	Err       string   `json:"error,omitempty"`   // it is not connected
	Why       string   `json:"why,omitempty"`     // it is not direct
}

// best is the dial that became direct soonest, or that at least connected.
func (c *cell) best() dialledBy {
	return slices.MinFunc(c.Runs, func(x, y dialledBy) int {
		return cmp.Or(cmp.Compare(x.rank(), y.rank()), cmp.Compare(seconds(x.Direct), seconds(y.Direct)))
	})
}

func (d dialledBy) rank() int {
	switch {
	case d.Direct != nil:
		return 0
	case d.Connected:
		return 1
	}
	return 2
}

func seconds(s *float64) float64 {
	if s == nil {
		return 0
	}
	return *s
}

// String is the cell as the table shows it.
func (c *cell) String() string {
	d := c.best()
	text := "fail"
	switch d.rank() {
	case 0:
		text = fmt.Sprintf("%.2f", *d.Direct)
		if d.TCP {
			text += "t"
		}
	case 1:
		text = "rel"
	}
	if len(c.Runs) < 3 {
		return text
	}
	directs := c.directs()
	if len(directs) == 0 {
		return fmt.Sprintf("%s 0/%d", text, len(c.Runs))
	}
	slices.Sort(directs)
	return fmt.Sprintf("%.2f (%.2f to %.2f) %d/%d", middle(directs), directs[0], directs[len(directs)-1], len(directs), len(c.Runs))
}

func (c *cell) directs() (out []float64) {
	for _, d := range c.Runs {
		if d.Direct != nil {
			out = append(out, *d.Direct)
		}
	}
	return out
}

// networkFigures is what the measuring came to.
type networkFigures struct {
	Delay     float64 `json:"delay_s"` // of every cable
	Loss      float64 `json:"loss"`
	Pairs     int     `json:"pairs"`
	Connected int     `json:"connected"`
	Direct    int     `json:"direct"` // in the best of its dials
	OverTCP   int     `json:"over_tcp"`
	// Of the best dials.
	MedianDirect    float64 `json:"median_direct_s"`
	MedianFirstByte float64 `json:"median_first_byte_s"`
	MaxFirstByte    float64 `json:"max_first_byte_s"`
	Cells           []*cell `json:"cells"`
}

func figuresOf(cells []*cell) networkFigures {
	f := networkFigures{Delay: netsDelay.Seconds(), Loss: *netsLoss, Pairs: len(cells), Cells: cells}
	var firsts, directs []float64
	for _, c := range cells {
		d := c.best()
		if d.Connected {
			f.Connected++
			firsts = append(firsts, seconds(d.FirstByte))
		}
		if d.Direct != nil {
			f.Direct++
			directs = append(directs, *d.Direct)
		}
		if d.TCP {
			f.OverTCP++
		}
	}
	if len(firsts) > 0 {
		f.MedianFirstByte, f.MaxFirstByte = middle(firsts), slices.Max(firsts)
	}
	if len(directs) > 0 {
		f.MedianDirect = middle(directs)
	}
	return f
}

// String is the table: rows dial, columns are dialled.
func (f networkFigures) String() string {
	var b strings.Builder
	var rows, columns []string
	at := map[string]string{}
	for _, c := range f.Cells {
		rows, columns = append(rows, c.From), append(columns, c.To)
		at[c.From+":"+c.To] = c.String()
	}
	rows, columns = unique(rows), unique(columns)
	if len(rows)*len(columns) == len(f.Cells) {
		fmt.Fprintf(&b, "| A\\B | %s |\n|%s\n", strings.Join(columns, " | "), strings.Repeat("---|", len(columns)+1))
		for _, row := range rows {
			fmt.Fprintf(&b, "| %s |", row)
			for _, column := range columns {
				fmt.Fprintf(&b, " %s |", at[row+":"+column])
			}
			b.WriteByte('\n')
		}
	} else {
		fmt.Fprint(&b, "| A, dials | B | direct after s | first byte s | again s | error |\n|---|---|---|---|---|---|\n")
		for _, c := range f.Cells {
			d := c.best()
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n", c.From, c.To, c, figure(d.FirstByte), figure(d.Again), d.Err)
		}
	}
	fmt.Fprintf(&b, "%d pairs, %d connected, %d direct (%d over TCP); direct after %.2f s, first byte after %.2f s (medians), at most %.2f s\n",
		f.Pairs, f.Connected, f.Direct, f.OverTCP, f.MedianDirect, f.MedianFirstByte, f.MaxFirstByte)
	return b.String()
}

func figure(s *float64) string {
	if s == nil {
		return "-"
	}
	return fmt.Sprintf("%.2f", *s)
}

// unique drops what was there before.
func unique(all []string) (out []string) {
	for _, s := range all {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// cellsToMeasure are those of the flags, or a few.
func cellsToMeasure() []string {
	var out []string
	kinds := strings.Split(*netsKinds, ",")
	switch *netsKinds {
	case "":
		kinds = nil
	case "all":
		kinds = matrixKinds
	}
	// Round by round, so that no network dials or is dialled twice in a row.
	for r := range kinds {
		for i, from := range kinds {
			out = append(out, from+":"+kinds[(i+r)%len(kinds)])
		}
	}
	if *netsOthers {
		out = append(out, otherCells...)
	}
	if *netsCells != "" {
		out = append(out, strings.Split(*netsCells, ",")...)
	}
	if len(out) == 0 {
		return []string{"port-restricted:cgnat", "udp-blocked:port-restricted", "isolated-hairpin:same-lan"}
	}
	return out
}

// Every network reaches every other by key alone (PATH-33), and the table says
// what was direct and when. Each dial is that of a node that has just joined,
// with nothing in its cache; the dialled node has been up for a while.
func TestPATH33EveryNetworkReachesEvery(t *testing.T) {
	c := natlab.Config{Public: []string{"relay", "relay2"}, Link: natlab.Link{Delay: *netsDelay, Loss: *netsLoss}, Required: *required}
	var cells []*cell
	hosts := map[string]string{} // by side and network
	listen443 := map[string]bool{}
	host := func(side, name, other string) (string, site) {
		net, err := siteOf(name, other)
		require.NoError(t, err)
		key := side + name
		if net.peer.Behind != "" || net.peer.Carrier != "" {
			key += other
		}
		if hosts[key] == "" {
			hosts[key] = fmt.Sprintf("%s%d", side, len(hosts))
			net.peer.Name = hosts[key]
			c.Peers = append(c.Peers, net.peer)
			listen443[hosts[key]] = net.listen443
		}
		net.peer.Name = hosts[key]
		return hosts[key], net
	}
	ends := map[*cell][2]string{}
	for _, name := range cellsToMeasure() {
		from, to, ok := strings.Cut(name, ":")
		require.True(t, ok, "%q: want dialler:dialled", name)
		pair := &cell{From: from, To: to}
		var a, b string
		a, pair.nets[0] = host("a", from, "")
		b, pair.nets[1] = host("b", to, a)
		ends[pair] = [2]string{a, b}
		cells = append(cells, pair)
	}

	lab := natlab.Start(t, c)
	relay := newProc(t, lab.Host("relay"), "").up(relaying...)
	relay2 := newProc(t, lab.Host("relay2"), "").up(append(relaying, "--join", relay.ticket())...)
	up := []string{"--join", relay.ticket(), "--join", relay2.ticket()}
	if *netsLogs != "" {
		up = append(up, "--log-level", "debug")
	}
	procs := map[string]*nodeProc{}
	for _, p := range c.Peers {
		procs[p.Name] = newProc(t, lab.Host(p.Name), fmt.Sprintf("listen_443 = %t\n", listen443[p.Name]))
		if strings.HasPrefix(p.Name, "b") {
			procs[p.Name].up(up...)
		}
	}
	for _, pair := range cells {
		pair.a, pair.b = procs[ends[pair][0]], procs[ends[pair][1]]
	}
	for range *netsRounds {
		for _, pair := range cells {
			d := pair.dial(t, lab, up)
			pair.Runs = append(pair.Runs, d)
			text, err := json.Marshal(d)
			require.NoError(t, err)
			t.Logf("%s:%s %s", pair.From, pair.To, text)
			if d.Connected && d.Direct == nil && d.Why != "late" {
				assert.Contains(t, reasonsOf(pair.From, pair.To), d.Why, "%s:%s", pair.From, pair.To)
			}
			if d.Direct == nil {
				pair.leaveLogs(t)
			}
		}
	}

	order := func(c *cell) int {
		return slices.Index(matrixKinds, c.From)*len(matrixKinds) + slices.Index(matrixKinds, c.To)
	}
	if *netsKinds == "all" {
		slices.SortStableFunc(cells, func(x, y *cell) int { return order(x) - order(y) })
	}
	figures := figuresOf(cells)
	t.Logf("\n%s", figures)
	if *netsJSON != "" {
		text, err := json.MarshalIndent(figures, "", "\t")
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(*netsJSON, append(text, '\n'), 0o600))
	}
	require.Equal(t, len(cells), figures.Connected, "not all are connected")
}

// dial starts the dialler anew and pings until the path is direct.
func (c *cell) dial(t *testing.T, lab *natlab.Lab, up []string) (d dialledBy) {
	t.Helper()
	if c.a.cmd != nil {
		c.a.kill()
	}
	require.NoError(t, os.RemoveAll(filepath.Join(c.a.home, "cache")))
	c.a.log.reset()
	c.a.up(up...)
	out, errs, _ := c.a.run("ping", "--json", "--until-direct", netsWait.String(), "--interval", "10ms", c.b.key)
	d = readPing(out)
	if !d.Connected {
		d.Err = strings.TrimSpace(errs)
		return d
	}
	if d.Direct == nil {
		switch w := c.a.why(c.b.key); {
		case w.Result == "direct": // since: it took longer than the wait
			d.Why = "late"
		default:
			d.Why = w.Reason
		}
	}
	// What must hold longer than a moment: talk again when mappings are
	// forgotten, or others.
	for i, net := range c.nets {
		if net.remaps {
			require.NoError(t, lab.NATRemap([]*nodeProc{c.a, c.b}[i].host.Name()))
		}
	}
	if idle := max(c.nets[0].idle, c.nets[1].idle); idle > 0 {
		time.Sleep(idle)
		out, _, _ := c.a.run("ping", "--json", "--count", "1", c.b.key)
		again := readPing(out)
		d.Again = again.FirstByte
		d.Connected = again.Connected
	}
	return d
}

// reasonsOf are the true ones why two networks have no direct path (PATH-34).
func reasonsOf(from, to string) []string {
	const (
		selfUDP  = "UDP does not get through from this side, and no other direct way was found"
		peerUDP  = "UDP does not get through from the peer's side, and no other direct way was found"
		bothUDP  = "UDP gets through from neither side, and no other direct way was found"
		bothHard = "both NATs give every destination another port (symmetric): a direct path is not possible"
		selfHard = "this side's NAT gives every destination another port (symmetric), and the peer's lets in only who was sent to: no probe met another"
		peerHard = "the peer's NAT gives every destination another port (symmetric), and this side's lets in only who was sent to: no probe met another"
		families = "there is no address of a common family: one side has IPv4 only, the other IPv6 only"
		filtered = "the peer did not answer at any address though probes left: a network between filters them"
	)
	noUDP := func(net string) bool { return net == "udp-blocked" || net == "egress-443-only" }
	hard := func(net string) bool { return net == "symmetric" }
	six := func(net string) bool { return net == "ipv6-firewalled" }
	switch {
	case noUDP(from) && noUDP(to):
		return []string{bothUDP}
	case noUDP(from):
		return []string{selfUDP}
	case noUDP(to):
		return []string{peerUDP}
	case six(from) != six(to):
		return []string{families}
	case hard(from) && hard(to):
		return []string{bothHard}
	case hard(from):
		return []string{selfHard}
	case hard(to):
		return []string{peerHard}
	}
	return []string{filtered}
}

// readPing reads the lines of ping --json.
func readPing(out string) (d dialledBy) {
	lines := strings.Split(strings.TrimSpace(out), "\n")
	var result struct {
		Result    string   `json:"result"`
		FirstByte *float64 `json:"first_byte_ms"`
		Direct    *float64 `json:"direct_ms"`
	}
	if json.Unmarshal([]byte(lines[len(lines)-1]), &result) != nil || result.FirstByte == nil {
		return d
	}
	toSeconds := func(ms *float64) *float64 {
		if ms == nil {
			return nil
		}
		s := *ms / 1000
		return &s
	}
	d = dialledBy{Connected: true, FirstByte: toSeconds(result.FirstByte), Direct: toSeconds(result.Direct)}
	var last struct {
		Addr string `json:"addr"`
	}
	if len(lines) > 1 && json.Unmarshal([]byte(lines[len(lines)-2]), &last) == nil && d.Direct != nil {
		d.Addr, d.TCP = last.Addr, strings.Contains(last.Addr, "tcp")
	}
	return d
}

// leaveLogs keeps what the nodes of a pair logged.
func (c *cell) leaveLogs(t *testing.T) {
	t.Helper()
	if *netsLogs == "" {
		return
	}
	for side, n := range map[string]*nodeProc{"a": c.a, "b": c.b} {
		file := filepath.Join(*netsLogs, fmt.Sprintf("%s-%s-%d-%s.log", c.From, c.To, len(c.Runs), side))
		require.NoError(t, os.WriteFile(file, []byte(n.log.String()), 0o600))
	}
}
