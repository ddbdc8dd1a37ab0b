package natlab_test

import (
	"bufio"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/transport/natlab"
)

func TestConfigErrors(t *testing.T) {
	for want, c := range map[string]natlab.Config{
		"lab ID":                   {ID: "No-Good"},
		"host name":                {Public: []string{"a b"}},
		`not "inet"`:               {Public: []string{"inet"}},
		"two hosts":                {Public: []string{"a"}, Peers: []natlab.Peer{{Name: "a"}}},
		"unknown kind":             {Peers: []natlab.Peer{{Name: "a", Kind: "bowl"}}},
		"no options":               {Peers: []natlab.Peer{{Name: "a", Kind: natlab.None, Hairpin: true}}},
		"cannot hairpin":           {Peers: []natlab.Peer{{Name: "a", Kind: natlab.Symmetric, Hairpin: true}}},
		"no IPv6":                  {Peers: []natlab.Peer{{Name: "a", Kind: natlab.CGNAT, IPv6: true}}},
		"whole seconds":            {Peers: []natlab.Peer{{Name: "a", UDPTimeout: time.Millisecond}}},
		`behind "b": no such host`: {Peers: []natlab.Peer{{Name: "a", Behind: "b"}}},
		"no NAT to share":          {Public: []string{"b"}, Peers: []natlab.Peer{{Name: "a", Behind: "b"}}},
		"must be zero":             {Peers: []natlab.Peer{{Name: "b"}, {Name: "a", Behind: "b", IPv6: true}}},
		"must be of kind cgnat":    {Peers: []natlab.Peer{{Name: "b"}, {Name: "a", Kind: natlab.CGNAT, Carrier: "b"}}},
		"link of host":             {Links: map[string]natlab.Link{"a": {}}},
		"delay":                    {Link: natlab.Link{Delay: time.Hour}},
		"loss":                     {Link: natlab.Link{Loss: -1}},
		"rate":                     {Link: natlab.Link{Rate: -1}},
	} {
		lab, err := natlab.New(c)
		assert.Nil(t, lab)
		require.ErrorContains(t, err, want)
	}
}

// left lists what a lab has in the file system; its processes cannot be in
// namespaces that are gone.
func left(t *testing.T, id string) []string {
	t.Helper()
	var out []string
	for _, pattern := range []string{"/run/netns/natlab-" + id + "-*", "/run/natlab-" + id + ".lock"} {
		found, err := filepath.Glob(pattern)
		require.NoError(t, err)
		out = append(out, found...)
	}

	return out
}

func links(t *testing.T) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "ip", "-o", "link").Output()
	require.NoError(t, err)

	return string(out)
}

func TestLabsSideBySide(t *testing.T) {
	outside := links(t)
	c := natlab.Config{
		Public: []string{"one"},
		Peers:  []natlab.Peer{{Name: "a"}},
		Link:   natlab.Link{Delay: time.Millisecond},
	}
	var labs [3]*natlab.Lab
	var building sync.WaitGroup
	var errs [len(labs)]error
	start(t, c) // skips where there are no namespaces
	for i := range labs {
		building.Go(func() { labs[i], errs[i] = natlab.New(c) })
	}
	building.Wait()
	for i, lab := range labs {
		require.NoError(t, errs[i])
		t.Cleanup(func() { _ = lab.Close() })
		udp(t, lab.Host("a"), 0).mustSee(udp(t, lab.Host("one"), 0))
	}
	assert.Equal(t, outside, links(t), "an interface outside the lab")

	// The labs have the same addresses and do not meet.
	s := udp(t, labs[0].Host("a"), 0)
	s.mustSee(udp(t, labs[0].Host("one"), 7000))
	assert.True(t, s.cut(udp(t, labs[1].Host("one"), 7001)))

	again := c
	again.ID = labs[0].ID()
	_, err := natlab.New(again)
	require.ErrorContains(t, err, "a living process has this lab")
	s.mustSee(udp(t, labs[0].Host("one"), 0))

	require.NoError(t, labs[0].Close())
	require.NoError(t, labs[1].Close())
	assert.Empty(t, left(t, labs[0].ID()))
	udp(t, labs[2].Host("a"), 0).mustSee(udp(t, labs[2].Host("one"), 0))
	assert.NotEmpty(t, left(t, labs[2].ID()))
}

