package main

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/alkdev/alknet-p2p/protocols/auth"
	"github.com/alkdev/alknet-p2p/protocols/auth/peerfile"
)

// change is what became of one entry of the registry, for people, programs
// and the audit log; there is no secret in it.
type change struct {
	// Entry is "peer alice", "token alk_AAEC" or "limits".
	Entry string `json:"entry"`
	// What is "added", "removed" or "changed".
	What string `json:"what"`
	// Gained and Lost are the facts that hold of it now and did before, such
	// as "scope call:disk/free".
	Gained []string `json:"gained,omitempty"`
	Lost   []string `json:"lost,omitempty"`
}

// String implements fmt.Stringer, as in
// `peer alice changed: +scope call:disk/free -key ed25519:…`.
func (c change) String() string {
	return strings.Join(slices.DeleteFunc([]string{c.Entry, c.What + ":", c.facts()}, isEmpty), " ")
}

func (c change) facts() string {
	var facts []string
	for _, f := range c.Gained {
		facts = append(facts, "+"+f)
	}
	for _, f := range c.Lost {
		facts = append(facts, "-"+f)
	}
	return strings.Join(facts, ", ")
}

func isEmpty(text string) bool { return text == "" }

// changes lists how a registry became another, in order of the entries.
func changes(before, after *auth.Config) []change {
	was, is := factsOf(before), factsOf(after)
	all := maps.Clone(was)
	maps.Copy(all, is)
	var list []change
	for _, entry := range slices.Sorted(maps.Keys(all)) {
		had, existed := was[entry]
		has, exists := is[entry]
		c := change{Entry: entry, What: "changed", Gained: without(has, had), Lost: without(had, has)}
		switch {
		case !existed:
			c.What = "added"
		case !exists:
			c.What = "removed"
		case len(c.Gained) == 0 && len(c.Lost) == 0:
			continue
		}
		list = append(list, c)
	}
	return list
}

// factsOf says of every entry of a registry all that matters for rights.
func factsOf(cfg *auth.Config) map[string][]string {
	facts := map[string][]string{}
	for i := range cfg.Auth.Peers {
		e := &cfg.Auth.Peers[i]
		entry := "peer " + string(e.PeerName)
		facts[entry] = append(marked("key ", e.Fingerprints), marked("scope ", e.Scopes)...)
		for _, typ := range slices.Sorted(maps.Keys(e.Resources)) {
			facts[entry] = append(facts[entry], marked("resource "+typ+"/", e.Resources[typ])...)
		}
		if e.AuthTokenHash != nil {
			facts[entry] = append(facts[entry], "token with hash "+shortHash(*e.AuthTokenHash))
		}
		if e.Next != "" {
			facts[entry] = append(facts[entry], "next key "+e.Next)
		}
		if e.Follow {
			facts[entry] = append(facts[entry], "follow")
		}
		if !e.Enabled {
			facts[entry] = append(facts[entry], "disabled")
		}
	}
	for i := range cfg.Auth.APIKeys {
		k := &cfg.Auth.APIKeys[i]
		entry := "token " + k.Prefix
		list := append(marked("scope ", k.Scopes), "hash "+shortHash(k.Hash))
		if k.ExpiresAt != nil {
			list = append(list, "expires "+unixTime(*k.ExpiresAt).Format(time.RFC3339))
		}
		facts[entry] = append(facts[entry], list...)
	}
	facts["limits"] = []string{
		"max_connections_per_ip " + strconv.Itoa(cfg.RateLimits.MaxConnectionsPerIP),
		"max_auth_attempts " + strconv.Itoa(cfg.RateLimits.MaxAuthAttempts),
	}
	if a := factsOfAdmission(cfg.Admission); len(a) > 0 {
		facts["admission"] = a
	}
	return facts
}

func factsOfAdmission(a auth.Admission) []string {
	var facts []string
	if a.Default != "" {
		facts = append(facts, string(a.Default))
	}
	for _, alpn := range slices.Sorted(maps.Keys(a.ALPNs)) {
		facts = append(facts, alpn+" "+string(a.ALPNs[alpn]))
	}
	return facts
}

func marked(mark string, list []string) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = mark + s
	}
	return out
}

// shortHash is enough of a hash to tell two apart, and too little to try
// guesses against.
func shortHash(hash string) string { return hash[:min(len(hash), len("sha256:")+8)] }

// with adds what is not there yet, without takes away what is.
func with(list []string, more ...string) []string {
	for _, s := range more {
		if !slices.Contains(list, s) {
			list = append(list, s)
		}
	}
	return list
}

func without(list, less []string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return slices.Contains(less, s) })
}

