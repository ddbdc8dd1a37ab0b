package natlab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// namespacesDir is where ip keeps the names of network namespaces.
const namespacesDir = "/run/netns"

// toolTimeout bounds one run of ip or nft, which take milliseconds.
const toolTimeout = 30 * time.Second

// namespace is a named network namespace. It is looked up by its name at each
// use, so a value holds nothing open and needs no closing.
type namespace string

func (n namespace) path() string { return filepath.Join(namespacesDir, string(n)) }

// do runs f with the calling goroutine's thread in the namespace.
func (n namespace) do(f func() error) (err error) {
	runtime.LockOSThread()
	home, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("find own network namespace: %w", err)
	}
	defer home.Close()

	there, err := netns.GetFromName(string(n))
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("open namespace %s: %w", n, err)
	}
	defer there.Close()

	if err := netns.Set(there); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter namespace %s: %w", n, err)
	}
	// A deferred call, because f may end by runtime.Goexit (testing's FailNow).
	defer func() {
		if back := netns.Set(home); back != nil {
			// The thread stays locked, so that it ends with this goroutine and
			// never runs another one in the wrong namespace.
			err = errors.Join(err, fmt.Errorf("leave namespace %s: %w", n, back))
			return
		}
		runtime.UnlockOSThread()
	}()

	return f()
}

// ip runs lines of the ip command in the namespace.
func (n namespace) ip(lines ...string) error {
	return tool(strings.Join(lines, "\n")+"\n", "ip", "-n", string(n), "-batch", "-")
}

// nft loads nftables rules in the namespace.
func (n namespace) nft(rules string) error {
	return n.do(func() error { return tool(rules, "nft", "-f", "-") })
}

// sysctl writes settings below net, such as "ipv4/ip_forward=1".
func (n namespace) sysctl(settings ...string) error {
	return n.do(func() error {
		for _, s := range settings {
			key, value, _ := strings.Cut(s, "=")
			if err := os.WriteFile("/proc/sys/net/"+key, []byte(value), 0o600); err != nil {
				return fmt.Errorf("sysctl in %s: %w", n, err)
			}
		}

		return nil
	})
}

// forget drops all connection-tracking entries, and with them all kernel NAT.
func (n namespace) forget() error {
	const connections = 1 // ConntrackTable, which netlink names on Linux only

	return n.do(func() error { return netlink.ConntrackTableFlush(connections) })
}

// addNamespaces makes namespaces in which nothing but loopback is up.
func addNamespaces(spaces ...namespace) error {
	lines := make([]string, 0, len(spaces))
	for _, n := range spaces {
		lines = append(lines, "netns add "+string(n))
	}
	if err := ip(lines...); err != nil {
		return err
	}

	for _, n := range spaces {
		err := n.sysctl(
			// Addresses are ours: no waiting for duplicates, no router asked.
			"ipv6/conf/all/accept_dad=0", "ipv6/conf/default/accept_dad=0",
			"ipv6/conf/default/router_solicitations=0",
			// Hairpinned packets come and go by one interface: no reverse path
			// check, and no redirect, which would let the next ones pass it by.
			"ipv4/conf/all/rp_filter=0", "ipv4/conf/default/rp_filter=0",
			"ipv4/conf/all/send_redirects=0", "ipv4/conf/default/send_redirects=0",
		)
		if err != nil {
			return err
		}
		if err := n.ip("link set lo up"); err != nil {
			return err
		}
	}

	return nil
}

// ip runs lines of the ip command outside the lab; they name namespaces.
func ip(lines ...string) error {
	return tool(strings.Join(lines, "\n")+"\n", "ip", "-batch", "-")
}

// tool runs a program with input and turns what it complains about into an
// error.
func tool(input, name string, args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), toolTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s, in:\n%s", name, strings.Join(args, " "), err, bytes.TrimSpace(out), input)
	}

	return nil
}

// namespacesOf lists the namespaces of a lab, also of one that died.
func namespacesOf(id string) ([]namespace, error) {
	entries, err := os.ReadDir(namespacesDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list namespaces: %w", err)
	}

	var out []namespace
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), prefix+id+"-") {
			out = append(out, namespace(e.Name()))
		}
	}

	return out, nil
}

// removeNamespaces ends all programs in the namespaces and deletes these.
func removeNamespaces(spaces []namespace) error {
	err := killIn(spaces)
	for _, n := range spaces {
		err = errors.Join(err, netns.DeleteNamed(string(n)), n.removeResolver())
	}

	return err
}

// killIn ends all programs in the namespaces with SIGKILL and waits until they
// are gone. Programs whose parent has not waited for them count as gone.
func killIn(spaces []namespace) error {
	const patience = 5 * time.Second
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		pids, err := processesIn(spaces)
		if err != nil {
			return err
		}
		if len(pids) == 0 {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("processes %v do not end", pids)
		}
		for _, pid := range pids {
			if p, err := os.FindProcess(pid); err == nil {
				_ = p.Kill() // gone already is as good
				_ = p.Release()
			}
		}
	}
}

// processesIn finds the processes, other than this one, that are in one of the
// namespaces or on their way there.
func processesIn(spaces []namespace) ([]int, error) {
	var inside []os.FileInfo
	for _, n := range spaces {
		if info, err := os.Stat(n.path()); err == nil {
			inside = append(inside, info)
		}
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}

	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		if entering(pid, spaces) || isIn(pid, inside) {
			pids = append(pids, pid)
		}
	}

	return pids, nil
}

// entering reports whether a process is a Command that still has to enter its
// namespace. It is asked before isIn, so that none slips through between.
func entering(pid int, spaces []namespace) bool {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	// The kernel closes files, after which Start returns, before it sets the
	// arguments: a Command may have none for a moment.
	for end := time.Now().Add(time.Second); err == nil && len(line) == 0 && startedHere(pid) && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
		line, err = os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	}
	if err != nil {
		return false
	}
	for _, n := range spaces {
		if bytes.HasPrefix(line, []byte("ip\x00netns\x00exec\x00"+string(n)+"\x00")) {
			return true
		}
	}

	return false
}

// startedHere reports whether a process is a living child of this one.
func startedHere(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:]) // after the name: state, parent

	return len(fields) > 1 && string(fields[0]) != "Z" && string(fields[1]) == strconv.Itoa(os.Getpid())
}

func isIn(pid int, inside []os.FileInfo) bool {
	info, err := os.Stat(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil { // ended
		return false
	}
	for _, i := range inside {
		if os.SameFile(i, info) {
			return true
		}
	}

	return false
}
