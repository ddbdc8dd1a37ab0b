//go:build linux

package secrets

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/internal/crash"
	"github.com/alkdev/alknet-p2p/protocols/auth"
	"github.com/alkdev/alknet-p2p/protocols/auth/peerfile"
	"github.com/alkdev/alknet-p2p/protocols/auth/ticket"
	"github.com/alkdev/alknet-p2p/protocols/auth/ticketfile"
	"github.com/alkdev/alknet-p2p/transport/discovery"
	"github.com/alkdev/alknet-p2p/vault"
)

// sweep is a command that changes files, and is killed at each system call by
// which it may. Arguments are without --home; PASS, OTHER, WORDS, KEY, FREE and
// TOKEN stand for what the test has, OUT for a folder of the run.
type sweep struct {
	name  string
	fresh bool // on no home at all, instead of one that has everything
	args  string
	stdin string
	// resume goes on where it was cut off between two files, of which each is
	// the old one or the new. "": there is but one, or the order hides it.
	resume string
	// next is a later command that writes the same files. "": there is nothing
	// that could be left for it.
	next string
	// differs are the lines of a view that are not the same before and after.
	differs []string
}

const (
	nextSeal = "vault seal later --passphrase-file PASS"
	nextAdd  = "peer add later FREE"
)

// sweeps are all commands that change a file, but peer enable, which is disable,
// and those that are a node (up, demo), need one that runs (ticket create) or
// write the audit log and the cache alone. No command writes config.toml.
var sweeps = []sweep{
	{
		name: "init", fresh: true, args: "init --passphrase-file PASS --words-file OUT/words --work-factor 10",
		resume: "init --restore OUT/words --passphrase-file PASS --work-factor 10", next: nextSeal,
		differs: []string{"vault", "words"},
	},
	{
		name: "init --restore", fresh: true, args: "init --restore WORDS --generation 2 --passphrase-file PASS --work-factor 10",
		next: nextSeal, differs: []string{"vault", "hand-overs"},
	},
	{
		name: "vault passwd", args: "vault passwd --passphrase-file PASS --new-passphrase-file OTHER",
		next: "vault seal later --passphrase-file OTHER", differs: []string{"vault"},
	},
	{
		name: "vault seal", args: "vault seal c --passphrase-file PASS", stdin: sealedText + "c",
		next: nextSeal, differs: []string{"credentials"},
	},
	{name: "vault rm", args: "vault rm b", next: nextSeal, differs: []string{"credentials"}},
	{
		name: "vault rotate", args: "vault rotate --passphrase-file PASS",
		resume: "vault rotate --passphrase-file PASS", next: nextSeal, differs: []string{"vault", "credentials"},
	},
	{
		name: "vault rotate-identity", args: "vault rotate-identity --passphrase-file PASS",
		next: nextSeal, differs: []string{"vault", "hand-overs"},
	},
	{name: "vault export-kit --out", args: "vault export-kit --out OUT/kit --passphrase-file PASS", differs: []string{"kit"}},
	{name: "vault export-kit --html", args: "vault export-kit --html OUT/page --passphrase-file PASS", differs: []string{"page"}},
	{name: "peer add", args: "peer add carol KEY --scope call:disk/free", next: nextAdd, differs: []string{"peers"}},
	{name: "peer allow", args: "peer allow alice call:uptime", next: nextAdd, differs: []string{"peers"}},
	{name: "peer deny", args: "peer deny alice call:disk/free", next: nextAdd, differs: []string{"peers"}},
	{name: "peer rename", args: "peer rename alice eve", next: nextAdd, differs: []string{"peers"}},
	{name: "peer rotate", args: "peer rotate alice KEY --drop-old", next: nextAdd, differs: []string{"peers"}},
	{name: "peer disable", args: "peer disable alice", next: nextAdd, differs: []string{"peers"}},
	{name: "peer rm", args: "peer rm alice", next: nextAdd, differs: []string{"peers"}},
	{name: "peer follow", args: "peer follow bob", resume: "peer follow bob", next: nextAdd, differs: []string{"offers", "peers"}},
	{name: "token create", args: "token create --scope call:uptime", next: nextAdd, differs: []string{"peers"}},
	{name: "token create --peer", args: "token create --peer alice", next: nextAdd, differs: []string{"peers"}},
	{name: "token rm", args: "token rm TOKEN", next: nextAdd, differs: []string{"peers"}},
	{name: "ticket revoke", args: "ticket revoke " + ticketID, next: "ticket revoke " + otherTicketID, differs: []string{"tickets"}},
}