func TestNoWayOut(t *testing.T) {
	lab := start(t, natlab.Config{Public: []string{"one"}, Peers: []natlab.Peer{{Name: "a"}}})
	for _, family := range []string{"-4", "-6"} {
		out, err := exec.CommandContext(t.Context(), "ip", family, "-n", "natlab-"+lab.ID()+"-inet", "route", "show", "default").Output()
		require.NoError(t, err)
		assert.Empty(t, string(out))
	}

	// A listener outside is not reached from inside.
	outside, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	defer outside.Close()
	_, err = dialTCP(lab.Host("a"), "tcp4", netip.AddrPort{}, outside.Addr().(*net.TCPAddr).AddrPort(), patience)
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	// Nor is an address that the lab does not have; inet says so.
	_, err = dialTCP(lab.Host("a"), "tcp4", netip.AddrPort{}, netip.MustParseAddrPort("5.20.9.9:443"), patience)
	require.ErrorIs(t, err, syscall.ENETUNREACH)
}

func TestFailedNewLeavesNothing(t *testing.T) {
	start(t, natlab.Config{}) // skips where there are no namespaces
	id := "half" + strconv.Itoa(os.Getpid())
	// In the way of host b.
	require.NoError(t, exec.CommandContext(t.Context(), "ip", "netns", "add", "natlab-"+id+"-b").Run())
	_, err := natlab.New(natlab.Config{
		ID:     id,
		Public: []string{"a", "b"},
		Link:   natlab.Link{Delay: time.Millisecond},
	})
	require.ErrorContains(t, err, `host "b"`)
	assert.Empty(t, left(t, id))
}

// A process that dies by SIGKILL leaves its lab and the programs in it; the
// next New removes both.
func TestStaleLab(t *testing.T) {
	start(t, natlab.Config{}) // skips where there are no namespaces
	self, err := os.Executable()
	require.NoError(t, err)
	id := "stale" + strconv.Itoa(os.Getpid())
	cmd := exec.CommandContext(t.Context(), self, "-natlab.leave="+id)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	_, err = bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)

	// While it lives, it keeps its lab.
	start(t, natlab.Config{})
	assert.Len(t, left(t, id), 3)
	pids, err := exec.CommandContext(t.Context(), "ip", "netns", "pids", "natlab-"+id+"-one").Output()
	require.NoError(t, err)
	require.NotEmpty(t, pids)

	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	start(t, natlab.Config{})
	// Eventually, because another process's New may be at it.
	require.Eventually(t, func() bool { return len(left(t, id)) == 0 }, patience, 10*time.Millisecond)
	for pid := range strings.FieldsSeq(string(pids)) {
		status, err := os.ReadFile("/proc/" + pid + "/status")
		assert.True(t, err != nil || strings.Contains(string(status), "zombie"), "%s", status)
	}
}

// Where there can be no labs, Start skips the test, unless it is required.
func TestStartWithoutRights(t *testing.T) {
	start(t, natlab.Config{})
	run := func(args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), "/proc/self/exe", append(args, "-test.run=^TestKinds$", "-test.v")...)
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	out, err := run()
	require.NoError(t, err, out)
	assert.Contains(t, out, "--- SKIP: TestKinds")
	assert.Contains(t, out, natlab.ErrUnavailable.Error())

	out, err = run("-natlab.required")
	require.Error(t, err)
	assert.Contains(t, out, "--- FAIL: TestKinds")
	assert.Contains(t, out, natlab.ErrUnavailable.Error())
}
