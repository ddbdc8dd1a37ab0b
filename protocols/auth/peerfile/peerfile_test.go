package peerfile_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/protocols/auth"
	"github.com/alkdev/alknet-p2p/protocols/auth/peerfile"
)

const key = "ed25519:d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"

func file(t *testing.T) string { return filepath.Join(t.TempDir(), peerfile.Name) }

func addPeer(name auth.PeerName, fingerprints ...string) func(*auth.Config) error {
	return func(c *auth.Config) error {
		c.Auth.Peers = append(c.Auth.Peers, auth.PeerEntry{PeerName: name, Fingerprints: fingerprints, Enabled: true})
		return nil
	}
}

func TestLoadMissingFileIsEmpty(t *testing.T) {
	cfg, err := peerfile.Load(file(t))
	require.NoError(t, err)
	require.Empty(t, cfg.Auth.Peers)
}

func TestUpdateWritesAndLoads(t *testing.T) {
	path := file(t)
	require.NoError(t, peerfile.Update(t.Context(), path, addPeer("worker-a", key)))
	cfg, err := peerfile.Load(path)
	require.NoError(t, err)
	require.Len(t, cfg.Auth.Peers, 1)
	require.Equal(t, auth.PeerName("worker-a"), cfg.Auth.Peers[0].PeerName)
	require.True(t, cfg.Auth.Peers[0].Enabled)

	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	entries, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	require.Len(t, entries, 2, "only the file and its lock remain: %v", entries)
}

// NODE-27: what does not validate is refused whole and the file stays.
func TestNODE27UpdateRefusesInvalid(t *testing.T) {
	path := file(t)
	require.NoError(t, peerfile.Update(t.Context(), path, addPeer("worker-a", key)))
	before, err := os.ReadFile(path)
	require.NoError(t, err)

	err = peerfile.Update(t.Context(), path, addPeer("worker-b", key))
	require.ErrorContains(t, err, "auth.peers[1].fingerprints[0] (worker-b): listed in peer worker-a already")
	failed := errors.New("the edit failed")
	require.ErrorIs(t, peerfile.Update(t.Context(), path, func(c *auth.Config) error {
		c.Auth.Peers = nil
		return failed
	}), failed)

	after, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(before), string(after))
}

// NODE-27, NODE-37: an error names file, line and field.
func TestNODE27LoadNamesFileLineAndField(t *testing.T) {
	path := file(t)
	for text, want := range map[string]string{
		"{\"auth\": {\n  \"peers\": [\n    {\"peer_id\": \"worker-a\",\n     \"fingers\": []}]}}":           ":4:6: auth.peers[0].fingers (worker-a): unknown field",
		"{\"auth\": {\n  \"peers\": [\n    {\"peer_id\": \"worker-a\",\n     \"scopes\": [\"a\", \"\"]}]}}": ":4:22: auth.peers[0].scopes[1] (worker-a): is empty",
		"{\"auth\": {\n  \"peers\": [\n    {\"peer_id\": \"local\"}]}}":                                     ":3:6: auth.peers[0].peer_id (local): the peer name \"local\" is reserved",
		"{\"auth\": {\n": ":2:1: auth: unexpected EOF",
		"":               ":1:1: unexpected EOF",
	} {
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		_, err := peerfile.Load(path)
		require.ErrorContains(t, err, path+want, text)
		var field *auth.FieldError
		require.ErrorAs(t, err, &field)
		require.ErrorIs(t, err, peerfile.ErrInvalid)
		// Nor does an update build on it.
		require.ErrorContains(t, peerfile.Update(t.Context(), path, addPeer("x")), want)
	}
}

func TestLoadRefusesHugeFile(t *testing.T) {
	path := file(t)
	f, err := os.Create(path)
	require.NoError(t, err)
	require.NoError(t, f.Truncate(1<<30))
	require.NoError(t, f.Close())
	_, err = peerfile.Load(path)
	require.ErrorContains(t, err, "larger than")
}

// Two writers never lose each other's change.
func TestUpdatesAreSerialised(t *testing.T) {
	path := file(t)
	const writers, each = 4, 5
	var done sync.WaitGroup
	errs := make(chan error, writers*each)
	for w := range writers {
		done.Go(func() {
			for i := range each {
				name := auth.PeerName(fmt.Sprintf("peer-%d-%d", w, i))
				errs <- peerfile.Update(t.Context(), path, addPeer(name))
			}
		})
	}
	done.Wait()
	close(errs)
	for err := range errs {
		require.NoError(t, err)
	}
	cfg, err := peerfile.Load(path)
	require.NoError(t, err)
	require.Len(t, cfg.Auth.Peers, writers*each)
}

func TestUpdateGivesUpWithItsContext(t *testing.T) {
	path := file(t)
	ctx, cancel := context.WithCancel(t.Context())
	require.NoError(t, peerfile.Update(t.Context(), path, func(*auth.Config) error {
		go cancel()
		require.ErrorIs(t, peerfile.Update(ctx, path, addPeer("x")), context.Canceled)
		return nil
	}))
}

// NODE-33: another process's change is seen by watching the folder.
func TestNODE33WatchReloads(t *testing.T) {
	path := file(t)
	peers, err := auth.NewPeers(nil)
	require.NoError(t, err)
	results := make(chan error, 16)
	w, err := peerfile.Watch(path, peers, func(err error) { results <- err })
	require.NoError(t, err)
	defer w.Close()
	next := func() error {
		select {
		case err := <-results:
			return err
		case <-time.After(10 * time.Second):
			t.Fatal("the change was not noticed")
			return nil
		}
	}

	require.NoError(t, peerfile.Update(t.Context(), path, addPeer("worker-a", key)))
	require.NoError(t, next())
	_, ok := peers.ResolveFromFingerprint(key)
	require.True(t, ok)

	// A bad file, as an editor may leave it: refused whole.
	draft := path + ".draft"
	require.NoError(t, os.WriteFile(draft, []byte(`{"auth":{"peers":[{"peer_id":"worker-b"},{}]}}`), 0o600))
	require.NoError(t, os.Rename(draft, path))
	require.ErrorContains(t, next(), "auth.peers[1].peer_id: a peer name is empty")
	_, ok = peers.ResolveFromFingerprint(key)
	require.True(t, ok)

	require.NoError(t, os.Remove(path))
	require.NoError(t, next())
	_, ok = peers.ResolveFromFingerprint(key)
	require.False(t, ok)

	w.Close()
	w.Close()
}

func TestWatchFailsOnBadFileAndMissingFolder(t *testing.T) {
	peers, err := auth.NewPeers(nil)
	require.NoError(t, err)
	path := file(t)
	require.NoError(t, os.WriteFile(path, []byte("{"), 0o600))
	_, err = peerfile.Watch(path, peers, nil)
	require.ErrorContains(t, err, path+":1:2: ")
	_, err = peerfile.Watch(filepath.Join(t.TempDir(), "absent", peerfile.Name), peers, nil)
	require.Error(t, err)
}
