//go:build linux

package secrets

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha512"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/node"
	"github.com/alkdev/alknet-p2p/protocols/call"
	"github.com/alkdev/alknet-p2p/vault"
)

const (
	passphrase = "correct horse battery staple 7"
	credential = "ghp_0123456789abcdefghijKLMNOPQRSTuvwxyz"
	proxyPass  = "pr0xy-9-trombone-quilt"
)

// hidden are the secrets of one home's vault.
type hidden struct {
	root    []needle // phrase and seed
	keys    []needle // private keys of all kinds
	others  []needle // passphrase and credential
	private ed25519.PrivateKey
}

func (h *hidden) all() []needle {
	return append(append(append([]needle{}, h.root...), h.keys...), h.others...)
}

// secretsOf derives all that the words of a file give.
func secretsOf(t *testing.T, home, wordsFile string) *hidden {
	t.Helper()
	words, err := os.ReadFile(wordsFile)
	require.NoError(t, err)
	phrase := strings.TrimSpace(string(words))
	seed, err := pbkdf2.Key(sha512.New, phrase, []byte("mnemonic"), 2048, 64)
	require.NoError(t, err)
	h := &hidden{root: append(phraseNeedles(phrase), keyNeedles("seed", seed)...)}

	v, err := vault.Open(home, []byte(passphrase), nil)
	require.NoError(t, err)
	defer v.Close()
	add := func(what string, key *vault.DerivedKey, err error) {
		require.NoError(t, err)
		require.NoError(t, key.Use(func(private []byte) { h.keys = append(h.keys, keyNeedles(what, bytes.Clone(private))...) }))
	}
	identity, err := v.IdentityKey()
	add("identity key", identity, err)
	require.NoError(t, identity.Use(func(seed []byte) { h.private = ed25519.NewKeyFromSeed(seed) }))
	next, err := v.DeriveEd25519("m/74'/0'/0'/0'/1'")
	add("next identity key", next, err)
	ssh, err := v.DeriveEd25519(vault.SSHHost)
	add("SSH key", ssh, err)
	aes, err := v.DeriveEncryptionKeyForVersion(vault.CurrentKeyVersion)
	add("AES key", aes, err)
	ethereum, err := v.DeriveEthereumKey(vault.Ethereum)
	add("Ethereum key", ethereum, err)
	h.others = append(textNeedles("passphrase", passphrase), textNeedles("credential", credential)...)
	return h
}

const offers = `
[[operation]]
name = "github/whoami"
exec = ["sh", "-c", "wc -c <&3"]
input = "none"
output = "text"
credential = "github"
scopes = []

[[operation]]
name = "test/fails"
exec = ["sh", "-c", "echo it fails >&2; cat <&3 >/dev/null; exit 3"]
credential = "github"
scopes = []
`