const (
	sealedText      = "the secret of "
	otherPassphrase = "another"
	ticketID        = "00112233445566778899aabbccddeeff"
	otherTicketID   = "ffeeddccbbaa99887766554433221100"
)

// Whenever a command is killed, each file is the old one or the new, and the
// home as it was before or as it should be after; where a command changes two
// files and was killed between them, it goes on when it is run again. Nothing is
// left that others can read, or in the home any secret in the clear; and what is
// left goes with the next command that writes.
func TestKilledAtEveryStep(t *testing.T) {
	tr := newTrail(t)
	names, needles := template(tr)
	t.Run("of", func(t *testing.T) {
		for _, s := range sweeps {
			t.Run(s.name, func(t *testing.T) {
				t.Parallel()
				s := &sweeper{sweep: s, t: t, trail: tr, names: names, needles: needles}
				s.kill()
			})
		}
	})
}

// template makes a home of everything, and says what the names in arguments
// stand for and what must not be found in any home.
func template(tr *trail) (names []string, needles []needle) {
	t := tr.t
	pass := tr.secret("passphrase", passphrase+"\n")
	words := filepath.Join(tr.input, "words")
	tr.mustRun("h", "", "init", "--passphrase-file", pass, "--words-file", words, "--work-factor", "10")
	for _, name := range []string{"a", "b"} {
		tr.mustRun("h", sealedText+name, "vault", "seal", name, "--passphrase-file", pass)
	}

	var keys []ed25519.PrivateKey
	var fingerprints []string
	for range 5 {
		public, private, err := ed25519.GenerateKey(rand.Reader)
		require.NoError(t, err)
		keys, fingerprints = append(keys, private), append(fingerprints, vault.FingerprintOf(public))
	}
	tr.mustRun("h", "", "peer", "add", "alice", fingerprints[0], "--scope", "call:disk/free")
	tr.mustRun("h", "", "peer", "add", "bob", fingerprints[1])

	// Bob has proven the key that he was committed to, and waits for a person.
	o := &discovery.HandOver{Generation: 1, Issued: time.Now(), Expiry: time.Now().Add(time.Hour)}
	var err error
	o.Old, err = auth.PeerFromFingerprint(fingerprints[1])
	require.NoError(t, err)
	o.New, err = auth.PeerFromFingerprint(fingerprints[2])
	require.NoError(t, err)
	sealed, err := discovery.SealHandOver(o, keys[1], keys[2])
	require.NoError(t, err)
	next, err := discovery.Commitment(o.New)
	require.NoError(t, err)
	var token auth.Token
	require.NoError(t, peerfile.Update(t.Context(), filepath.Join(tr.home("h"), "peers.json"), func(cfg *auth.Config) error {
		cfg.Auth.Peers[1].Next = fmt.Sprintf("sha256:%x", next)
		token = auth.NewToken()
		cfg.Auth.APIKeys = append(cfg.Auth.APIKeys, auth.APIKeyEntry{Prefix: token.Prefix(), Hash: token.Hash(), Scopes: []string{"call:uptime"}})
		return nil
	}))
	text, err := json.Marshal(nodeState{Offered: map[string][]byte{"bob": sealed}})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(tr.home("h"), "state.json"), text, 0o600))

	tickets, err := ticketfile.Open(filepath.Join(tr.home("h"), "tickets.json"))
	require.NoError(t, err)
	require.NoError(t, tickets.Update(t.Context(), func(l *ticket.Ledger) error {
		for _, id := range []string{ticketID, otherTicketID} {
			l.Tickets = append(l.Tickets, ticket.Entry{
				ID: id, Only: []string{"uptime"}, Scopes: []string{"call:uptime"},
				CreatedAt: time.Now().Unix(), ExpiresAt: time.Now().Add(time.Hour).Unix(),
			})
		}
		return nil
	}))

	phrase, err := os.ReadFile(words)
	require.NoError(t, err)
	needles = slices.Concat(phraseNeedles(string(phrase)), textNeedles("passphrase", passphrase), textNeedles("a credential", sealedText))
	return []string{
		"PASS", pass, "OTHER", tr.secret("other", otherPassphrase+"\n"), "WORDS", words, "KEY", fingerprints[3], "FREE", fingerprints[4], "TOKEN", token.Prefix(),
	}, needles
}

