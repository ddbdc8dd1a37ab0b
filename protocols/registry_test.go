package protocols_test

import (
	"context"
	"strings"
	"testing"

	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/protocols"
)

func TestNODE1ALPNForm(t *testing.T) {
	for _, alpn := range []string{"alknet/call", "alknet/call/v2", "alknet/a-1", "h2", "http/1.1", "c-webrtc", "example.org/Chat/2"} {
		require.NoError(t, new(protocols.HandlerRegistry).Register(idle(alpn)), alpn)
	}
	for alpn, why := range map[string]string{
		"":                       "empty",
		"/alknet/call":           "empty segment",
		"alknet/":                "empty segment",
		"alknet//call":           "empty segment",
		"alknet/call/":           "empty segment",
		"alknet":                 "names no service",
		"alknet/Call":            "a-z",
		"alknet/call_me":         "a-z",
		"alknet/call/2.0":        "a-z",
		"a b":                    "visible ASCII",
		"a\x00b":                 "visible ASCII",
		"café":                   "visible ASCII",
		strings.Repeat("a", 256): "longer",
		"alknet/relay":           "not for handlers",
		"alknet/admit":           "not for handlers",
		"alknet/addr":            "not for handlers",
		"alknet/hand-over":       "not for handlers",
	} {
		require.ErrorContains(t, new(protocols.HandlerRegistry).Register(idle(alpn)), why, alpn)
	}
}

func TestNODE3Registry(t *testing.T) {
	var r protocols.HandlerRegistry
	require.Empty(t, r.ALPNs())
	for _, alpn := range []string{"h2", "alknet/call", "alknet/call/v2"} {
		require.NoError(t, r.Register(idle(alpn)))
	}
	require.ErrorContains(t, r.Register(idle("h2")), "registered already")
	require.Equal(t, []string{"alknet/call", "alknet/call/v2", "h2"}, r.ALPNs())
	h, ok := r.Get("h2")
	require.True(t, ok)
	require.Equal(t, "h2", h.ALPN())
	_, ok = r.Get("h3")
	require.False(t, ok)
	r.Freeze()
	r.Freeze()
	require.ErrorContains(t, r.Register(idle("h3")), "has started")
}

func TestNODE42ProtocolID(t *testing.T) {
	require.Equal(t, protocol.ID("/alknet/call"), protocols.ProtocolID("alknet/call"))
	require.Equal(t, protocol.ID("/http/1.1"), protocols.ProtocolID("http/1.1"))
}

func TestDrainingWithoutRouter(t *testing.T) {
	require.Nil(t, protocols.Draining(t.Context()))
	ch := make(chan struct{})
	ctx, cancel := context.WithCancel(protocols.WithDraining(t.Context(), ch))
	defer cancel()
	close(ch)
	<-protocols.Draining(ctx)
	require.NoError(t, ctx.Err())
}
