package discovery

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
)

// ProtocolID names the stream protocol by which relays take and give address
// records, one round trip each (SPEC.md).
const ProtocolID protocol.ID = "/alknet/addr"

const (
	addrVersion  = 1
	addrTimeout  = 10 * time.Second // for one request and its answer
	addrRequests = 64               // on one stream

	addrStreams        = 512 // inbound, in all
	addrStreamsPerPeer = 8   // inbound, of one peer
	// addrOpens and addrOpensPerPeer bound the signatures checked for others,
	// a second.
	addrOpens        = 500
	addrOpensPerPeer = 10
	addrOpensBurst   = 50 // of one peer

	maxAddrMessage = 2 + MaxRecordBytes // version, type, body
)

// Message types. A request is answered by exactly one of the others.
const (
	addrGet      = 1 // request: 32 key bytes
	addrPut      = 2 // request: envelope
	addrFound    = 3 // envelope; to a put: the newer record that is held
	addrNotFound = 4
	addrStored   = 5
	addrRefused  = 6 // one byte, the reason

	addrGetHandOver = 7 // request: 32 bytes, the commitment; answered as addrGet
	addrPutHandOver = 8 // request: a sealed hand-over; answered as addrPut
)

// Reasons in addrRefused.
const (
	refusedMalformed = 1
	refusedSigner    = 2
	refusedNetwork   = 3
	refusedAhead     = 4
	refusedExpired   = 5
	refusedBusy      = 6
)

// ErrRefused: the other side did not take a record or answer a request.
var ErrRefused = errors.New("refused by the other side")

// dhtForOthers is what a relay does in its DHT for those who ask it.
type dhtForOthers interface {
	// lookup calls found for every value under key that is better than those
	// before, until the search or ctx is over.
	lookup(ctx context.Context, key string, found func(raw []byte)) error
	// deposit puts a value; an error when no other server could be asked.
	deposit(ctx context.Context, v value) error
}

// addrServer answers ProtocolID from a table and, with a DHT, looks up there
// what the table lacks and puts there what it is given. Close ends its streams
// and returns after the last.
type addrServer struct {
	network  string
	now      func() time.Time
	log      *slog.Logger
	table    *table
	puts     *limiter
	linked   func(peer.ID) bool
	lookups  *lookups  // nil without a DHT
	deposits *deposits // nil without a DHT

	mu      sync.Mutex
	closed  bool
	streams map[network.Stream]peer.ID
	perPeer map[peer.ID]int
	wg      sync.WaitGroup
}

// newAddrServer makes a server; without dht it knows what it is given and no
// more. linked says which peers have a connection to this node.
func newAddrServer(networkName string, now func() time.Time, log *slog.Logger, dht dhtForOthers, linked func(peer.ID) bool) *addrServer {
	s := &addrServer{
		network: networkName,
		now:     now,
		log:     log,
		table:   newTable(tableEntries, tableBytes),
		puts:    newLimiter(addrOpens, addrOpensPerPeer, addrOpensBurst),
		linked:  linked,
		streams: make(map[network.Stream]peer.ID),
		perPeer: make(map[peer.ID]int),
	}
	if dht != nil {
		s.lookups = newLookups(networkName, now, log, dht.lookup, func(v value) { s.table.put(v, now()) })
		s.deposits = startDeposits(log, dht.deposit)
	}
	return s
}

// handle is the libp2p stream handler.
func (s *addrServer) handle(stream network.Stream) {
	if !s.begin(stream) {
		_ = stream.Reset()
		return
	}
	defer s.end(stream)
	if err := s.serve(stream.Conn().RemotePeer(), stream); err != nil {
		s.log.Debug("address requests ended", "peer", stream.Conn().RemotePeer(), "err", err)
		_ = stream.Reset()
		return
	}
	_ = stream.Close()
}

func (s *addrServer) begin(stream network.Stream) bool {
	p := stream.Conn().RemotePeer()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.streams) >= addrStreams || s.perPeer[p] >= addrStreamsPerPeer {
		return false
	}
	s.streams[stream] = p
	s.perPeer[p]++
	s.wg.Add(1)
	return true
}

func (s *addrServer) end(stream network.Stream) {
	s.mu.Lock()
	p := s.streams[stream]
	delete(s.streams, stream)
	if s.perPeer[p]--; s.perPeer[p] == 0 {
		delete(s.perPeer, p)
	}
	s.mu.Unlock()
	s.wg.Done()
}