// nodeState is state.json.
type nodeState struct {
	HandOvers [][]byte          `json:"hand_overs,omitempty"`
	Offered   map[string][]byte `json:"offered,omitempty"`
}

// sweeper kills one command.
type sweeper struct {
	sweep
	t       *testing.T
	trail   *trail
	names   []string
	needles []needle
}

func (s *sweeper) kill() {
	before := s.view(s.folder())
	dir := s.folder()
	s.mustRun(dir, s.args, s.stdin)
	after := s.view(dir)
	s.requireClean(dir)
	var differs []string
	for _, line := range slices.Sorted(maps.Keys(after)) {
		if after[line] != before[line] {
			differs = append(differs, line)
		}
	}
	slices.Sort(s.differs)
	require.Equal(s.t, s.differs, differs)

	var calls []string
	seen := map[string]int{}
	for step := 1; ; step++ {
		dir := s.folder()
		call, err := s.killedAt(step, dir)
		if errors.Is(err, syscall.EPERM) && !*required {
			s.t.Skip("processes may not be traced here")
		}
		require.NoError(s.t, err)
		at := fmt.Sprintf("killed at step %d, %s, after %v", step, call, calls)
		s.requirePrivate(dir, at)
		now := s.view(dir)
		if call == "" {
			require.Equal(s.t, after, now, "at the end")
			break
		}
		calls = append(calls, call)
		switch {
		case maps.Equal(now, before):
			seen["old"]++
			s.mustRun(dir, s.args, s.stdin)
			require.Equal(s.t, after, s.view(dir), at)
		case maps.Equal(now, after):
			seen["new"]++
			if s.next != "" {
				s.mustRun(dir, s.next, sealedText+"later")
			}
		default:
			seen["between"]++
			for line := range now {
				require.Contains(s.t, []string{before[line], after[line]}, now[line], "%s: %s", line, at)
			}
			require.NotEmpty(s.t, s.resume, "%s:\n%v", at, now)
			s.mustRun(dir, s.resume, "")
			require.Equal(s.t, after, s.view(dir), at)
		}
		s.requireClean(dir)
		require.NoError(s.t, os.RemoveAll(dir))
	}
	require.NotZero(s.t, seen["old"])
	require.NotZero(s.t, seen["new"])
	if s.resume != "" {
		require.NotZero(s.t, seen["between"], "nothing to go on from")
	}
	s.t.Logf("killed at %d steps (%v): %v", len(calls), seen, calls)
}

// folder makes one for a run, with a home, an empty folder for output and one
// for temporary files.
func (s *sweeper) folder() string {
	s.t.Helper()
	dir, err := os.MkdirTemp(s.trail.dir, "run")
	require.NoError(s.t, err)
	for _, sub := range []string{"out", "tmp"} {
		require.NoError(s.t, os.Mkdir(filepath.Join(dir, sub), 0o700))
	}
	if !s.fresh {
		copyFiles(s.t, s.trail.home("h"), filepath.Join(dir, "home"))
	}
	return dir
}

