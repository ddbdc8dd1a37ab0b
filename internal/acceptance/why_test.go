//go:build linux

package acceptance

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/transport/natlab"
)

// relaying makes a node a relay without a limit.
var relaying = []string{"--relay", "--relay-rate", "0"}

// why is what `why --json` prints.
type why struct {
	Target string `json:"target"`
	Result string `json:"result"`
	Reason string `json:"reason"`
	Cure   string `json:"cure"`
	Steps  []struct {
		Ms      float64 `json:"ms"`
		What    string  `json:"what"`
		Detail  string  `json:"detail"`
		Verdict string  `json:"verdict"`
	} `json:"steps"`
}

func (n *nodeProc) why(target string) (w why) {
	n.t.Helper()
	out, errs, _ := n.run("why", "--json", target)
	require.NoError(n.t, json.Unmarshal([]byte(out), &w), "%s%s", out, errs)
	return w
}

// has tells that a step of the kind has the verdict.
func (w why) has(what, verdict string) bool {
	for _, s := range w.Steps {
		if s.What == what && s.Verdict == verdict {
			return true
		}
	}
	return false
}

// check is one of those `doctor --json` prints.
type check struct {
	Name   string `json:"name"`
	Relay  string `json:"relay"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
	Cause  string `json:"cause"`
	Cure   string `json:"cure"`
}

// doctor returns the checks by name, of several one that found trouble, and the
// exit code.
func (n *nodeProc) doctor(args ...string) (map[string]check, int) {
	n.t.Helper()
	out, errs, code := n.run(append([]string{"doctor", "--json"}, args...)...)
	var found struct {
		Checks []check `json:"checks"`
	}
	require.NoError(n.t, json.Unmarshal([]byte(out), &found), "%s%s", out, errs)
	byName := map[string]check{}
	for _, c := range found.Checks {
		require.Equal(n.t, c.OK, c.Cause == "", "%+v", c)
		require.Equal(n.t, c.OK, c.Cure == "", "%+v", c)
		if _, ok := byName[c.Name]; !ok || !c.OK {
			byName[c.Name] = c
		}
	}
	return byName, code
}

// What doctor says of each kind of network is true of it (PATH-31, PATH-34).
func TestPATH34DoctorTellsTheNetwork(t *testing.T) {
	const blocked = "UDP does not get out"
	cases := []struct {
		peer                        natlab.Peer
		mapping, filtering, hairpin string            // how the findings begin
		causes                      map[string]string // of the findings that are troubles
	}{
		{natlab.Peer{Name: "none", Kind: natlab.None}, "none", "none", "not needed", nil},
		{natlab.Peer{Name: "full", Kind: natlab.FullCone}, "endpoint-independent", "endpoint-independent", "no", nil},
		{natlab.Peer{Name: "addr", Kind: natlab.AddressRestricted}, "endpoint-independent", "address-dependent", "no", nil},
		{natlab.Peer{Name: "port", Kind: natlab.PortRestricted}, "endpoint-independent", "address-and-port-dependent", "no", nil},
		{natlab.Peer{Name: "hairpin", Hairpin: true}, "endpoint-independent", "address-and-port-dependent", "yes", nil},
		{natlab.Peer{Name: "cgnat", Kind: natlab.CGNAT}, "endpoint-independent", "address-and-port-dependent", "yes", nil},
		{
			natlab.Peer{Name: "sym", Kind: natlab.Symmetric},
			"address-and-port-dependent", "address-and-port-dependent", "unknown",
			map[string]string{"mapping4": "symmetric", "port-mapping": "the router gives no port"},
		},
		{natlab.Peer{Name: "blocked", Kind: natlab.UDPBlocked}, "unknown", "", "", map[string]string{"udp4": blocked, "quic4": blocked}},
		{
			natlab.Peer{Name: "only443", Kind: natlab.Egress443Only},
			"unknown", "", "",
			map[string]string{"udp4": blocked, "quic4": blocked, "tcp4": "no TCP out"},
		},
	}
	cfg := natlab.Config{Public: []string{"relay", "relay2"}, Required: *required}
	for _, c := range cases {
		cfg.Peers = append(cfg.Peers, c.peer)
	}
	lab := natlab.Start(t, cfg)
	relay := newProc(t, lab.Host("relay"), "").up(relaying...)
	relay2 := newProc(t, lab.Host("relay2"), "").up(append(relaying, "--join", relay.ticket())...)
	for _, c := range cases {
		t.Run(c.peer.Name, func(t *testing.T) {
			n := newProc(t, lab.Host(c.peer.Name), "").up("--join", relay.ticket(), "--join", relay2.ticket())
			defer n.kill()
			found, code := n.doctor()
			for name, begins := range map[string]string{"mapping4": c.mapping, "filtering4": c.filtering, "hairpin4": c.hairpin} {
				require.Contains(t, found[name].Detail+" ", begins, "%s %+v", name, found)
				if begins != "" {
					require.True(t, strings.HasPrefix(found[name].Detail, begins+":"), "%+v", found[name])
				}
			}
			for name, f := range found {
				cause, bad := c.causes[name]
				if name == "port-mapping" && bad && f.OK {
					require.Contains(t, f.Detail, "not answered yet")
					continue
				}
				require.Equal(t, bad, !f.OK, "%+v", f)
				require.Contains(t, f.Cause, cause)
			}
			for name := range c.causes {
				require.Contains(t, found, name)
			}
			for _, name := range []string{"relay", "clock", "dns", "udp4", "tcp4", "tcp443", "quic4", "port-mapping"} {
				require.Contains(t, found, name)
			}
			require.True(t, found["tcp443"].OK)
			require.Equal(t, len(c.causes) > 0, code == 1, "exit code %d", code)

			var st struct {
				NAT struct {
					Mapping   string `json:"mapping"`
					Filtering string `json:"filtering"`
				} `json:"nat"`
			}
			require.NoError(t, json.Unmarshal([]byte(n.mustRun("status", "--json")), &st))
			require.Equal(t, c.mapping, st.NAT.Mapping)
			if c.filtering != "" {
				require.Equal(t, c.filtering, st.NAT.Filtering)
			}
		})
	}
}

// A NAT that forgets sooner than its mapping is refreshed is found, and named.
func TestPATH34DoctorMeasuresTheMappingsLife(t *testing.T) {
	lab := natlab.Start(t, natlab.Config{Public: []string{"relay"}, Peers: []natlab.Peer{{Name: "a", UDPTimeout: 7 * time.Second}}, Required: *required})
	relay := newProc(t, lab.Host("relay"), "").up("--relay")
	a := newProc(t, lab.Host("a"), "").up("--join", relay.ticket())
	found, code := a.doctor("--lifetime=20s")
	require.Equal(t, 1, code)
	require.Equal(t, "an idle mapping lives 5s, and is gone after 10s", found["lifetime4"].Detail)
	require.Contains(t, found["lifetime4"].Cause, "the NAT forgets an idle UDP mapping")
	require.Contains(t, found["filtering4"].Detail, "address-and-port-dependent", "one relay is enough for that")
}

// For each pair that stays relayed, or is not reached, `why` names the true
// reason; for one that is direct, the steps that led there (PATH-34).
func TestPATH34WhyNamesTheReason(t *testing.T) {
	lab := natlab.Start(t, natlab.Config{
		Public: []string{"relay", "relay2"},
		Peers: []natlab.Peer{
			{Name: "port", Kind: natlab.PortRestricted},
			{Name: "port2", Kind: natlab.PortRestricted},
			{Name: "sym", Kind: natlab.Symmetric},
			{Name: "sym2", Kind: natlab.Symmetric},
			{Name: "blocked", Kind: natlab.UDPBlocked},
			{Name: "hidden", Kind: natlab.PortRestricted},
			{Name: "shy", Kind: natlab.PortRestricted},
			{Name: "six", Kind: natlab.IPv6Firewalled},
		},
		Required: *required,
	})
	relay := newProc(t, lab.Host("relay"), "").up(relaying...)
	relay2 := newProc(t, lab.Host("relay2"), "").up(append(relaying, "--join", relay.ticket())...)
	join := []string{"--join", relay.ticket(), "--join", relay2.ticket()}
	nodes := map[string]*nodeProc{}
	for _, name := range []string{"port", "port2", "sym", "sym2", "blocked", "hidden", "shy", "six"} {
		args := join
		switch name {
		case "hidden":
			args = append([]string{"--hide-ip"}, args...)
		case "shy":
			args = append([]string{"--disclose", "known"}, args...)
		}
		nodes[name] = newProc(t, lab.Host(name), "").up(args...)
	}
	// The relays tell their NATs apart only once both are linked.
	for name, n := range nodes {
		if name != "hidden" {
			n.waitNAT()
		}
	}
	gone := newProc(t, lab.Host("port2"), "") // has a key and was never up

	for _, c := range []struct{ from, to, result, reason string }{
		{"port", "port2", "direct", ""},
		{"sym", "sym2", "relayed", "both NATs give every destination another port (symmetric)"},
		{"blocked", "sym", "relayed", "UDP does not get through from this side"},
		{"sym2", "blocked", "relayed", "UDP does not get through from the peer's side"},
		{"port", "hidden", "relayed", "the peer names no address"},
		{"hidden", "port2", "relayed", "this node hides its address"},
		{"port", "shy", "relayed", "the peer names no address"},
		{"shy", "port", "relayed", "this node does not disclose its addresses to that peer"},
		{"port2", "six", "relayed", "no address of a common family"},
	} {
		t.Run(c.from+":"+c.to, func(t *testing.T) {
			w := nodes[c.from].why(nodes[c.to].key)
			text, _ := json.MarshalIndent(w, "", " ")
			require.Equal(t, c.result, w.Result, "%s", text)
			require.Contains(t, w.Reason, c.reason, "%s", text)
			require.Equal(t, c.result == "direct", w.Cure == "", "%s", text)
			require.NotEmpty(t, w.Steps)
			require.LessOrEqual(t, len(w.Steps), 257)
			if c.from != "shy" { // the path was there before the peer was known
				require.True(t, w.has("path", "selected"), "%s", text)
			}
			if c.result == "direct" {
				for what, verdict := range map[string]string{"record": "found", "handshake": "done", "call": "received", "probe": "answered"} {
					require.True(t, w.has(what, verdict), "%s %s: %s", what, verdict, text)
				}
			}
		})
	}
	t.Run("unreachable", func(t *testing.T) {
		out, errs, code := nodes["port"].run("why", "--json", gone.key)
		require.Equal(t, 3, code, errs)
		var w why
		require.NoError(t, json.Unmarshal([]byte(out), &w))
		require.Equal(t, "unreachable", w.Result)
		require.Contains(t, w.Reason, "nobody here knows where the peer is")
		nodes["port2"].kill()
		out, errs, code = nodes["sym"].run("why", "--json", nodes["port2"].key)
		require.Equal(t, 3, code, errs)
		w = why{}
		require.NoError(t, json.Unmarshal([]byte(out), &w))
		require.Equal(t, "unreachable", w.Result)
		require.Contains(t, w.Reason, "the peer is not at its relays", out)
	})
}

// waitNAT waits until the node knows its NAT, or that UDP does not get through.
func (n *nodeProc) waitNAT() {
	n.t.Helper()
	require.Eventually(n.t, func() bool {
		var st struct {
			Relays []struct {
				Up bool `json:"up"`
			} `json:"relays"`
		}
		return json.Unmarshal([]byte(n.mustRun("status", "--json")), &st) == nil && len(st.Relays) == 2 && st.Relays[0].Up && st.Relays[1].Up
	}, 20*time.Second, 100*time.Millisecond, "%s has not both relays", n.host.Name())
}
