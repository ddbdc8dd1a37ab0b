// Package magic is a libp2p transport whose connections do not break when the
// way between two peers changes.
//
// Peers are dialled by key alone, at the address /alknet. There is one QUIC
// connection per peer, with libp2p's own TLS identity, over the magic socket
// (package socket): each packet takes the best path there is at that moment, a
// relay at first, so that the first byte never waits. Streams, and all that is
// built on them, never notice a change of path.
//
// It is one option for any libp2p program, beside the stock transports:
//
//	t, err := magic.New(magic.Config{Socket: sock, Find: find})
//	h, err := libp2p.New(libp2p.Transport(t.Constructor), libp2p.ListenAddrs(magic.Addr, …))
package magic

import (
	"context"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/transport"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/quic-go/quic-go"

	"github.com/alkdev/alknet-p2p/transport/magic/socket"
	"github.com/alkdev/alknet-p2p/transport/relay"
)

// ErrUnreachable is returned by Dial when nothing is left to wait for: nobody
// knows where the peer is, or no relay that should know it does.
var ErrUnreachable = errors.New("peer unreachable")

// Config of a Transport. Key and Socket are required.
type Config struct {
	// Key is the node key; the socket's.
	Key ed25519.PrivateKey
	// Socket carries the packets. The Transport closes it.
	Socket *socket.Socket
	// Find looks up where a peer is and names every relay that may forward to
	// it as soon as it is known; it returns when there is nothing more to
	// find, or ctx ends. Relays this node is linked to are tried without it.
	Find func(ctx context.Context, p peer.ID, found func(via peer.ID))
	// Logger is silent when nil.
	Logger *slog.Logger
}

// Transport is the magic transport. All methods are safe for concurrent use.
type Transport struct {
	cfg      Config
	self     peer.ID
	selfKey  crypto.PrivKey
	identity *libp2ptls.Identity
	gater    connmgr.ConnectionGater
	rcmgr    network.ResourceManager
	quic     *quic.Transport
	second   *quic.Transport // to which connections migrate, once
	log      *slog.Logger

	accepted chan transport.CapableConn
	done     chan struct{}
	closing  sync.Once
	wg       sync.WaitGroup
	mu       sync.Mutex
	listener *listener
}

var _ transport.Transport = (*Transport)(nil)

// New makes the transport for one node. Give its Constructor to
// libp2p.Transport.
func New(cfg Config) (*Transport, error) {
	if cfg.Socket == nil || len(cfg.Key) != ed25519.PrivateKeySize {
		return nil, errors.New("magic transport: key and socket are required")
	}
	key, err := crypto.UnmarshalEd25519PrivateKey(append([]byte(nil), cfg.Key...))
	if err != nil {
		return nil, fmt.Errorf("magic transport: %w", err)
	}
	self, err := peer.IDFromPrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("magic transport: %w", err)
	}
	identity, err := libp2ptls.NewIdentity(key)
	if err != nil {
		return nil, fmt.Errorf("magic transport: %w", err)
	}
	reset, err := resetKey(cfg.Key)
	if err != nil {
		return nil, fmt.Errorf("magic transport: %w", err)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Transport{
		cfg: cfg, self: self, selfKey: key, identity: identity, log: cfg.Logger,
		quic:     &quic.Transport{Conn: cfg.Socket.PacketConn(), StatelessResetKey: reset},
		second:   &quic.Transport{Conn: cfg.Socket.Second(), StatelessResetKey: reset},
		accepted: make(chan transport.CapableConn, 16),
		done:     make(chan struct{}),
	}, nil
}

// Constructor is what libp2p.Transport takes. libp2p also builds a second,
// hidden host with a key of its own for AutoNAT's dial-back; that one gets a
// transport that does nothing (PATH-3).
func (t *Transport) Constructor(key crypto.PrivKey, gater connmgr.ConnectionGater, rcmgr network.ResourceManager) (transport.Transport, error) {
	if !key.Equals(t.selfKey) {
		return inert{}, nil
	}
	if rcmgr == nil {
		rcmgr = &network.NullResourceManager{}
	}
	t.gater, t.rcmgr = gater, rcmgr
	return t, nil
}

// Dial connects to the peer, whatever the way. The packets of the handshake
// take every path known so far and each further one that Find names meanwhile,
// so nothing waits for a look-up that is not needed (PATH-33).
func (t *Transport) Dial(ctx context.Context, _ ma.Multiaddr, p peer.ID) (transport.CapableConn, error) {
	key, err := KeyOf(p)
	if err != nil {
		return nil, err
	}
	scope, err := t.rcmgr.OpenConnection(network.DirOutbound, false, Addr)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", p, err)
	}
	c, err := t.dial(ctx, p, key, scope)
	if err != nil {
		scope.Done()
		return nil, fmt.Errorf("dial %s: %w", p, err)
	}
	return c, nil
}

