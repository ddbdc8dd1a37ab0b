package proxytest_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/alkdev/alknet-p2p/internal/proxytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The proxy lets nobody through who does not ask as he should.
func TestRefusals(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := proxytest.Start(proxytest.Config{Listener: l, User: "me", Password: "secret", Dial: func(context.Context, string) (net.Conn, error) {
		return nil, errors.New("nobody is there")
	}})
	defer s.Close()
	for ask, want := range map[string]int{
		"GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n":                                                            http.StatusMethodNotAllowed,
		"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n":                                                            http.StatusProxyAuthRequired,
		"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nProxy-Authorization: Basic bWU6d3Jvbmc=\r\n\r\n":                 http.StatusProxyAuthRequired,
		"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nProxy-Authorization: Basic bWU6c2VjcmV0\r\nX-Right: yes\r\n\r\n": http.StatusBadGateway,
	} {
		c, err := net.Dial("tcp", l.Addr().String())
		require.NoError(t, err)
		_, err = io.WriteString(c, ask)
		require.NoError(t, err)
		answer, err := http.ReadResponse(bufio.NewReader(c), nil)
		require.NoError(t, err)
		require.Equal(t, want, answer.StatusCode, ask)
		_ = c.Close()
	}
	c, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	_, err = c.Write([]byte{5, 1, 0}) // SOCKS5 without a password
	require.NoError(t, err)
	var answer [2]byte
	_, err = io.ReadFull(c, answer[:])
	require.NoError(t, err)
	require.Equal(t, [2]byte{5, 0xff}, answer)
}