// Close resets the streams and waits for their handlers, and for what goes on
// in the DHT.
func (s *addrServer) Close() {
	s.mu.Lock()
	s.closed = true
	for stream := range s.streams {
		_ = stream.Reset()
	}
	s.mu.Unlock()
	if s.lookups != nil {
		s.lookups.Close()
		s.deposits.Close()
	}
	s.wg.Wait()
}

// deadlineStream is what serving and asking need of a stream.
type deadlineStream interface {
	io.ReadWriter
	SetDeadline(time.Time) error
}

// serve answers the requests of p until the stream ends; nil when it ended
// cleanly.
func (s *addrServer) serve(p peer.ID, stream deadlineStream) error {
	var buf [2 + maxAddrMessage]byte
	for range addrRequests {
		// A real clock: deadlines of streams know no other.
		if err := stream.SetDeadline(time.Now().Add(addrTimeout)); err != nil {
			return err
		}
		kind, body, err := readAddrMessage(stream, &buf)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		kind, body = s.answer(p, kind, body)
		// The request may have come late, and a search taken its time.
		if err := stream.SetDeadline(time.Now().Add(addrTimeout)); err != nil {
			return err
		}
		if _, err := stream.Write(addrMessage(kind, body)); err != nil {
			return err
		}
	}
	return nil
}

// answer serves one request of p.
func (s *addrServer) answer(p peer.ID, kind byte, body []byte) (byte, []byte) {
	switch kind {
	case addrGet:
		if len(body) != 32 {
			return addrRefused, []byte{refusedMalformed}
		}
		return s.get(p, RecordKey(peerOf(body)), peerOf(body))
	case addrGetHandOver:
		if len(body) != 32 {
			return addrRefused, []byte{refusedMalformed}
		}
		return s.get(p, handOverKey([32]byte(body)), "")
	case addrPut, addrPutHandOver:
		// Who carries it does not matter: it must speak for itself.
		if !s.puts.allow(p) {
			return addrRefused, []byte{refusedBusy}
		}
		v, err := s.open(kind, body)
		if err != nil {
			return addrRefused, []byte{refusalOf(err)}
		}
		if newer := s.table.put(v, s.now()); newer != nil {
			return addrFound, newer
		}
		if s.deposits != nil {
			s.deposits.add(p, v)
		}
		return addrStored, nil
	default:
		return addrRefused, []byte{refusedMalformed}
	}
}

// open checks what is to be put.
func (s *addrServer) open(kind byte, body []byte) (value, error) {
	if kind == addrPut {
		r, err := openAnyRecord(body, s.network, s.now())
		if err != nil {
			return value{}, err
		}
		return r.value(), nil
	}
	h, err := OpenHandOver(body)
	if err != nil {
		return value{}, err
	}
	if err := h.checkClock(s.now()); err != nil {
		return value{}, err
	}
	return h.value(), nil
}

// get answers asker's question for what stands under key, the record of p if p
// is not "".
func (s *addrServer) get(asker peer.ID, key string, p peer.ID) (byte, []byte) {
	raw := s.table.get(key, s.now())
	switch {
	case s.lookups == nil:
	case raw == nil:
		err := s.lookups.find(asker, key)
		// A put may have come meanwhile, whatever became of the search.
		if raw = s.table.get(key, s.now()); raw == nil && err != nil {
			return addrRefused, []byte{refusedBusy}
		}
	case p != "" && !s.linked(p):
		// It may have moved to other relays: those who ask again, because it
		// could not be reached, get what is found now.
		_, _ = s.lookups.start(asker, key)
	}
	if raw == nil {
		return addrNotFound, nil
	}
	return addrFound, raw
}

// addrClient asks others by ProtocolID. open opens a stream to a peer.
type addrClient struct {
	network string
	now     func() time.Time
	open    func(context.Context, peer.ID) (network.Stream, error)
}

// get asks relay for the record of p; nil without an error if it has none.
func (c *addrClient) get(ctx context.Context, relay, p peer.ID) (*Record, error) {
	key, err := rawKey(p)
	if err != nil {
		return nil, err
	}
	kind, body, err := c.ask(ctx, relay, addrGet, key)
	if err != nil {
		return nil, err
	}
	switch kind {
	case addrFound:
		return OpenRecord(body, c.network, p, c.now())
	case addrNotFound:
		return nil, nil
	default:
		return nil, answerError(kind, body)
	}
}

// put gives r to relay; newer is the record of the same key the relay holds
// instead, if it does.
func (c *addrClient) put(ctx context.Context, relay peer.ID, r *Record) (newer *Record, err error) {
	kind, body, err := c.ask(ctx, relay, addrPut, r.envelope)
	if err != nil {
		return nil, err
	}
	switch kind {
	case addrStored:
		return nil, nil
	case addrFound:
		held, err := OpenRecord(body, c.network, r.Peer, c.now())
		if err != nil {
			return nil, err
		}
		if !held.Newer(r) {
			return nil, fmt.Errorf("%w: answered a put with an older record", ErrMalformed)
		}
		return held, nil
	default:
		return nil, answerError(kind, body)
	}
}

