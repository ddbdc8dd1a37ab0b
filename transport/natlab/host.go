package natlab

import (
	"context"
	"net/netip"
	"os/exec"
	"strings"
)

// Host is one host of a lab, which may move while the value lives. All methods
// may be called concurrently.
type Host struct {
	lab  *Lab
	name string
}

// Name returns the host's name.
func (h *Host) Name() string { return h.name }

// Kind returns the kind of NAT or firewall the host is behind at present.
func (h *Host) Kind() Kind { return h.now().kind }

// Namespace returns the name of the host's network namespace, as ip netns
// takes it.
func (h *Host) Namespace() string { return string(h.now().space) }

// Addr returns the present address of the host's own interface: the LAN
// address behind a NAT, else the public one. It is an IPv6 address only if the
// host has no other.
func (h *Host) Addr() netip.Addr {
	m := h.now()

	return m.main()
}

// Addr6 returns the host's present global IPv6 address; it is not valid if the
// host has none.
func (h *Host) Addr6() netip.Addr { return h.now().addr6 }

// PublicAddr returns the address from which the internet sees the host's
// packets at present: IPv4, unless the host has only IPv6.
func (h *Host) PublicAddr() netip.Addr {
	h.lab.mu.Lock()
	defer h.lab.mu.Unlock()
	m := h.lab.hosts[h.name]
	switch {
	case m == nil:
		return netip.Addr{}
	case m.router == nil || !m.addr.IsValid():
		return m.main()
	default:
		return m.router.outermost().wan
	}
}

// Command returns a command that runs a program in the host. It is used like
// the result of [exec.CommandContext], and its process is the program itself.
// [Lab.Close] and [Lab.Kill] end it, and whatever it started in the host, with
// SIGKILL; its Wait must be called all the same.
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	space, err := h.space()
	cmd := exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", string(space), name}, args...)...)
	if err == nil && !strings.ContainsRune(name, '/') {
		// Start should fail as if there were no ip in between.
		_, err = exec.LookPath(name)
	}
	if err != nil {
		cmd.Err = err
	}

	return cmd
}

// Do runs f on a thread that is in the host's network namespace. What f itself
// opens there (a listener, a UDP socket, a connection dialled to a literal
// address, a command it starts) stays in the host for good and may be used
// from anywhere. Goroutines that f starts are not in the host: programs that
// open sockets on their own, such as a whole node, belong into a Command.
// Do returns the error of f.
func (h *Host) Do(f func() error) error {
	space, err := h.space()
	if err != nil {
		return err
	}

	return space.do(f)
}

// now returns the host as it is, or the zero member if there is none.
func (h *Host) now() member {
	h.lab.mu.Lock()
	defer h.lab.mu.Unlock()
	if m := h.lab.hosts[h.name]; m != nil {
		return *m
	}

	return member{}
}

// space returns the host's namespace if it exists.
func (h *Host) space() (namespace, error) {
	h.lab.mu.Lock()
	defer h.lab.mu.Unlock()
	m, err := h.lab.member(h.name)
	if err != nil {
		return "", err
	}

	return m.space, nil
}
