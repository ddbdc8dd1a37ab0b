package node

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"

	"github.com/alkdev/alknet-p2p/protocols/auth"
	"github.com/alkdev/alknet-p2p/transport"
	"github.com/alkdev/alknet-p2p/transport/discovery"
)

// Successions keeps what is proven about the keys of peers in the registry: it
// edits the registry, or lets a person decide. Its methods are called from one
// goroutine at a time and may block.
type Successions interface {
	// Committed says that key, a fingerprint of the peer, has published what its
	// next key will be, and the registry does not say so yet. next is written as
	// in auth.PeerEntry.
	Committed(name auth.PeerName, key, next string) error
	// HandedOver says that a key of the peer goes on under the key it was
	// committed to. It is called again until the registry has the new key.
	HandedOver(name auth.PeerName, h *discovery.HandOver) error
}

const (
	// handOverID names the stream on which a node shows its hand-overs to a peer:
	// a count byte, then so many sealed hand-overs, then the end.
	handOverID protocol.ID = "/alknet/hand-over"

	handOverTime     = 3 * time.Second // for one stream
	handOverStreams  = 8               // inbound, at once
	handOverAgain    = time.Hour       // before a peer is shown them again
	successionFirst  = 5 * time.Second
	successionEvery  = time.Hour
	successionLookup = 10 * time.Second // for one peer
)

var errGeneration = errors.New("the new key is not of a later generation")

// succession follows the identities of peers from key to key, and shows this
// node's own succession to them. It owns one cancel and one WaitGroup.
type succession struct {
	host      *transport.Host
	peers     *auth.Peers
	keeper    Successions // nil: only shows
	handOvers [][]byte
	log       *slog.Logger

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	stop   func()
	kick   chan struct{}
	slots  chan struct{}
	taking sync.Mutex // orders calls of keeper

	mu     sync.Mutex
	closed bool
	shown  map[peer.ID]time.Time
}

// startSuccession begins in the background; nil when there is nothing to do.
func startSuccession(n *Node) *succession {
	if n.cfg.Successions == nil && len(n.cfg.HandOvers) == 0 {
		return nil
	}
	s := &succession{
		host: n.host, peers: n.peers, keeper: n.cfg.Successions, handOvers: n.cfg.HandOvers, log: n.log,
		kick: make(chan struct{}, 1), slots: make(chan struct{}, handOverStreams), shown: make(map[peer.ID]time.Time),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.stop = s.host.WatchPeers(func(p peer.ID, connected bool) {
		if connected {
			s.begin(func() { s.met(p) })
		}
	})
	if s.keeper != nil {
		s.host.SetStreamHandler(handOverID, s.handle)
		s.wg.Go(s.run)
	}
	return s
}

// Close returns after the last goroutine.
func (s *succession) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.stop()
	if s.keeper != nil {
		s.host.RemoveStreamHandler(handOverID)
	}
	s.cancel()
	s.wg.Wait()
}

// look makes it look for hand-overs soon, because a peer was not found.
func (s *succession) look() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

func (s *succession) begin(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.wg.Go(f)
	return true
}

// run looks for the hand-overs of all peers soon after the start, then hourly,
// and when a peer is not reached.
func (s *succession) run() {
	wait := successionFirst
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-time.After(wait):
		case <-s.kick:
		}
		wait = successionEvery - rand.N(successionEvery/5)
		for _, e := range s.peers.Config().Auth.Peers {
			if e.Enabled {
				s.follow(e.PeerName)
			}
		}
	}
}

// follow notes what a peer is committed to, or looks for the hand-over to it, and
// on along the chain.
func (s *succession) follow(name auth.PeerName) {
	for range discovery.MaxHandOvers {
		e, ok := s.peers.ByName(name)
		if !ok {
			return
		}
		if e.Next == "" && !s.commit(e) {
			return
		}
		if e, ok = s.peers.ByName(name); !ok {
			return
		}
		next, ok := parseCommitment(e.Next)
		if !ok {
			return
		}
		ctx, cancel := context.WithTimeout(s.ctx, successionLookup)
		h, err := s.host.FindHandOver(ctx, next)
		cancel()
		if err != nil || h == nil || !s.take(h) {
			return
		}
	}
}

// commit lets the keeper note what one of e's keys is committed to.
func (s *succession) commit(e auth.PeerEntry) bool {
	for _, key := range e.Fingerprints {
		p, err := auth.PeerFromFingerprint(key)
		if err != nil {
			continue
		}
		ctx, cancel := context.WithTimeout(s.ctx, successionLookup)
		next, ok := s.host.Commitment(ctx, p)
		cancel()
		if ok {
			s.taking.Lock()
			err := s.keeper.Committed(e.PeerName, key, commitmentText(next))
			s.taking.Unlock()
			if err != nil {
				s.log.Warn("a peer's commitment to its next key was not kept", "peer", e.PeerName, "err", err)
			}
			return err == nil
		}
	}
	return false
}