// getHandOver asks relay for the hand-over to the key behind commitment; nil
// without an error if it has none.
func (c *addrClient) getHandOver(ctx context.Context, relay peer.ID, commitment [32]byte) (*HandOver, error) {
	kind, body, err := c.ask(ctx, relay, addrGetHandOver, commitment[:])
	if err != nil {
		return nil, err
	}
	switch kind {
	case addrFound:
		return openCommitted(body, commitment)
	case addrNotFound:
		return nil, nil
	default:
		return nil, answerError(kind, body)
	}
}

// putHandOver gives h to relay.
func (c *addrClient) putHandOver(ctx context.Context, relay peer.ID, h *HandOver) error {
	kind, body, err := c.ask(ctx, relay, addrPutHandOver, h.sealed)
	if err != nil {
		return err
	}
	if kind == addrStored || kind == addrFound {
		return nil
	}
	return answerError(kind, body)
}

// ask makes one request on a stream of its own and returns the answer.
func (c *addrClient) ask(ctx context.Context, relay peer.ID, kind byte, body []byte) (byte, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, addrTimeout)
	defer cancel()
	stream, err := c.open(ctx, relay)
	if err != nil {
		return 0, nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = stream.Reset() })
	defer stop()
	kind, body, err = exchange(stream, kind, body)
	if err != nil {
		_ = stream.Reset()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return 0, nil, fmt.Errorf("ask for addresses: %w", err)
	}
	_ = stream.Close()
	return kind, body, nil
}

func exchange(stream deadlineStream, kind byte, body []byte) (byte, []byte, error) {
	if err := stream.SetDeadline(time.Now().Add(addrTimeout)); err != nil {
		return 0, nil, err
	}
	if _, err := stream.Write(addrMessage(kind, body)); err != nil {
		return 0, nil, err
	}
	var buf [2 + maxAddrMessage]byte
	kind, body, err := readAddrMessage(stream, &buf)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return kind, body, err
}

// answerError is the error for an answer that is neither of those expected.
func answerError(kind byte, body []byte) error {
	if kind != addrRefused || len(body) != 1 {
		return fmt.Errorf("%w: answer of type %d", ErrMalformed, kind)
	}
	if all := refusals(); body[0] > 0 && int(body[0]) < len(all) {
		return fmt.Errorf("%w: %w", ErrRefused, all[body[0]])
	}
	return fmt.Errorf("%w: reason %d", ErrRefused, body[0])
}

// refusalOf is the reason byte for an error of OpenRecord.
func refusalOf(err error) byte {
	for reason, e := range refusals() {
		if e != nil && errors.Is(err, e) {
			return byte(reason)
		}
	}
	return refusedMalformed
}

// refusals holds the error for each reason; no error matches two of them.
func refusals() []error {
	return []error{
		refusedMalformed: ErrMalformed,
		refusedSigner:    ErrWrongSigner,
		refusedNetwork:   ErrWrongNetwork,
		refusedAhead:     ErrRecordAhead,
		refusedExpired:   ErrRecordExpired,
		refusedBusy:      errBusy,
	}
}

var errBusy = errors.New("too many requests")

// addrMessage is one message: u16 length of the rest, version, type, body.
func addrMessage(kind byte, body []byte) []byte {
	b := make([]byte, 0, 4+len(body))
	b = binary.BigEndian.AppendUint16(b, uint16(2+len(body)))
	b = append(b, addrVersion, kind)
	return append(b, body...)
}

// readAddrMessage reads one message into buf; body is valid until buf is used
// again. The error is io.EOF when r ended before the first byte.
func readAddrMessage(r io.Reader, buf *[2 + maxAddrMessage]byte) (kind byte, body []byte, err error) {
	if _, err := io.ReadFull(r, buf[:2]); err != nil {
		return 0, nil, err
	}
	n := int(binary.BigEndian.Uint16(buf[:2]))
	if n < 2 || n > maxAddrMessage {
		return 0, nil, fmt.Errorf("%w: message of %d bytes", ErrMalformed, n)
	}
	if _, err := io.ReadFull(r, buf[2:2+n]); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	if buf[2] != addrVersion {
		return 0, nil, fmt.Errorf("%w: message version %d is not known", ErrMalformed, buf[2])
	}
	return buf[3], buf[4 : 2+n], nil
}