func copyFiles(t *testing.T, from, to string) {
	t.Helper()
	require.NoError(t, os.Mkdir(to, 0o700))
	entries, err := os.ReadDir(from)
	require.NoError(t, err)
	for _, entry := range entries {
		b, err := os.ReadFile(filepath.Join(from, entry.Name()))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(to, entry.Name()), b, 0o600))
	}
}

// command returns the command's arguments and environment in a folder.
func (s *sweeper) command(dir, args string) (argv, env []string) {
	argv = append([]string{binary, "--home", filepath.Join(dir, "home")}, strings.Fields(args)...)
	names := strings.NewReplacer(append(s.names, "OUT", filepath.Join(dir, "out"))...)
	for i := range argv {
		if i > 2 {
			argv[i] = names.Replace(argv[i])
		}
	}
	return argv, []string{"HOME=" + dir, "TMPDIR=" + filepath.Join(dir, "tmp")}
}

func (s *sweeper) mustRun(dir, args, stdin string) {
	s.t.Helper()
	argv, env := s.command(dir, args)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env, cmd.Stdin = env, strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	require.NoError(s.t, err, "%v: %s", argv, out)
}

func (s *sweeper) killedAt(step int, dir string) (call string, err error) {
	s.t.Helper()
	argv, env := s.command(dir, s.args)
	stdin, in, err := os.Pipe()
	require.NoError(s.t, err)
	_, err = in.WriteString(s.stdin) // it fits into the pipe
	require.NoError(s.t, errors.Join(err, in.Close()))
	defer stdin.Close()
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	require.NoError(s.t, err)
	defer null.Close()
	return crash.At(step, argv[0], argv, os.ProcAttr{Env: env, Files: []*os.File{stdin, null, null}})
}

// view is what is found, by what it is of. It is the same for what chance and
// time make different.
func (s *sweeper) view(dir string) map[string]string {
	s.t.Helper()
	// Of a copy: who opens a vault makes its files agree.
	tmp, err := os.MkdirTemp(s.trail.dir, "view")
	require.NoError(s.t, err)
	defer os.RemoveAll(tmp)
	home := filepath.Join(tmp, "home")
	if _, err := os.Stat(filepath.Join(dir, "home")); err == nil {
		copyFiles(s.t, filepath.Join(dir, "home"), home)
	}
	lines := map[string]string{}
	lines["vault"], lines["credentials"], lines["hand-overs"] = s.viewVault(home, filepath.Join(dir, "out", "words"))
	if _, err := os.Stat(filepath.Join(dir, "out", "words")); err == nil {
		lines["words"] = "whole" // as viewVault has seen
	}

	cfg, err := peerfile.Load(filepath.Join(home, "peers.json"))
	require.NoError(s.t, err)
	for i := range cfg.Auth.APIKeys {
		cfg.Auth.APIKeys[i].Prefix, cfg.Auth.APIKeys[i].Hash = "any", "any"
	}
	for i := range cfg.Auth.Peers {
		if cfg.Auth.Peers[i].AuthTokenHash != nil {
			*cfg.Auth.Peers[i].AuthTokenHash = "any"
		}
	}
	text, err := cfg.Append(nil)
	require.NoError(s.t, err)
	lines["peers"] = string(text)

	lines["offers"] = fmt.Sprint(slices.Sorted(maps.Keys(s.state(home).Offered)))
	tickets, err := ticketfile.Open(filepath.Join(home, "tickets.json"))
	require.NoError(s.t, err)
	for _, e := range tickets.Snapshot().Ledger().Tickets {
		lines["tickets"] += fmt.Sprintln(e.ID, e.Void(time.Now()))
	}
	date := regexp.MustCompile(`\d{4}-\d\d-\d\d`)
	for _, name := range []string{"kit", "page"} {
		text, err := os.ReadFile(filepath.Join(dir, "out", name))
		if !errors.Is(err, fs.ErrNotExist) {
			require.NoError(s.t, err)
			lines[name] = string(date.ReplaceAll(text, []byte("date")))
			require.NotEmpty(s.t, text)
		}
	}
	return lines
}

