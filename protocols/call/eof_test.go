package call_test

import (
	"io"
	"net"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/protocols"
	"github.com/alkdev/alknet-p2p/protocols/call"
)

// cutPipe is a stream whose writes fail with io.EOF once it is cut, as those of a
// multiplexer do whose connection has ended.
type cutPipe struct {
	net.Conn
	cut atomic.Bool
}

func (c *cutPipe) Write(b []byte) (int, error) {
	if c.cut.Load() {
		return 0, io.EOF
	}
	return c.Conn.Write(b)
}

// CALL-44: the end of the stream is never taken for the end of a subscription,
// whatever the stream calls it.
func TestCALL44LostStreamIsNoCompletion(t *testing.T) {
	near, far := net.Pipe()
	stream := &cutPipe{Conn: near}
	client := serve(t, protocols.ConnectionFromStream(stream, call.ALPN, ""), call.New(call.Config{}), known())
	go func() { _, _ = io.Copy(io.Discard, far) }()
	sub, err := client.session(t).Subscribe(t.Context(), "a/b", nil)
	require.NoError(t, err)
	stream.cut.Store(true)
	second, err := client.session(t).Subscribe(t.Context(), "a/c", nil)
	if err == nil {
		_, err = second.Next(t.Context())
	}
	require.Error(t, err)
	require.NotErrorIs(t, err, io.EOF)
	_, err = sub.Next(t.Context())
	require.ErrorIs(t, err, call.ErrStreamClosed)
	require.NotErrorIs(t, err, io.EOF)
}
