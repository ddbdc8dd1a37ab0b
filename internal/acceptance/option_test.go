//go:build linux

package acceptance

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/transport/natlab"
)

// PATH-2: an ordinary go-libp2p program with our one option, behind a home
// router, reaches a node behind another by a ticket that names a relay only,
// and libp2p's own stream to it runs on a direct path.
func TestPATH2StockProgramWithOption(t *testing.T) {
	lab := newLab(t, []string{"relay"},
		natlab.Peer{Name: "a", Kind: natlab.PortRestricted},
		natlab.Peer{Name: "b", Kind: natlab.PortRestricted})
	program := filepath.Join(t.TempDir(), "libp2p")
	build := exec.Command("go", "build", "-o", program, "github.com/alkdev/alknet-p2p/examples/libp2p")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, "build the example: %s", out)

	relay := newProc(t, lab.Host("relay"), "").up("--relay")
	a := newProc(t, lab.Host("a"), "").up("--join", relay.ticket())

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := lab.Host("b").Command(ctx, program, a.ticket())
	var errs bytes.Buffer
	cmd.Stderr = &errs
	pings, err := cmd.Output()
	require.NoError(t, err, errs.String())
	t.Logf("\n%s", pings)
	lines := strings.Split(strings.TrimSpace(string(pings)), "\n")
	require.Contains(t, lines[len(lines)-1], " direct "+lab.Host("a").PublicAddr().String()+":")
}
