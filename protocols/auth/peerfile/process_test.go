package peerfile_test

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/protocols/auth/peerfile"
)

// A writer that is killed while it writes leaves the old file or the new one,
// and the lock free: what it said it had added is there, in order, and at most
// the one beyond that it was adding.
func TestKilledWriterLeavesOldOrNew(t *testing.T) {
	path := file(t)
	rounds := 40
	if testing.Short() {
		rounds = 5
	}
	acknowledged := 0
	for range rounds {
		cmd := exec.Command(os.Args[0], "-peerfile.writer", path)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		lines := bufio.NewScanner(out)
		require.True(t, lines.Scan(), "the writer writes")
		require.Equal(t, fmt.Sprintf("p%d", acknowledged), lines.Text())
		acknowledged++
		kill := time.AfterFunc(time.Duration(rand.Int64N(int64(20*time.Millisecond))), func() { _ = cmd.Process.Kill() })
		for lines.Scan() {
			require.Equal(t, fmt.Sprintf("p%d", acknowledged), lines.Text())
			acknowledged++
		}
		kill.Stop()
		require.Error(t, cmd.Wait(), "it was killed")

		cfg, err := peerfile.Load(path)
		require.NoError(t, err)
		for i, e := range cfg.Auth.Peers {
			require.EqualValues(t, fmt.Sprintf("p%d", i), e.PeerName)
		}
		require.GreaterOrEqual(t, len(cfg.Auth.Peers), acknowledged)
		require.LessOrEqual(t, len(cfg.Auth.Peers), acknowledged+1)
		acknowledged = len(cfg.Auth.Peers)
	}
}

// Ten processes that add at once lose nothing.
func TestProcessesAddAtOnce(t *testing.T) {
	path := file(t)
	const writers = 10
	errs := make(chan error, writers)
	var all sync.WaitGroup
	for i := range writers {
		all.Go(func() {
			out, err := exec.Command(os.Args[0], "-peerfile.writer", path, "-peerfile.name", fmt.Sprintf("w%d", i)).Output()
			if err != nil {
				err = fmt.Errorf("%w: %s", err, out)
			}
			errs <- err
		})
	}
	all.Wait()
	close(errs)
	for err := range errs {
		require.NoError(t, err)
	}
	cfg, err := peerfile.Load(path)
	require.NoError(t, err)
	require.Len(t, cfg.Auth.Peers, writers)
}
