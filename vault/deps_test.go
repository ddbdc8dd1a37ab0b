package vault_test

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The vault has no network surface and knows no other package of the project:
// it is the standard library and cryptography, on every system.
func TestDependencies(t *testing.T) {
	const self = "github.com/alkdev/alknet-p2p/vault"
	modules := []string{
		"filippo.io/age", "filippo.io/hpke", // hpke is age's
		"github.com/gofrs/flock", "github.com/google/renameio/v2", "github.com/tyler-smith/go-bip39",
		"golang.org/x/crypto", "golang.org/x/sys", "golang.org/x/text",
	}
	for _, goos := range []string{"linux", "darwin", "windows"} {
		list := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", "{{.ImportPath}} {{with .Module}}{{.Path}}{{end}}", self)
		list.Env = append(os.Environ(), "GOOS="+goos, "CGO_ENABLED=0")
		list.Stderr = os.Stderr
		out, err := list.Output()
		require.NoError(t, err)
		packages := strings.Split(strings.TrimSpace(string(out)), "\n")
		require.Greater(t, len(packages), 50)
		for _, line := range packages {
			path, module, _ := strings.Cut(line, " ")
			switch {
			case path == self || strings.HasPrefix(path, self+"/internal/"):
			case module == "":
				// net/netip, which golang.org/x/sys needs on windows, only names addresses.
				require.NotContains(t, []string{"net", "net/http", "crypto/tls"}, path, goos)
			default:
				require.True(t, slices.Contains(modules, module), "%s of %s on %s", path, module, goos)
			}
		}
	}
}
