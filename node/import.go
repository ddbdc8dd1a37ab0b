package node

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/alkdev/alknet-p2p/protocols/auth"
	"github.com/alkdev/alknet-p2p/protocols/call"
	"github.com/alkdev/alknet-p2p/protocols/call/adapt"
	"github.com/alkdev/alknet-p2p/transport"
)

const (
	importTimeout  = 30 * time.Second // to ask a peer what it offers
	importDelay    = time.Second      // before the next attempt, growing
	maxImportDelay = time.Minute
)

// Import keeps the operations of a peer imported: when a session with it
// begins, and again at each session after that, whichever side opens it. Close
// ends it; its methods may be called concurrently.
type Import struct {
	n      *Node
	target string
	cfg    adapt.FromCallConfig
	cancel context.CancelFunc
	wg     sync.WaitGroup

	importing sync.Mutex // one import at a time

	mu      sync.Mutex
	session *call.Session // of the last import
	err     error         // of the last import; nil when it went well
	changed chan struct{} // closed, and replaced, with each import
}

// Import imports the operations that a peer offers to this node, so that
// handlers may invoke them at that peer (CALL-91), and keeps them imported. A
// target is what it is for Open; a named peer is imported under whichever of
// its keys it comes, one given by its key is reached as a stranger is, by the
// UUID of its session (CALL-75), unless the registry names it.
//
// It needs a started node, dials the peer until there is a session, and returns
// at once: Ready waits. Close of the node ends it too.
func (n *Node) Import(target string, cfg adapt.FromCallConfig) (*Import, error) {
	ctx, cancel := context.WithCancel(context.Background())
	im := &Import{n: n, target: target, cfg: cfg, cancel: cancel, changed: make(chan struct{})}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed || n.router.Load() == nil {
		cancel()
		return nil, transport.ErrClosed
	}
	t, err := n.resolve(target)
	if err != nil {
		cancel()
		return nil, err
	}
	n.imports = append(n.imports, im)
	im.wg.Go(func() { im.dial(ctx, t.name == "") })
	if t.name != "" {
		im.wg.Go(func() { im.follow(ctx, t.name) })
	}
	return im, nil
}

// Ready returns when the operations are imported from a session that lives, or
// ctx ends; the error is then that of the last attempt, if there was one.
func (im *Import) Ready(ctx context.Context) error {
	for {
		im.mu.Lock()
		s, err, changed := im.session, im.err, im.changed
		im.mu.Unlock()
		if s != nil && err == nil && alive(s) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		}
	}
}

// Refresh asks the peer anew what it offers, in the session there is.
func (im *Import) Refresh(ctx context.Context) error {
	im.mu.Lock()
	s := im.session
	im.mu.Unlock()
	if s == nil || !alive(s) {
		return call.ErrSessionClosed
	}
	return im.take(ctx, s)
}

// Close ends the import; what is imported stays as long as its session. It may
// be called again, and its result is always nil.
func (im *Import) Close() error {
	im.cancel()
	im.wg.Wait()
	return nil
}

// dial keeps a session with the peer, of which it takes the operations itself
// if nobody else does.
func (im *Import) dial(ctx context.Context, takes bool) {
	delay := importDelay
	for ctx.Err() == nil {
		attempt, cancel := context.WithTimeout(ctx, importTimeout)
		s, err := im.n.CallSession(attempt, im.target)
		cancel()
		if err == nil {
			delay = importDelay
			if takes {
				im.retry(ctx, s)
			}
			select {
			case <-s.Done():
			case <-ctx.Done():
			}
			continue
		}
		im.n.log.Debug("peer to import from not reached", "peer", im.target, "err", err)
		delay = im.pause(ctx, delay)
	}
}

// follow takes the operations of each session with the peer, under whatever
// key.
func (im *Import) follow(ctx context.Context, name auth.PeerName) {
	var last *call.Session
	for {
		s, err := im.n.calls.Await(ctx, name, last)
		if err != nil {
			return
		}
		last = s
		im.retry(ctx, s)
	}
}

// retry imports from a session until it works or the session ends.
func (im *Import) retry(ctx context.Context, s *call.Session) {
	for delay := importDelay; alive(s) && ctx.Err() == nil; delay = im.pause(ctx, delay) {
		attempt, cancel := context.WithTimeout(ctx, importTimeout)
		err := im.take(attempt, s)
		cancel()
		if err == nil {
			return
		}
		im.n.log.Warn("operations not imported", "peer", im.target, "err", err)
	}
}

// take imports the operations of a session, in place of what it had.
func (im *Import) take(ctx context.Context, s *call.Session) error {
	im.importing.Lock()
	defer im.importing.Unlock()
	ops, err := adapt.FromCall(ctx, s, im.cfg)
	if err == nil {
		err = s.RegisterImported(ops...)
	}
	im.mu.Lock()
	defer im.mu.Unlock()
	im.session, im.err = s, err
	close(im.changed)
	im.changed = make(chan struct{})
	return err
}

// pause waits and returns the next delay.
func (im *Import) pause(ctx context.Context, delay time.Duration) time.Duration {
	select {
	case <-time.After(delay):
	case <-ctx.Done():
	}
	return min(2*delay, maxImportDelay)
}

func alive(s *call.Session) bool {
	select {
	case <-s.Done():
		return false
	default:
		return true
	}
}

// rttOf tells the round trip to a peer for call.RouteLowestRTT.
func rttOf(host *transport.Host) func(auth.Context) time.Duration {
	return func(c auth.Context) time.Duration {
		p, err := auth.PeerFromFingerprint(c.Fingerprint)
		if err != nil {
			return 0
		}
		return host.Path(p).RTT
	}
}
