package adapt_test

import (
	"bufio"
	"context"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/protocols/call/adapt"
)

func TestNoNewPrivileges(t *testing.T) {
	op := sh(t, adapt.ExecConfig{Output: adapt.OutputText}, `grep NoNewPrivs /proc/self/status`)
	got, err := once(t.Context(), op, `{}`)
	require.NoError(t, err)
	require.Equal(t, `{"text":"NoNewPrivs:\t1\n"}`, got)

	status, err := os.ReadFile("/proc/self/status")
	require.NoError(t, err)
	require.Contains(t, string(status), "NoNewPrivs:\t0\n", "this process keeps what it may do")
}

var orphanMaker = flag.String("orphan-maker", "", "run a program that writes its process ID to this file, for ever")

// A program dies with the process that started it, even if that is killed.
func TestProgramDiesWithItsNode(t *testing.T) {
	if *orphanMaker != "" {
		op := sh(t, adapt.ExecConfig{}, `echo $$ >"$1"; exec sleep 100`, *orphanMaker)
		_, _ = once(context.Background(), op, `{}`)
		return
	}
	file := filepath.Join(t.TempDir(), "pid")
	node := exec.Command(os.Args[0], "-test.run=^TestProgramDiesWithItsNode$", "-orphan-maker="+file)
	out, err := node.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, node.Start())
	group := readPID(t, file)
	require.NoError(t, node.Process.Signal(syscall.SIGKILL))
	for lines := bufio.NewScanner(out); lines.Scan(); {
		t.Log(lines.Text())
	}
	require.Error(t, node.Wait())
	requireNoGroup(t, group)
}
