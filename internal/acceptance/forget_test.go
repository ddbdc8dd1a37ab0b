//go:build linux

package acceptance

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"io"
	"log/slog"
	"os"
	"sync"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/alkdev/alknet-p2p/transport"
	"github.com/alkdev/alknet-p2p/transport/magic"
	"github.com/alkdev/alknet-p2p/transport/relay"
)

// forget is a relay that serves everybody, but loses what comes from or goes to
// the peers whose IDs it reads from standard input, a line each. Its links stay
// up and answer.
func forget(key ed25519.PrivateKey, cfg roamConfig, log *slog.Logger) error {
	host, err := transport.New(transport.Config{Key: key, Network: roamNetwork, Relay: &transport.RelayConfig{Rate: -1}, NoMDNS: true, Logger: log})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if err := host.Start(ctx); err != nil {
		return err
	}
	defer host.Close()
	server := relay.NewServer(relay.ServerConfig{Rate: relay.NoLimit, Logger: log})
	defer server.Close()
	var lost sync.Map // relay.Key
	host.SetStreamHandler(transport.RelayProtocol, func(s network.Stream) {
		k, err := magic.KeyOf(s.Conn().RemotePeer())
		if err != nil {
			_ = s.Reset()
			return
		}
		lossy := &lossyStream{Stream: s, in: bufio.NewReaderSize(s, 1<<16), key: k, lost: &lost}
		_ = server.Serve(ctx, lossy, k, s.Conn().RemoteMultiaddr().String())
	})
	ticket, err := host.Ticket()
	if err != nil {
		return err
	}
	if err := newLines().tell(roamLine{Ready: &roamReady{PeerID: host.ID().String(), Ticket: ticket.String()}}); err != nil {
		return err
	}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		id, err := peer.Decode(lines.Text())
		if err != nil {
			return err
		}
		k, err := magic.KeyOf(id)
		if err != nil {
			return err
		}
		lost.Store(k, true)
	}
	return nil
}

// lossyStream is a client's stream, of which the relay reads all but the
// packets from and to the peers that are lost.
type lossyStream struct {
	network.Stream
	in      *bufio.Reader
	key     relay.Key
	lost    *sync.Map
	greeted bool
	rest    []byte // of what was let through
}

func (s *lossyStream) Read(b []byte) (int, error) {
	for len(s.rest) == 0 {
		head, err := s.in.Peek(2)
		if err != nil {
			return 0, err
		}
		raw := make([]byte, 2+int(head[0])<<8+int(head[1]))
		if _, err := io.ReadFull(s.in, raw); err != nil {
			return 0, err
		}
		if s.greeted && s.drops(raw) {
			continue
		}
		s.greeted, s.rest = true, raw // the first is the Hello
	}
	n := copy(b, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

func (s *lossyStream) drops(raw []byte) bool {
	f, _, err := relay.ParseFrame(raw)
	if err != nil || f.Type != relay.FrameData && f.Type != relay.FrameDisco {
		return false
	}
	_, from := s.lost.Load(s.key)
	_, to := s.lost.Load(f.Key)
	return from || to
}
