package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/protocols/auth"
	"github.com/alkdev/alknet-p2p/protocols/auth/peerfile"
)

// cli is the command in a process of its own, on a home.
func cli(ctx context.Context, h home, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "alknet-p2p", append([]string{"--home", string(h)}, args...)...)
}

// validKey is the n-th of some keys.
func validKey(n int) string {
	public, _ := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{byte(n)}, ed25519.SeedSize)).Public().(ed25519.PublicKey)
	return "ed25519:" + hex.EncodeToString(public)
}

// auditLines are the lines of a home's audit log that tell of a change.
func auditLines(t *testing.T, h home, action string) []auditEntry {
	t.Helper()
	text, err := os.ReadFile(h.audit())
	require.NoError(t, err)
	var list []auditEntry
	for line := range strings.Lines(string(text)) {
		var e auditEntry
		require.NoError(t, json.Unmarshal([]byte(line), &e), line)
		if e.Action == action {
			list = append(list, e)
		}
	}
	return list
}

// Of ten commands at once none is lost, and each has its line in the audit log.
func TestPeerAddTenAtOnce(t *testing.T) {
	h := home(filepath.Join(t.TempDir(), "home"))
	const n = 10
	var all sync.WaitGroup
	errs := make(chan string, n)
	for i := range n {
		all.Go(func() {
			out, err := cli(t.Context(), h, "peer", "add", fmt.Sprintf("peer-%d", i), validKey(i), "--scope", "call:a/b").CombinedOutput()
			if err != nil {
				errs <- fmt.Sprintf("%v: %s", err, out)
			}
		})
	}
	all.Wait()
	require.Empty(t, errs)
	cfg, err := peerfile.Load(h.peers())
	require.NoError(t, err)
	require.Len(t, cfg.Auth.Peers, n)
	names := map[auth.PeerName]bool{}
	for _, e := range cfg.Auth.Peers {
		names[e.PeerName] = true
		require.Equal(t, []string{"call:a/b"}, e.Scopes)
	}
	require.Len(t, names, n)
	require.Len(t, auditLines(t, h, "peer.add"), n)
}

// kill -9 at any moment of a command leaves the old registry or the new one, no
// lock that keeps the next one waiting, and no right without its line in the
// audit log.
func TestPeerAddKilled(t *testing.T) {
	h := home(filepath.Join(t.TempDir(), "home"))
	out, err := cli(t.Context(), h, "peer", "add", "first", validKey(0)).CombinedOutput()
	require.NoError(t, err, string(out))
	begin := time.Now()
	out, err = cli(t.Context(), h, "peer", "add", "second", validKey(1)).CombinedOutput()
	require.NoError(t, err, string(out))
	whole := time.Since(begin)

	peers, killed := 2, 0
	for i := range 40 {
		name := auth.PeerName(fmt.Sprintf("peer-%d", i))
		cmd := cli(context.Background(), h, "peer", "add", string(name), validKey(i+2))
		require.NoError(t, cmd.Start())
		// Any moment of its life, and rather the end of it, where it writes.
		timer := time.AfterFunc(whole/2+rand.N(whole), func() { _ = cmd.Process.Kill() })
		if cmd.Wait() != nil {
			killed++
		}
		timer.Stop()
		cfg, err := peerfile.Load(h.peers())
		require.NoError(t, err, "neither the old registry nor the new one")
		require.Contains(t, []int{peers, peers + 1}, len(cfg.Auth.Peers))
		if len(cfg.Auth.Peers) > peers {
			require.Equal(t, name, cfg.Auth.Peers[peers].PeerName)
			peers++
		}
	}
	require.NotZero(t, killed)
	t.Logf("%d of 40 were killed, %d of them after the change was made", killed, killed-(40+2-peers))

	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	out, err = cli(ctx, h, "peer", "add", "last", validKey(50)).CombinedOutput()
	require.NoError(t, err, string(out))
	lines := map[string]bool{}
	for _, e := range auditLines(t, h, "peer.add") {
		lines[e.Subject] = true
	}
	cfg, err := peerfile.Load(h.peers())
	require.NoError(t, err)
	for _, e := range cfg.Auth.Peers {
		require.True(t, lines["peer "+string(e.PeerName)], e.PeerName)
	}
}