// viewVault opens the vault and says what is in it, in its credentials, and
// which hand-overs led to its key. New words, if there are any, are its.
func (s *sweeper) viewVault(home, words string) (description, credentials, handOvers string) {
	s.t.Helper()
	if text, err := os.ReadFile(words); !errors.Is(err, fs.ErrNotExist) {
		require.NoError(s.t, err)
		m, err := vault.ParseMnemonic(text)
		require.NoError(s.t, err, "words that are not whole")
		m.Wipe()
	}
	name := "passphrase"
	v, err := vault.Open(home, []byte(passphrase), nil)
	if errors.Is(err, vault.ErrWrongPassphrase) {
		name = "other"
		v, err = vault.Open(home, []byte(otherPassphrase), nil)
	}
	if errors.Is(err, vault.ErrNoVault) {
		return "", "", "[]"
	}
	require.NoError(s.t, err)
	defer v.Close()
	info, err := vault.ReadInfo(home)
	require.NoError(s.t, err)
	if text, err := os.ReadFile(words); err == nil {
		m, err := vault.ParseMnemonic(text)
		require.NoError(s.t, err)
		defer m.Wipe()
		again, err := vault.New(vault.Config{})
		require.NoError(s.t, err)
		defer again.Close()
		require.NoError(s.t, again.Unlock(m, nil))
		key, err := again.PublicKey(again.IdentityPath())
		require.NoError(s.t, err)
		require.Equal(s.t, info.Identity, vault.FingerprintOf(key), "words of another vault")
	}
	store := vault.NewCredentialStore(home)
	list, err := store.List()
	require.NoError(s.t, err)
	var sealed strings.Builder
	for _, c := range list {
		secret, err := store.Open(v, c.Name)
		require.NoError(s.t, err)
		fmt.Fprintf(&sealed, "%s=%s/%d ", c.Name, secret, c.KeyVersion)
	}
	var generations []uint32
	for _, raw := range s.state(home).HandOvers {
		o, err := discovery.OpenHandOver(raw)
		require.NoError(s.t, err)
		if o.Generation <= info.Generation { // later ones are not used
			generations = append(generations, o.Generation)
		}
	}
	return fmt.Sprintf("%s: device %d, generation %d, version %d", name, info.Device, info.Generation, info.KeyVersion),
		sealed.String(), fmt.Sprint(generations)
}

func (s *sweeper) state(home string) (state nodeState) {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join(home, "state.json"))
	if !errors.Is(err, fs.ErrNotExist) {
		require.NoError(s.t, err)
		require.NoError(s.t, json.Unmarshal(text, &state))
	}
	return state
}

// requirePrivate looks at everything that is left, drafts and locks too: others
// cannot read it, in the home there is no secret in the clear, and each line of
// the audit log is whole.
func (s *sweeper) requirePrivate(dir, at string) {
	s.t.Helper()
	for path, info := range s.files(dir) {
		require.Zero(s.t, info.Mode().Perm()&0o077, "%s: %s", path, at)
		b, err := os.ReadFile(path)
		require.NoError(s.t, err)
		if filepath.Base(filepath.Dir(path)) != "out" {
			require.Empty(s.t, found(b, s.needles), "%s: %s", path, at)
		}
		if filepath.Base(path) == "audit.log" {
			for line := range bytes.Lines(b) {
				require.True(s.t, json.Valid(line), "%s: %s", line, at)
			}
		}
	}
}

// requireClean sees to it that no draft is left, but files and their locks.
func (s *sweeper) requireClean(dir string) {
	s.t.Helper()
	for path := range s.files(dir) {
		name := filepath.Base(path)
		require.True(s.t, name[0] != '.' || strings.HasSuffix(name, ".lock"), "%s is left", path)
		require.NotEqual(s.t, "tmp", filepath.Base(filepath.Dir(path)), "%s is left", path)
	}
}

func (s *sweeper) files(dir string) map[string]fs.FileInfo {
	s.t.Helper()
	files := map[string]fs.FileInfo{}
	require.NoError(s.t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		files[path], err = d.Info()
		return err
	}))
	return files
}
