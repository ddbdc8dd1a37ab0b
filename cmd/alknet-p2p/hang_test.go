package main

import (
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// PATH-34: a node that hangs is told from one that does not run.
func TestPATH34NodeThatHangs(t *testing.T) {
	h := home(t.TempDir())
	path, _ := h.socket()
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	defer l.Close() // accepts nothing, as a process that is stopped
	c := newClient(h)
	transport, ok := c.http.Transport.(*http.Transport)
	require.True(t, ok)
	require.Equal(t, controlWait, transport.ResponseHeaderTimeout)
	transport.ResponseHeaderTimeout = time.Millisecond
	_, err = c.status(t.Context())
	f := asFailure(err)
	require.Equal(t, exitTimeout, f.exit, err)
	require.Equal(t, codeTimeout, f.Code)
	require.Contains(t, f.Message, "it hangs")
}