// A node lives through all that happens to nodes. None of its secrets is in a
// file, in anything that was written, or in what went over the control socket;
// and a dump of its memory has neither words nor seed.
func TestNothingLeaks(t *testing.T) {
	needRoot(t)
	tr := newTrail(t)
	pass := tr.secret("passphrase", passphrase+"\n")
	wrong := tr.secret("wrong", "wrong\n")
	words := filepath.Join(tr.input, "words")
	tr.mustRun("a", "", "init", "--passphrase-file", pass, "--words-file", words, "--work-factor", "12")
	tr.mustRun("b", "", "init", "--passphrase-file", pass, "--words-file", words+"-b", "--work-factor", "12")
	tr.mustRun("a", credential+"\n", "vault", "seal", "github", "--passphrase-file", pass)
	require.NoError(t, os.WriteFile(filepath.Join(tr.home("a"), "config.toml"), []byte(offers), 0o600))
	secrets := secretsOf(t, tr.home("a"), words)
	proxied := filepath.Join(tr.home("b"), "config.toml")
	require.NoError(t, os.WriteFile(proxied, []byte(`proxy = "http://me:`+proxyPass+`@127.0.0.1:1"`), 0o600))
	bad := tr.secret("bad.toml", `proxi = "http://me:`+proxyPass+`@127.0.0.1:1"`)

	a, _ := tr.start(binary, "--home", tr.home("a"), "--json", "up", "--relay", "--listen", "/ip4/127.0.0.1/tcp/0",
		"--log-level", "debug", "--passphrase-file", pass)
	ticket := tr.await(`"ticket":"(alk1[a-z0-9]+)"`)
	panics, stopPanics, theirKey := tr.startPanicking(ticket)
	panicTicket := tr.await(`panicking node (alk1[a-z0-9]+)`)
	b, _ := tr.start(binary, "--home", tr.home("b"), "up", "--join", ticket, "--listen", "/ip4/127.0.0.1/tcp/0",
		"--log-level", "debug", "--passphrase-file", pass)
	require.Eventually(t, func() bool { return tr.run("b", "", "status") == 0 }, 20*time.Second, 50*time.Millisecond)
	tr.tap("a")
	tr.tap("b")

	// Calls that go well and calls that do not.
	tr.mustRun("b", "", "call", ticket, "github/whoami", "{}")
	require.Equal(t, 1, tr.run("b", "", "--json", "call", ticket, "test/fails", "{}"))
	require.Equal(t, 1, tr.run("b", "", "call", ticket, "no/such", "{}"))
	require.Equal(t, 1, tr.run("b", "", "call", panicTicket, "test/panic", `{"n":1}`))
	tr.await(`the handler's fault`)
	tr.mustRun("b", "", "ping", "--count", "1", ticket)
	tr.mustRun("b", "", "ops", ticket)
	require.Equal(t, 1, tr.run("b", "", "doctor"), "nobody is at the proxy")
	tr.mustRun("b", "", "why", ticket)
	require.Equal(t, 2, tr.run("b", "", "config", "check", bad))
	require.Equal(t, 2, tr.run("b", "", "up", "--proxy", "http://me:secret@127.0.0.1:1", "--passphrase-file", pass))
	for _, home := range []string{"a", "b"} {
		for _, args := range [][]string{
			{"status"},
			{"--json", "status"},
			{"key"},
			{"ticket"},
			{"config", "check"},
			{"config", "show"},
			{"vault", "show"},
			{"vault", "ls"},
			{"peer", "ls"},
		} {
			tr.mustRun(home, "", args...)
		}
	}
	// What else a person does, rightly and wrongly, while it runs.
	tr.mustRun("a", "", "key", "--device", "1", "--passphrase-file", pass)
	require.Equal(t, 5, tr.run("a", "", "vault", "open", "github", "--reveal", "--passphrase-file", wrong))
	require.Equal(t, 2, tr.run("a", "", "vault", "open", "github", "--passphrase-file", pass))
	require.Equal(t, 1, tr.run("a", "legal winner thank year wave sausage worth useful legal winner thank yellow", "vault", "verify"))
	tr.mustRun("a", "", "vault", "rotate", "--passphrase-file", pass)
	tr.mustRun("a", "", "vault", "passwd", "--passphrase-file", pass, "--new-passphrase-file", pass)
	require.Equal(t, 1, tr.run("a", "", "up", "--passphrase-file", pass), "a second one")

	m := dump(t, a.Process.Pid)
	require.Contains(t, string(m.dumped), string(secrets.private.Public().(ed25519.PublicKey)), "the dump sees what is there")
	require.Empty(t, found(m.dumped, secrets.root), "in the memory of the node")
	require.Empty(t, found(m.kept, secrets.root), "the vault is closed")
	t.Logf("a running node's memory holds: %v", found(m.dumped, append(secrets.keys, secrets.others...)))

	// It is killed so that it would leave its memory behind.
	require.NoError(t, a.Process.Signal(syscall.SIGABRT))
	_ = a.Wait()
	require.False(t, coreDumped(a), "%v", a.ProcessState)
	cores, err := filepath.Glob(filepath.Join(tr.dir, "core*"))
	require.NoError(t, err)
	require.Empty(t, cores)
	tr.await(`SIGABRT: abort`) // and what it says is searched, too

	require.NoError(t, b.Process.Signal(syscall.SIGTERM))
	require.NoError(t, b.Wait())
	require.NoError(t, stopPanics.Close())
	require.NoError(t, panics.Wait())
	require.NoError(t, os.Remove(proxied)) // it alone has the password
	tr.search(textNeedles("password of the proxy", proxyPass))
	tr.search(append(secrets.all(), append(secretsOf(t, tr.home("b"), words+"-b").all(), keyNeedles("key of the node that panics", theirKey)...)...))
}

// Without that, a program with these limits leaves a core dump: so that the
// test above sees the difference.
func TestCoresAreDumped(t *testing.T) {
	tr := newTrail(t)
	cmd := tr.command("sh", "-c", "kill -ABRT $$")
	_ = cmd.Run()
	if !coreDumped(cmd) {
		t.Skip("this system makes no core dumps") // its pattern, or a limit
	}
}

