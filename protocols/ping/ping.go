// Package ping is the liveness protocol, ALPN alknet/ping: one side sends
// numbered frames on a stream and the other sends each one back.
//
// [Handler] answers; register it with the node's handlers. [Pinger] asks, over
// one stream for as long as it is used:
//
//	conn, err := node.Open(ctx, target, ping.ALPN)
//	p, err := ping.NewPinger(ctx, conn)
//	defer p.Close()
//	rtt, err := p.Ping(ctx)
//
// SPEC.md has the bytes.
package ping

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ALPN of the protocol.
const ALPN = "alknet/ping"

const (
	version   = 1
	frameSize = 10 // version, kind, 8 bytes of sequence
)

// kind tells a ping from its answer.
type kind byte

const (
	kindPing kind = 1
	kindPong kind = 2
)

// errFrame is a frame that breaks the protocol.
var errFrame = errors.New("malformed ping frame")

func appendFrame(b []byte, k kind, seq uint64) []byte {
	return binary.BigEndian.AppendUint64(append(b, version, byte(k)), seq)
}

// parseFrame reads a frame of the wanted kind.
func parseFrame(b []byte, want kind) (seq uint64, err error) {
	switch {
	case len(b) != frameSize:
		return 0, fmt.Errorf("%w: %d bytes", errFrame, len(b))
	case b[0] != version:
		return 0, fmt.Errorf("%w: version %d", errFrame, b[0])
	case kind(b[1]) != want:
		return 0, fmt.Errorf("%w: kind %d", errFrame, b[1])
	}
	return binary.BigEndian.Uint64(b[2:]), nil
}