func (t *Transport) dial(ctx context.Context, p peer.ID, key relay.Key, scope network.ConnManagementScope) (*Conn, error) {
	if err := scope.SetPeer(p); err != nil {
		return nil, err
	}
	addr, release, err := t.cfg.Socket.Dial(key)
	if err != nil {
		return nil, err
	}
	c, err := t.handshake(ctx, p, key, addr)
	if err != nil {
		release()
		return nil, err
	}
	pub, err := p.ExtractPublicKey()
	if err != nil {
		release()
		return nil, err
	}
	cancel := t.cfg.Socket.OnDirect(key, func() { t.startAfresh(c, key) })
	forget := release
	release = func() {
		cancel()
		forget()
	}
	conn := &Conn{quic: c, transport: t, scope: scope, remote: p, remoteKey: pub, outbound: true, release: release}
	if t.gater != nil && !t.gater.InterceptSecured(network.DirOutbound, p, conn) {
		_ = c.CloseWithError(quic.ApplicationErrorCode(network.ConnGated), "")
		release()
		return nil, errors.New("connection gated")
	}
	return conn, nil
}

// handshake runs QUIC's handshake while relays are still being found.
func (t *Transport) handshake(ctx context.Context, p peer.ID, key relay.Key, addr *net.UDPAddr) (*quic.Conn, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)
	wg.Go(func() { t.find(ctx, cancel, p, key) })
	if err := t.cfg.Socket.WaitRoute(ctx, key); err != nil {
		return nil, err
	}
	tlsConf, _ := t.identity.ConfigForPeer(p)
	c, err := t.quic.Dial(ctx, addr, tlsConf, quicConfig())
	if err != nil {
		if cause := context.Cause(ctx); cause != nil && ctx.Err() != nil {
			return nil, cause
		}
		var idle *quic.IdleTimeoutError
		var late *quic.HandshakeTimeoutError
		if errors.As(err, &idle) || errors.As(err, &late) {
			return nil, fmt.Errorf("%w: it does not answer", ErrUnreachable)
		}
		return nil, parseError(err)
	}
	return c, nil
}

// find feeds the socket with relays for the peer, and ends the dial when none
// of them is any use and no more will come.
func (t *Transport) find(ctx context.Context, cancel context.CancelCauseFunc, p peer.ID, key relay.Key) {
	var links sync.WaitGroup
	defer links.Wait()
	if t.cfg.Find != nil {
		t.cfg.Find(ctx, p, func(via peer.ID) {
			k, err := KeyOf(via)
			if err != nil {
				return
			}
			links.Go(func() {
				if err := t.cfg.Socket.AddRelay(ctx, key, k); err != nil {
					t.log.Debug("relay of a peer not usable", "peer", p, "relay", via, "err", err)
				}
			})
		})
	}
	links.Wait()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for hopeless := 0; hopeless < 3; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if t.cfg.Socket.Hopeless(key) {
			hopeless++
		} else {
			hopeless = 0
		}
	}
	cancel(ErrUnreachable)
}

// Offer hands a connection that was dialled here to the swarm. The swarm opens
// no second connection to a peer it has one to, so the host dials by itself
// and brings the result in through the listener (PATH-4).
func (t *Transport) Offer(ctx context.Context, c transport.CapableConn) error {
	select {
	case t.accepted <- c:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.done:
		return transport.ErrListenerClosed
	}
}

// CanDial tells that only /alknet is dialled here.
func (t *Transport) CanDial(a ma.Multiaddr) bool { return IsAddr(a) && len(a) == 1 }

// Protocols lists the one address protocol of this transport.
func (t *Transport) Protocols() []int { return []int{Code} }

// Proxy is false: the connection is end to end.
func (t *Transport) Proxy() bool { return false }

// Close ends the transport, its connections and its socket. libp2p calls it.
func (t *Transport) Close() error {
	var err error
	t.closing.Do(func() {
		close(t.done)
		t.mu.Lock()
		l := t.listener
		t.mu.Unlock()
		if l != nil {
			_ = l.Close()
		}
		err = errors.Join(t.second.Close(), t.quic.Close(), t.cfg.Socket.Close())
		t.wg.Wait()
	})
	return err
}

// Listen starts accepting; there is one listener at a time.
func (t *Transport) Listen(a ma.Multiaddr) (transport.Listener, error) {
	if !t.CanDial(a) {
		return nil, fmt.Errorf("magic transport: cannot listen on %s", a)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.listener != nil {
		return nil, errors.New("magic transport: already listening")
	}
	ql, err := t.quic.Listen(t.serverTLS(), quicConfig())
	if err != nil {
		return nil, fmt.Errorf("magic transport: %w", err)
	}
	l := &listener{t: t, quic: ql, closed: make(chan struct{})}
	t.listener = l
	t.wg.Go(l.run)
	return l, nil
}

func (t *Transport) serverTLS() *tls.Config {
	return &tls.Config{
		NextProtos: []string{"libp2p"},
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			conf, _ := t.identity.ConfigForPeer("")
			return conf, nil
		},
	}
}