// While the vault is open its seed lies in memory that no dump has, and the
// words are gone.
func TestOpenVaultInMemory(t *testing.T) {
	needRoot(t)
	tr := newTrail(t)
	pass := tr.secret("passphrase", passphrase+"\n")
	words := filepath.Join(tr.input, "words")
	tr.mustRun("a", "", "init", "--passphrase-file", pass, "--words-file", words, "--work-factor", "12")
	secrets := secretsOf(t, tr.home("a"), words)

	// It opens the vault, then waits for the secret.
	sealing, stdin := tr.start(binary, "--home", tr.home("a"), "vault", "seal", "github", "--passphrase-file", pass)
	require.Eventually(t, func() bool {
		log, _ := os.ReadFile(filepath.Join(tr.home("a"), "audit.log"))
		return bytes.Contains(log, []byte("vault.unlock"))
	}, 20*time.Second, 10*time.Millisecond)
	m := dump(t, sealing.Process.Pid)
	require.Equal(t, []string{"seed"}, found(m.kept, secrets.root), "in locked memory")
	require.Empty(t, found(m.dumped, secrets.root), "elsewhere")
	t.Logf("the memory of a command with an open vault holds: %v", found(m.dumped, append(secrets.keys, secrets.others...)))

	_, err := io.WriteString(stdin, credential)
	require.NoError(t, err)
	require.NoError(t, stdin.Close())
	require.NoError(t, sealing.Wait())
	tr.search(secrets.all())
}

// Another process of the same user reads the memory of a program, but not of
// one that opened a vault.
func TestMemoryIsClosedToTheSameUser(t *testing.T) {
	needRoot(t)
	const nobody = 65534
	tr := newTrail(t)
	as := func(cmd *exec.Cmd) *exec.Cmd {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		return cmd
	}
	for _, dir := range []string{filepath.Dir(tr.dir), tr.dir, tr.input} {
		require.NoError(t, os.Chown(dir, nobody, nobody))
	}
	pass := tr.secret("passphrase", passphrase+"\n")
	require.NoError(t, os.Chown(pass, nobody, nobody))
	initialise := as(tr.command(binary, "--home", tr.home("a"), "init", "--passphrase-file", pass,
		"--words-file", filepath.Join(tr.input, "words"), "--work-factor", "12"))
	require.NoError(t, initialise.Run(), "%s", tr.tail())

	readable := func(pid int) bool {
		return as(exec.Command("cat", fmt.Sprintf("/proc/%d/environ", pid))).Run() == nil // under the same rule as mem
	}
	other := as(tr.command("sleep", "100"))
	require.NoError(t, other.Start())
	require.True(t, readable(other.Process.Pid))
	require.NoError(t, other.Process.Kill())
	_ = other.Wait()

	sealing := as(tr.command(binary, "--home", tr.home("a"), "vault", "seal", "github", "--passphrase-file", pass))
	stdin, err := sealing.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, sealing.Start())
	require.Eventually(t, func() bool {
		log, _ := os.ReadFile(filepath.Join(tr.home("a"), "audit.log"))
		return bytes.Contains(log, []byte("vault.unlock"))
	}, 20*time.Second, 10*time.Millisecond)
	require.False(t, readable(sealing.Process.Pid))
	require.NoError(t, stdin.Close())
	require.Error(t, sealing.Wait(), "there was no secret to seal")
}

// panickingConfig is what the test tells the node that panics.
type panickingConfig struct {
	Key  []byte
	Join string
}

// startPanicking starts this test binary as a program that embeds a node, with
// an operation that panics. It ends with its standard input.
func (tr *trail) startPanicking(ticket string) (cmd *exec.Cmd, stdin io.Closer, key []byte) {
	tr.t.Helper()
	key = make([]byte, ed25519.SeedSize)
	_, _ = rand.Read(key) // never fails
	config, err := json.Marshal(panickingConfig{key, ticket})
	require.NoError(tr.t, err)
	file := tr.secret("panicking", string(config))
	cmd, stdin = tr.start(os.Args[0], "-panicking.node="+file)
	return cmd, stdin, key
}

func runPanicking(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var cfg panickingConfig
	if err := json.Unmarshal(text, &cfg); err != nil {
		return err
	}
	n, err := node.New(node.Config{
		Key: ed25519.NewKeyFromSeed(cfg.Key), Join: []string{cfg.Join}, Listen: []string{"/ip4/127.0.0.1/tcp/0"}, NoMDNS: true,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		return err
	}
	err = n.Calls().Register(call.Operation{
		Spec:         call.Spec{Name: "test/panic"},
		Capabilities: call.Capabilities{}.WithAPIKey("github", []byte(credential)),
		Handler: call.HandlerFunc(func(_ context.Context, r *call.Request) (any, error) {
			secret, _ := r.Capabilities.Get("github")
			panic(fmt.Sprintf("the handler's fault, with %v and %d bytes", r.Capabilities, len(secret)))
		}),
	})
	if err != nil {
		return err
	}
	if err := n.Start(context.Background()); err != nil {
		return err
	}
	fmt.Fprintln(os.Stdout, "panicking node", n.Ticket())
	_, _ = io.Copy(io.Discard, os.Stdin)
	return n.Close()
}
