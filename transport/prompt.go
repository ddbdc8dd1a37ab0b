package transport

import (
	"context"
	"net"
	"syscall"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/core/sec"
	tptu "github.com/libp2p/go-libp2p/p2p/net/upgrader"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"

	"github.com/alkdev/alknet-p2p/transport/magic/tcp"
)

// prompt is a security transport that lets little wait in the kernel on the
// connections that were dialled, which pass nowhere else before they are wrapped.
// The gater does that for accepted ones.
type prompt struct{ sec.SecureTransport }

func promptTLS(id protocol.ID, key crypto.PrivKey, muxers []tptu.StreamMuxer) (prompt, error) {
	t, err := libp2ptls.New(id, key, muxers)
	return prompt{t}, err
}

func promptNoise(id protocol.ID, key crypto.PrivKey, muxers []tptu.StreamMuxer) (prompt, error) {
	t, err := noise.New(id, key, muxers)
	return prompt{t}, err
}

// SecureOutbound implements sec.SecureTransport.
func (p prompt) SecureOutbound(ctx context.Context, insecure net.Conn, id peer.ID) (sec.SecureConn, error) {
	makePrompt(insecure)
	return p.SecureTransport.SecureOutbound(ctx, insecure, id)
}

// makePrompt does so where the system can (PATH-26). What hides its
// TCP connection stays as it is.
func makePrompt(c net.Conn) {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return
	}
	tcp.MakePrompt(raw)
}