// editRegistry changes peers.json, which a running node takes at once; action
// is how the audit log calls it. What is changed stands in the audit log before
// it takes effect: no right is given without a line there.
func (a *app) editRegistry(cmd *cobra.Command, action string, edit func(*auth.Config) error) error {
	h, err := a.home()
	if err != nil {
		return err
	}
	if err := h.make(); err != nil {
		return err
	}
	var made []change
	err = peerfile.Update(cmd.Context(), h.peers(), func(cfg *auth.Config) error {
		before := cfg.Clone()
		if err := edit(cfg); err != nil {
			return err
		}
		if err := cfg.Validate(); err != nil {
			return nil //nolint:nilerr // Update refuses it, and says so better
		}
		made = changes(before, cfg)
		return h.auditChanges(action, "", made)
	})
	if err != nil {
		if len(made) > 0 {
			a.audit(h, action, made[0].Entry, err)
		}
		return err
	}
	// The node watches the file too, but the next command shall find it done.
	if _, err := newClient(h).reload(cmd.Context()); err != nil && !isNotRunning(err) {
		return err
	}
	return nil
}

// auditChanges writes a line for each change; by is empty for this process.
func (h home) auditChanges(action, by string, list []change) error {
	log := newAuditLog(h)
	for _, c := range list {
		detail := strings.Join(slices.DeleteFunc([]string{c.What, c.facts()}, isEmpty), " ")
		if err := log.add(auditEntry{Action: action, Subject: c.Entry, By: by, OK: true, Detail: detail}); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) loadRegistry() (*auth.Config, error) {
	h, err := a.home()
	if err != nil {
		return nil, err
	}
	return peerfile.Load(h.peers())
}

func findPeer(cfg *auth.Config, name auth.PeerName) (*auth.PeerEntry, error) {
	for i := range cfg.Auth.Peers {
		if cfg.Auth.Peers[i].PeerName == name {
			return &cfg.Auth.Peers[i], nil
		}
	}
	return nil, failf(exitFailed, codeFailed, "no peer is named %q; see alknet-p2p peer ls", string(name))
}

// rights are the flags that grant something.
type rights struct{ scopes, resources []string }

func (r *rights) add(cmd *cobra.Command) {
	r.addScopes(cmd)
	cmd.Flags().StringArrayVar(&r.resources, "resource", nil, "an action on a kind of resource, as `TYPE/ACTION`; may be repeated")
}

func (r *rights) addScopes(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar(&r.scopes, "scope", nil, "a `right`, such as call:disk/free; may be repeated")
}

// grant gives the rights to a peer.
func (r *rights) grant(e *auth.PeerEntry) error {
	e.Scopes = with(e.Scopes, r.scopes...)
	return r.eachResource(func(typ, action string) {
		if e.Resources == nil {
			e.Resources = map[string][]string{}
		}
		e.Resources[typ] = with(e.Resources[typ], action)
	})
}

// revoke takes the rights from a peer.
func (r *rights) revoke(e *auth.PeerEntry) error {
	e.Scopes = without(e.Scopes, r.scopes)
	return r.eachResource(func(typ, action string) {
		e.Resources[typ] = without(e.Resources[typ], []string{action})
		if len(e.Resources[typ]) == 0 {
			delete(e.Resources, typ)
		}
	})
}

func (r *rights) eachResource(do func(typ, action string)) error {
	for _, text := range r.resources {
		typ, action, ok := strings.Cut(text, "/")
		if !ok || typ == "" || action == "" {
			return usagef("--resource %q is not TYPE/ACTION", text)
		}
		do(typ, action)
	}
	return nil
}

// tableOfPeers prints peers in columns.
func tableOfPeers(w *bytes.Buffer, peers []auth.PeerEntry) {
	rows := [][]string{{"NAME", "KEY", "SCOPES"}}
	for _, e := range peers {
		name := string(e.PeerName)
		if !e.Enabled {
			name += " (disabled)"
		}
		rows = append(rows, []string{name, cmp.Or(strings.Join(e.Fingerprints, " "), "-"), oneLine(strings.Join(e.Scopes, " "))})
	}
	table(w, rows)
}

func (a *app) showPeer(e *auth.PeerEntry) error {
	return a.show(e, func(w *bytes.Buffer) {
		fmt.Fprintf(w, "%s\n", e.PeerName)
		for _, f := range e.Fingerprints {
			fmt.Fprintf(w, "  key       %s\n", f)
		}
		for _, s := range e.Scopes {
			fmt.Fprintf(w, "  scope     %s\n", oneLine(s))
		}
		for _, typ := range slices.Sorted(maps.Keys(e.Resources)) {
			for _, action := range e.Resources[typ] {
				fmt.Fprintf(w, "  resource  %s\n", oneLine(typ+"/"+action))
			}
		}
		if e.AuthTokenHash != nil {
			fmt.Fprintln(w, "  has a token")
		}
		if !e.Enabled {
			fmt.Fprintln(w, "  disabled")
		}
	})
}
