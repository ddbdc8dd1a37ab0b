package discovery

import (
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"strings"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"golang.org/x/crypto/cryptobyte"
)

// MaxTicketBytes bounds the binary form of a ticket, checksum included.
const MaxTicketBytes = 2048

const (
	ticketPrefix   = "alk1"
	ticketVersion  = 1
	ticketSumBytes = 4
)

// Errors of ParseTicket besides ErrMalformed, matched with errors.Is.
var (
	// ErrTicketTypo: the text has the form of a ticket but its checksum does
	// not fit; a letter was lost or changed.
	ErrTicketTypo = errors.New("ticket is mistyped or cut off")
	// ErrTicketVersion: the ticket was made by a newer program.
	ErrTicketVersion = errors.New("ticket has a version this program does not know")
)

// Ticket says by hand what a record says through the network: whom to dial and
// where (PATH-39). It grants nothing. The zero value is not a valid ticket.
type Ticket struct {
	Network string          // see CheckNetwork
	Peer    peer.ID         // an Ed25519 key
	Relays  []peer.AddrInfo // at most MaxRelays, best first
	Addrs   []ma.Multiaddr  // at most MaxAddrs, best first
}

// NewTicket makes a ticket of what fits of relays and addrs (see Trim), so that
// only a bad network name or a peer ID without an Ed25519 key is an error.
func NewTicket(network string, p peer.ID, relays []peer.AddrInfo, addrs []ma.Multiaddr) (*Ticket, error) {
	relays, addrs = Trim(relays, addrs)
	for {
		t := &Ticket{Network: network, Peer: p, Relays: relays, Addrs: addrs}
		_, err := t.encode()
		if !errors.Is(err, errTicketSize) {
			return t, err
		}
		relays, addrs = shrink(relays, addrs)
	}
}

// ParseTicket reads the text form. It is strict: each ticket has exactly one
// spelling, in lower case, with nothing around it.
func ParseTicket(text string) (*Ticket, error) {
	code, ok := strings.CutPrefix(text, ticketPrefix)
	if !ok {
		return nil, fmt.Errorf("%w: a ticket begins with %s", ErrMalformed, ticketPrefix)
	}
	if len(code) > ticketEncoding.EncodedLen(MaxTicketBytes) {
		return nil, fmt.Errorf("%w: ticket is too long", ErrMalformed)
	}
	// The decoder skips line breaks and ignores spare bits; the second spelling
	// of a ticket that would allow is refused by encoding again.
	b, err := ticketEncoding.DecodeString(code)
	if err != nil {
		return nil, fmt.Errorf("%w: ticket has a letter other than a-z and 2-7", ErrMalformed)
	}
	if ticketEncoding.EncodeToString(b) != code || len(b) <= ticketSumBytes {
		return nil, ErrTicketTypo
	}
	body, sum := b[:len(b)-ticketSumBytes], b[len(b)-ticketSumBytes:]
	if want := ticketSum(body); string(sum) != string(want[:]) {
		return nil, ErrTicketTypo
	}
	return decodeTicket(body)
}

// String returns the text form, or "" when the ticket is not valid.
func (t *Ticket) String() string {
	b, err := t.encode()
	if err != nil {
		return ""
	}
	return ticketPrefix + ticketEncoding.EncodeToString(b)
}

// MarshalText implements encoding.TextMarshaler.
func (t *Ticket) MarshalText() ([]byte, error) {
	b, err := t.encode()
	if err != nil {
		return nil, err
	}
	return []byte(ticketPrefix + ticketEncoding.EncodeToString(b)), nil
}

// UnmarshalText implements encoding.TextUnmarshaler; see ParseTicket.
func (t *Ticket) UnmarshalText(text []byte) error {
	p, err := ParseTicket(string(text))
	if err != nil {
		return err
	}
	*t = *p
	return nil
}

var (
	ticketEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)
	errTicketSize  = fmt.Errorf("ticket is over %d bytes", MaxTicketBytes)
)

// ticketSum is the checksum that tells a typo from a ticket.
func ticketSum(body []byte) (sum [ticketSumBytes]byte) {
	h := sha256.New()
	h.Write([]byte("alknet-ticket"))
	h.Write(body)
	copy(sum[:], h.Sum(nil))
	return sum
}

// encode returns the binary form with its checksum.
func (t *Ticket) encode() ([]byte, error) {
	var b cryptobyte.Builder
	b.AddUint8(ticketVersion)
	addNetwork(&b, t.Network)
	addKey(&b, t.Peer)
	addRelays(&b, t.Relays)
	addAddrs(&b, t.Addrs, MaxAddrs)
	body, err := b.Bytes()
	if err != nil {
		return nil, fmt.Errorf("encode ticket: %w", err)
	}
	if len(body)+ticketSumBytes > MaxTicketBytes {
		return nil, errTicketSize
	}
	sum := ticketSum(body)
	return append(body, sum[:]...), nil
}

// decodeTicket reads the binary form without its checksum.
func decodeTicket(body []byte) (*Ticket, error) {
	s := cryptobyte.String(body)
	var version uint8
	if !s.ReadUint8(&version) {
		return nil, errShort
	}
	if version != ticketVersion {
		return nil, fmt.Errorf("%w (%d)", ErrTicketVersion, version)
	}
	var (
		t   Ticket
		err error
	)
	if t.Network, err = readNetwork(&s); err != nil {
		return nil, err
	}
	if t.Peer, err = readKey(&s); err != nil {
		return nil, err
	}
	if t.Relays, err = readRelays(&s); err != nil {
		return nil, err
	}
	if t.Addrs, err = readAddrs(&s, MaxAddrs); err != nil {
		return nil, err
	}
	if !s.Empty() {
		return nil, fmt.Errorf("%w: bytes after the end", ErrMalformed)
	}
	return &t, nil
}

// shrink drops the least wanted address of a ticket or record that is too
// large: the last of the longest list.
func shrink(relays []peer.AddrInfo, addrs []ma.Multiaddr) ([]peer.AddrInfo, []ma.Multiaddr) {
	longest := -1
	for i, r := range relays {
		if len(r.Addrs) > len(addrs) && (longest < 0 || len(r.Addrs) > len(relays[longest].Addrs)) {
			longest = i
		}
	}
	if longest < 0 {
		return relays, addrs[:len(addrs)-1]
	}
	r := &relays[longest]
	r.Addrs = r.Addrs[:len(r.Addrs)-1]
	return relays, addrs
}
