package natlab_test

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/transport/natlab"
)

func TestCommand(t *testing.T) {
	lab := start(t, natlab.Config{Public: []string{"one"}, Peers: []natlab.Peer{{Name: "a"}}})
	a := lab.Host("a")

	out, err := a.Command(t.Context(), "ip", "-4", "-o", "address").Output()
	require.NoError(t, err)
	assert.Contains(t, string(out), " "+a.Addr().String()+"/24 ")

	cmd := a.Command(t.Context(), "sh", "-c", "read x; echo got $x in $PWD; exit 7")
	cmd.Stdin, cmd.Dir = strings.NewReader("this\n"), "/"
	out, err = cmd.Output()
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	assert.Equal(t, 7, exit.ExitCode())
	assert.Equal(t, "got this in /\n", string(out))

	require.ErrorIs(t, a.Command(t.Context(), "no-such-program").Run(), exec.ErrNotFound)

	// The process is the program itself, so its context ends it.
	ctx, cancel := context.WithCancel(t.Context())
	cmd = a.Command(ctx, "sleep", "60")
	require.NoError(t, cmd.Start())
	cancel()
	require.EqualError(t, cmd.Wait(), "signal: killed")
	assert.Empty(t, programs(t, a))
}

// programs are the process IDs in a host.
func programs(t *testing.T, h *natlab.Host) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "ip", "netns", "pids", h.Namespace()).Output()
	require.NoError(t, err)

	return string(out)
}

func TestKill(t *testing.T) {
	lab := start(t, natlab.Config{Public: []string{"one", "two"}})
	one, two := lab.Host("one"), lab.Host("two")

	other := two.Command(t.Context(), "sleep", "60")
	require.NoError(t, other.Start())

	// With what the program started.
	cmd := one.Command(t.Context(), "sh", "-c", "sleep 60 & echo started; wait")
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	_, err = bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	require.NoError(t, lab.Kill("one"))
	assert.Empty(t, programs(t, one))
	require.EqualError(t, cmd.Wait(), "signal: killed")

	// Also before the program is really in the host.
	for range 20 {
		cmd := one.Command(t.Context(), "sleep", "60")
		require.NoError(t, cmd.Start())
		require.NoError(t, lab.Kill("one"))
		require.EqualError(t, cmd.Wait(), "signal: killed")
	}

	assert.NotEmpty(t, programs(t, two))
	require.NoError(t, lab.Close())
	require.EqualError(t, other.Wait(), "signal: killed")
}

func TestDo(t *testing.T) {
	lab := start(t, natlab.Config{Public: []string{"one", "two"}})
	one, two := lab.Host("one"), lab.Host("two")
	home := here(t)

	failed := errors.New("failed")
	require.ErrorIs(t, one.Do(func() error { return failed }), failed)
	require.NoError(t, one.Do(func() error {
		in1 := here(t)
		assert.NotEqual(t, home, in1)
		err := two.Do(func() error {
			assert.NotEqual(t, home, here(t))
			assert.NotEqual(t, in1, here(t))
			return nil
		})
		assert.Equal(t, in1, here(t))
		return err
	}))
	assert.Equal(t, home, here(t))

	// No thread is left in a host, also when f does not return.
	var ended sync.WaitGroup
	for range 20 {
		ended.Go(func() { _ = one.Do(func() error { runtime.Goexit(); return nil }) })
		ended.Go(func() { _ = two.Do(func() error { return nil }) })
	}
	ended.Wait()
	tasks, err := os.ReadDir("/proc/self/task")
	require.NoError(t, err)
	for _, task := range tasks {
		if link, err := os.Readlink("/proc/self/task/" + task.Name() + "/ns/net"); err == nil {
			assert.Equal(t, home, link)
		}
	}
}

// here names the network namespace of the calling thread.
func here(t *testing.T) string {
	t.Helper()
	link, err := os.Readlink("/proc/thread-self/ns/net")
	require.NoError(t, err)

	return link
}

// A command that Do starts is in the host, too.
func TestDoStartsCommand(t *testing.T) {
	lab := start(t, natlab.Config{Public: []string{"one"}})
	cmd := exec.CommandContext(t.Context(), "sleep", "60")
	require.NoError(t, lab.Host("one").Do(cmd.Start))
	assert.NotEmpty(t, programs(t, lab.Host("one")))
	require.NoError(t, lab.Kill("one"))
	require.EqualError(t, cmd.Wait(), "signal: killed")
}

// The kernel of a host whose programs were killed still answers: peers learn of
// it, other than in the dark.
func TestKillIsSeen(t *testing.T) {
	lab := start(t, natlab.Config{Public: []string{"one"}, Peers: []natlab.Peer{{Name: "a"}}})
	one := lab.Host("one")
	at := netip.AddrPortFrom(one.Addr(), 7002)
	_, err := dialTCP(lab.Host("a"), "tcp4", netip.AddrPort{}, at, patience)
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	require.NoError(t, lab.Dark("one", 0))
	_, err = dialTCP(lab.Host("a"), "tcp4", netip.AddrPort{}, at, 2*silence)
	var timeout net.Error
	require.ErrorAs(t, err, &timeout)
	assert.True(t, timeout.Timeout(), "%v", err)
}

func TestUnknownHost(t *testing.T) {
	lab := start(t, natlab.Config{Public: []string{"one"}})
	h := lab.Host("nobody")
	assert.Equal(t, "nobody", h.Name())
	assert.False(t, h.Addr().IsValid())
	assert.False(t, h.PublicAddr().IsValid())
	assert.Empty(t, h.Namespace())
	require.Error(t, h.Do(func() error { return nil }))
	require.ErrorContains(t, h.Command(t.Context(), "true").Run(), "no such host")
	require.ErrorContains(t, lab.Kill("nobody"), `kill of host "nobody": no such host`)

	require.NoError(t, lab.Close())
	require.NoError(t, lab.Close())
	require.ErrorIs(t, lab.Host("one").Do(func() error { return nil }), natlab.ErrClosed)
	require.ErrorIs(t, lab.Host("one").Command(t.Context(), "true").Run(), natlab.ErrClosed)
	require.ErrorIs(t, lab.Dark("one", time.Second), natlab.ErrClosed)
}