// inbound checks that a connection comes from the key its packets were
// attributed to, and wraps it.
func (t *Transport) inbound(qc *quic.Conn) (*Conn, error) {
	pub, err := libp2ptls.PubKeyFromCertChain(qc.ConnectionState().TLS.PeerCertificates)
	if err != nil {
		return nil, err
	}
	remote, err := peer.IDFromPublicKey(pub)
	if err != nil {
		return nil, err
	}
	key, release, err := t.cfg.Socket.Pin(qc.RemoteAddr())
	if err != nil {
		return nil, err
	}
	proven, err := keyOfPublic(pub)
	if err != nil || proven != key {
		release()
		return nil, errors.New("the connection's key is not the one its packets came under")
	}
	scope, err := t.rcmgr.OpenConnection(network.DirInbound, false, Addr)
	if err != nil {
		release()
		return nil, err
	}
	c := &Conn{quic: qc, transport: t, scope: scope, remote: remote, remoteKey: pub, release: release}
	if err := scope.SetPeer(remote); err != nil {
		_ = c.Close()
		return nil, err
	}
	if t.gater != nil && (!t.gater.InterceptAccept(c) || !t.gater.InterceptSecured(network.DirInbound, remote, c)) {
		_ = c.CloseWithError(network.ConnGated)
		return nil, errors.New("connection gated")
	}
	return c, nil
}

// listener is what the swarm accepts from.
type listener struct {
	t       *Transport
	quic    *quic.Listener
	closing sync.Once
	closed  chan struct{}
}

func (l *listener) run() {
	for {
		qc, err := l.quic.Accept(context.Background())
		if err != nil {
			return
		}
		c, err := l.t.inbound(qc)
		if err != nil {
			l.t.log.Debug("inbound connection refused", "err", err)
			_ = qc.CloseWithError(quic.ApplicationErrorCode(network.ConnGated), "")
			continue
		}
		select {
		case l.t.accepted <- c:
		case <-l.closed:
			_ = c.Close()
			return
		}
	}
}

// Accept implements transport.Listener.
func (l *listener) Accept() (transport.CapableConn, error) {
	select {
	case c := <-l.t.accepted:
		return c, nil
	case <-l.closed:
		return nil, transport.ErrListenerClosed
	}
}

// Close implements transport.Listener.
func (l *listener) Close() error {
	l.closing.Do(func() {
		close(l.closed)
		_ = l.quic.Close()
		l.t.mu.Lock()
		l.t.listener = nil
		l.t.mu.Unlock()
	})
	return nil
}

// Addr implements transport.Listener.
func (l *listener) Addr() net.Addr { return l.quic.Addr() }

// Multiaddr implements transport.Listener.
func (l *listener) Multiaddr() ma.Multiaddr { return Addr }

// inert stands in the hidden host of AutoNAT's dial-back.
type inert struct{}

func (inert) Dial(context.Context, ma.Multiaddr, peer.ID) (transport.CapableConn, error) {
	return nil, errors.New("magic transport: not available to this host")
}
func (inert) CanDial(ma.Multiaddr) bool { return false }
func (inert) Listen(ma.Multiaddr) (transport.Listener, error) {
	return nil, errors.New("magic transport: not available to this host")
}
func (inert) Protocols() []int { return []int{Code} }
func (inert) Proxy() bool      { return false }

// quicConfig is used on both sides (PATH-2). Packets are of one size from the
// first on: the socket sees to it that every path carries them (PATH-9). A peer that is gone without a word is missed
// after 20 to 30 s, the keep-alive that got no answer included; shorter times
// would end streams over outages that people sit out.
func quicConfig() *quic.Config {
	return &quic.Config{
		Versions:                   []quic.Version{quic.Version1},
		InitialPacketSize:          socket.MaxPacket,
		DisablePathMTUDiscovery:    true,
		HandshakeIdleTimeout:       10 * time.Second,
		MaxIdleTimeout:             20 * time.Second,
		KeepAlivePeriod:            10 * time.Second,
		MaxIncomingStreams:         256,
		MaxIncomingUniStreams:      -1,
		MaxStreamReceiveWindow:     10 << 20,
		MaxConnectionReceiveWindow: 15 << 20,
	}
}

// resetKey makes the stateless resets of a restarted node valid for the
// connections of its previous life, so that their other ends learn at once.
func resetKey(key ed25519.PrivateKey) (*quic.StatelessResetKey, error) {
	raw, err := hkdf.Key(sha256.New, key.Seed(), nil, "alknet-stateless-reset-v1", 32)
	if err != nil {
		return nil, err
	}
	return (*quic.StatelessResetKey)(raw), nil
}
