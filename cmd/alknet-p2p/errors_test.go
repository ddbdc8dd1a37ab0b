package main

import (
	"fmt"
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/transport"
)

// A port that is somebody else's and one that takes a privilege are two troubles.
func TestPortErrors(t *testing.T) {
	bind := func(errno syscall.Errno) error {
		return fmt.Errorf("%w on TCP port 443: %w", transport.ErrBind, os.NewSyscallError("bind", errno))
	}
	taken := asFailure(bind(syscall.EADDRINUSE))
	require.Equal(t, codePortTaken, taken.Code)
	require.Contains(t, taken.Message, "choose another with --listen")
	taken = asFailure(fmt.Errorf("%w: %w", transport.ErrListen443, bind(syscall.EADDRINUSE)))
	require.Equal(t, codePortTaken, taken.Code)
	require.Contains(t, taken.Message, "do without --listen-443")
	require.NotContains(t, taken.Message, "choose another")
	refused := asFailure(bind(syscall.EACCES))
	require.Equal(t, codeFailed, refused.Code)
	require.Contains(t, refused.Message, "CAP_NET_BIND_SERVICE")
}

// Who asks a node that is being stopped hears that, and no more.
func TestStoppedNodeError(t *testing.T) {
	require.Equal(t, "the node has stopped", asFailure(fmt.Errorf("doctor: %w", transport.ErrClosed)).Message)
}
