package arch_test

import (
	"cmp"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// mayImport says, for a folder and all below it, which folders of ours its
// code may import; the longest match wins. A folder of the value ending in
// "/..." stands for all below it. Tests may import what they need.
var mayImport = map[string][]string{
	"cmd":      {"node", "vault", "transport/...", "protocols/..."},
	"examples": {"node", "transport/...", "protocols/..."},
	"node":     {"transport/...", "protocols/..."},

	"transport":             {"transport/..."},
	"transport/discovery":   {"transport/relay"},
	"transport/magic":       {"transport/magic/...", "transport/relay"},
	"transport/magic/path":  {},
	"transport/magic/disco": {
		// The relay's frames carry its boxes; it knows keys only as 32 bytes.
	},
	"transport/magic/punch": {"transport/magic/disco"}, // the mappings it names
	"transport/magic/udp":   {},
	"transport/magic/tcp":   {},
	"transport/netmon":      {},
	"transport/relay":       {"transport/magic/udp"}, // the reflector's sockets
	"transport/natlab":      {},
	"transport/web":         {},

	"protocols":                    {"protocols/auth"},
	"protocols/auth":               {},
	"protocols/auth/peerfile":      {"protocols/auth", "protocols/auth/internal/..."},
	"protocols/auth/ticket":        {"protocols/auth"},
	"protocols/auth/ticketfile":    {"protocols/auth/ticket", "protocols/auth/internal/..."},
	"protocols/auth/internal":      {},
	"protocols/admit":              {"protocols", "protocols/auth"},
	"protocols/call":               {"protocols", "protocols/auth", "protocols/call/internal/wire"},
	"protocols/call/internal/wire": {},
	"protocols/call/adapt":         {"protocols", "protocols/auth", "protocols/call"},
	"protocols/ping":               {"protocols", "protocols/auth"},
	"protocols/pipe":               {"protocols", "protocols/auth"},

	"vault":    {"vault/internal/..."},
	"internal": {},
}

// mustNotImport bars packages of others from a folder and all below it, each
// for the reason given.
var mustNotImport = []struct{ folder, pkg, why string }{
	{"protocols/auth", "os", "checks are pure; files belong to peerfile"},
	{"protocols/auth", "github.com/fsnotify/fsnotify", "checks are pure; files belong to peerfile"},
	{"protocols/auth", "net", "it sits on the hot path and does no I/O"},
	{"protocols/call/internal/wire", "github.com/libp2p/...", "pure bytes"},
	{"protocols/call/internal/wire", "net", "pure bytes"},
	{"transport/magic/path", "github.com/libp2p/...", "a pure state machine (PATH-15)"},
	{"transport/magic/punch", "net", "it decides, and sends nothing (PATH-23)"},
	{"transport/magic/disco", "github.com/libp2p/...", "sealed bytes and keys only"},
	{"transport/magic/disco", "net", "sealed bytes and keys only"},
	{"transport/relay", "github.com/libp2p/...", "it runs over any ordered byte stream"},
	{"vault", "net", "a vault has no network surface"},
	{"vault", "net/http", "a vault has no network surface"},
	{"vault", "github.com/libp2p/...", "a vault has no network surface"},
}

// exempt lists folders inside a barred one to which the bar does not apply.
var exempt = map[string]string{
	"protocols/auth/peerfile":          "it is the file behind protocols/auth",
	"protocols/auth/ticketfile":        "it is the file behind protocols/auth/ticket",
	"protocols/auth/internal/lockfile": "it is what both files have in common",
}

func TestImportsPointOneWay(t *testing.T) {
	tr := theTree(t)
	folders := make([]string, 0, len(mayImport))
	for f := range mayImport {
		folders = append(folders, f)
	}
	slices.SortFunc(folders, func(a, b string) int { return cmp.Compare(len(b), len(a)) })

	for _, f := range tr.sources() {
		i := slices.IndexFunc(folders, func(folder string) bool { return under(f.pkg, folder) })
		if i < 0 {
			if f.pkg != "." && f.pkg != "tools" {
				t.Errorf("%s: no import rule covers this folder; draw it in mayImport and in ARCHITECTURE.md", f.path)
			}
			continue
		}
		for _, p := range f.imports() {
			own, ours := strings.CutPrefix(p, module+"/")
			if ours && !allowed(own, mayImport[folders[i]]) {
				t.Errorf("%s imports %s: %s may import only %v of ours", f.path, own, folders[i], mayImport[folders[i]])
			}
		}
	}
}

// NODE-31, among others: what decides who may do what touches no file.
func TestBarredImports(t *testing.T) {
	for _, f := range theTree(t).sources() {
		if _, ok := exempt[f.pkg]; ok {
			continue
		}
		for _, p := range f.imports() {
			for _, bar := range mustNotImport {
				if under(f.pkg, bar.folder) && allowed(p, []string{bar.pkg}) {
					t.Errorf("%s imports %s: %s", f.path, p, bar.why)
				}
			}
		}
	}
}

// What an embedder's program links: nothing that only the command needs.
func TestNodeDependencies(t *testing.T) {
	tr := theTree(t)
	if len(tr.packages()["node"]) == 0 {
		t.Fatal("there is no package node")
	}
	cmd := exec.Command("go", "list", "-e", "-deps", "./node")
	cmd.Dir = filepath.Clean(tr.root)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list -e -deps ./node: %v", err)
	}
	commandOnly := []string{
		module + "/vault/...", module + "/transport/natlab/...", module + "/internal/...",
		"filippo.io/age/...", "github.com/adrg/xdg/...", "github.com/lmittmann/tint/...",
		"github.com/mdp/qrterminal/...", "github.com/pelletier/go-toml/...", "github.com/spf13/cobra/...",
		"github.com/spf13/pflag/...", "github.com/stretchr/testify/...", "github.com/tyler-smith/go-bip39/...",
		"go.uber.org/goleak/...", "golang.org/x/term/...",
	}
	for dep := range strings.Lines(string(out)) {
		if dep = strings.TrimSpace(dep); allowed(dep, commandOnly) {
			t.Errorf("node depends on %s, which embedders must not have to link", dep)
		}
	}
}

func allowed(pkg string, patterns []string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		if dir, all := strings.CutSuffix(p, "/..."); all {
			return under(pkg, dir)
		}
		return pkg == p
	})
}