// take judges an opened hand-over by the registry: it counts when a peer lists
// the old key and is committed to the new one. It reports whether the peer goes
// on under the new key now.
func (s *succession) take(h *discovery.HandOver) bool {
	s.taking.Lock()
	defer s.taking.Unlock()
	old, err := auth.FingerprintFromPeer(h.Old)
	if err != nil {
		return false
	}
	for _, e := range s.peers.Config().Auth.Peers {
		next, ok := parseCommitment(e.Next)
		if !ok || !e.Enabled || !slices.Contains(e.Fingerprints, old) {
			continue
		}
		err := h.Follows(next)
		if g, known := s.host.Generation(h.Old); err == nil && known && h.Generation <= g {
			err = errGeneration
		}
		if err != nil {
			s.log.Warn("hand-over refused", "peer", e.PeerName, "err", err)
			return false
		}
		if err := s.keeper.HandedOver(e.PeerName, h); err != nil {
			s.log.Warn("a peer's hand-over was not kept", "peer", e.PeerName, "err", err)
			return false
		}
		e, _ := s.peers.ByName(e.PeerName)
		key, err := auth.FingerprintFromPeer(h.New)
		return err == nil && slices.Contains(e.Fingerprints, key)
	}
	return false
}

// met shows the hand-overs to a peer of the registry, and notes its commitment.
func (s *succession) met(p peer.ID) {
	key, err := auth.FingerprintFromPeer(p)
	if err != nil {
		return
	}
	name, known := s.peers.NameOf(key)
	if !known {
		return
	}
	if e, ok := s.peers.ByName(name); ok && s.keeper != nil && e.Next == "" {
		s.commit(e)
	}
	if len(s.handOvers) == 0 || !s.due(p) {
		return
	}
	ctx, cancel := context.WithTimeout(s.ctx, handOverTime)
	defer cancel()
	if err := s.show(ctx, p); err != nil {
		s.log.Debug("hand-overs not shown", "peer", p, "err", err)
	}
}

// due says whether p is to be shown the hand-overs, and notes that it is.
func (s *succession) due(p peer.ID) bool {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for q, at := range s.shown {
		if now.Sub(at) >= handOverAgain {
			delete(s.shown, q)
		}
	}
	if _, ok := s.shown[p]; ok {
		return false
	}
	s.shown[p] = now
	return true
}

func (s *succession) show(ctx context.Context, p peer.ID) error {
	stream, err := s.host.OpenStream(ctx, p, handOverID)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = stream.Reset() })()
	msg := append([]byte{byte(len(s.handOvers))}, slices.Concat(s.handOvers...)...)
	if _, err := stream.Write(msg); err != nil {
		_ = stream.Reset()
		return err
	}
	if err := stream.CloseWrite(); err != nil {
		_ = stream.Reset()
		return err
	}
	if _, err := io.Copy(io.Discard, io.LimitReader(stream, 1)); err != nil {
		_ = stream.Reset()
		return err
	}
	return stream.Close()
}

// handle reads what a peer shows. It is judged by the registry, not by who
// shows it.
func (s *succession) handle(stream network.Stream) {
	if !s.begin(func() {
		select {
		case s.slots <- struct{}{}:
		default:
			_ = stream.Reset()
			return
		}
		defer func() { <-s.slots }()
		if err := s.read(stream); err != nil {
			s.log.Debug("hand-overs not read", "peer", stream.Conn().RemotePeer(), "err", err)
			_ = stream.Reset()
			return
		}
		_ = stream.Close()
	}) {
		_ = stream.Reset()
	}
}

func (s *succession) read(stream network.Stream) error {
	if err := stream.SetDeadline(time.Now().Add(handOverTime)); err != nil {
		return err
	}
	defer context.AfterFunc(s.ctx, func() { _ = stream.Reset() })()
	hs, err := readHandOvers(stream)
	if err != nil {
		return err
	}
	slices.SortFunc(hs, func(a, b *discovery.HandOver) int { return int(int64(a.Generation) - int64(b.Generation)) })
	for _, h := range hs {
		s.take(h)
	}
	return nil
}

// readHandOvers reads the message of handOverID.
func readHandOvers(r io.Reader) ([]*discovery.HandOver, error) {
	raw, err := io.ReadAll(io.LimitReader(r, 2+discovery.MaxHandOvers*discovery.HandOverBytes))
	if err != nil {
		return nil, fmt.Errorf("read hand-overs: %w", err)
	}
	if len(raw) == 0 || raw[0] > discovery.MaxHandOvers || len(raw) != 1+int(raw[0])*discovery.HandOverBytes {
		return nil, errors.New("read hand-overs: not a count and so many hand-overs")
	}
	var hs []*discovery.HandOver
	for one := range slices.Chunk(raw[1:], discovery.HandOverBytes) {
		h, err := discovery.OpenHandOver(one)
		if err != nil {
			return nil, fmt.Errorf("read hand-overs: %w", err)
		}
		hs = append(hs, h)
	}
	return hs, nil
}

// commitmentText is the form of a commitment in auth.PeerEntry.
func commitmentText(c [32]byte) string { return commitmentMark + hex.EncodeToString(c[:]) }

const commitmentMark = "sha256:"

func parseCommitment(text string) (c [32]byte, ok bool) {
	digits, found := strings.CutPrefix(text, commitmentMark)
	raw, err := hex.DecodeString(digits)
	if !found || err != nil || len(raw) != len(c) {
		return c, false
	}
	return [32]byte(raw), true
}
