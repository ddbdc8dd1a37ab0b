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
		"filippo.io/edwards25519", "github.com/decred/dcrd/dcrec/secp256k1/v4",
		"github.com/gofrs/flock", "github.com/google/renameio/v2", "github.com/tyler-smith/go-bip39",
		"golang.org/x/crypto", "golang.org/x/sys", "golang.org/x/text",
	}
	for _, goos := range []string{"linux", "darwin", "windows"} {
		const format = `{{.ImportPath}} {{with .Module}}{{.Path}}{{end}} {{join .Imports ","}}`
		list := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", format, self)
		list.Env = append(os.Environ(), "GOOS="+goos, "CGO_ENABLED=0")
		list.Stderr = os.Stderr
		out, err := list.Output()
		require.NoError(t, err)
		packages := strings.Split(strings.TrimSpace(string(out)), "\n")
		require.Greater(t, len(packages), 50)
		for _, line := range packages {
			fields := strings.Split(line, " ")
			path, module, imports := fields[0], fields[1], strings.Split(fields[2], ",")
			if module != "" && path != self && !strings.HasPrefix(path, self+"/internal/") {
				require.Contains(t, modules, module, "%s on %s", path, goos)
			}
			if path == "golang.org/x/sys/windows" {
				continue // it declares structures with a net.IP
			}
			for _, network := range []string{"net", "net/http", "crypto/tls"} {
				require.False(t, slices.Contains(imports, network), "%s imports %s on %s", path, network, goos)
			}
		}
	}
}
