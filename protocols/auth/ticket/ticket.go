// Package ticket makes and redeems capability tickets: a node's own signed
// leave to call named operations, handed to somebody whose key it need not
// know.
//
// A ticket is text that its holder sends as the token of a request, or at the
// door of a node that admits no strangers (package admit). It names the one
// node and network it is for, the operations it opens, the scopes that come
// with it, and when it ends; it belongs to the first key that brings it, unless
// it is a bearer ticket, and may be good for one use only. Whoever issues it
// records it in the node's [Ledger]: what is not on record there is void,
// whatever its signature, so that a lost ledger revokes all tickets and never
// makes a used one good again. The bytes are in SPEC.md.
package ticket

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base32"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/cryptobyte"

	"github.com/alkdev/alknet-p2p/protocols/auth"
)

const (
	// Mark begins the text of every capability ticket.
	Mark = "alkt1"
	// MaxBytes bounds the binary form, signature included.
	MaxBytes = 620
	// MaxText bounds the text form.
	MaxText = len(Mark) + (MaxBytes*8+4)/5

	version    = 1
	domain     = "alknet-ticket"
	maxNetwork = 32
	maxList    = 32
	maxName    = 255
	flagOnce   = 1 << 0
	flagBearer = 1 << 1
)

// Errors of a ticket, matched with errors.Is. Their texts are for the node's
// own log: whoever brought the ticket is only told that it is not accepted.
var (
	// ErrMalformed: the text is no ticket, or not in its one spelling.
	ErrMalformed = errors.New("not a capability ticket")
	// ErrForged: the signature is not that of the node the ticket is for; or
	// a letter was changed.
	ErrForged = errors.New("ticket is mistyped or forged")
	// ErrElsewhere: the ticket is for another node or network.
	ErrElsewhere = errors.New("ticket is for another node or network")
	// ErrUnknown: the ticket is not on record.
	ErrUnknown = errors.New("ticket is not on record")
	// ErrExpired: its time is over.
	ErrExpired = errors.New("ticket has expired")
	// ErrRevoked: it was taken back.
	ErrRevoked = errors.New("ticket was revoked")
	// ErrUsed: it was good for one use and has been used.
	ErrUsed = errors.New("ticket was used already")
	// ErrOtherKey: another key brought it first.
	ErrOtherKey = errors.New("ticket belongs to another key")
)

// ID names a ticket, in the ledger and in logs; it is no secret.
type ID [16]byte

// String is 32 hex digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// ParseID reads what String writes.
func ParseID(text string) (ID, error) {
	var id ID
	if len(text) != 2*len(id) || strings.Trim(text, "0123456789abcdef") != "" {
		return id, errors.New("a ticket's id is 32 lower-case hex digits")
	}
	_, err := hex.Decode(id[:], []byte(text))
	return id, err
}

// Terms are what a ticket grants.
type Terms struct {
	// Network the node is in: 1 to 32 of a-z, 0-9 and hyphens.
	Network string
	// Scopes that come with the ticket; at most 32, and with Only no more than
	// fits in MaxBytes.
	Scopes []string
	// Only are the operations it opens, 1 to 32, each of at most 255 bytes.
	Only []string
	// Expires, in whole seconds: from then on it is void.
	Expires time.Time
	// Once makes it good for one call.
	Once bool
	// Bearer lets any key use it; else it belongs to the first that brings it.
	Bearer bool
}

// Ticket is one that was issued or read.
type Ticket struct {
	Terms
	// ID is drawn at random when it is issued.
	ID ID
	// Audience is the node it is for, which signed it.
	Audience ed25519.PublicKey
}

// Sign makes a ticket for the node whose key this is. The token is the ticket
// itself, to be shown once; it is void until Ledger.Record has it on record.
func Sign(key ed25519.PrivateKey, terms Terms) (*Ticket, auth.Token, error) {
	if len(key) != ed25519.PrivateKeySize {
		return nil, auth.Token{}, errors.New("sign ticket: no key")
	}
	audience, _ := key.Public().(ed25519.PublicKey)
	t := &Ticket{Terms: terms, Audience: audience}
	t.Scopes, t.Only = slices.Clone(terms.Scopes), slices.Clone(terms.Only)
	t.Expires = time.Unix(terms.Expires.Unix(), 0)
	rand.Read(t.ID[:]) // never fails, says its documentation
	body, err := t.body()
	if err != nil {
		return nil, auth.Token{}, fmt.Errorf("sign ticket: %w", err)
	}
	return t, auth.TokenFromText(seal(key, body)), nil
}

// Is reports whether the token has the beginning of a capability ticket.
func Is(token auth.Token) bool { return strings.HasPrefix(token.Reveal(), Mark) }

// Parse reads a ticket and checks that the node it names has signed it. It is
// strict: each ticket has one spelling. Whether it is good here, and now, is
// the Keeper's to say.
func Parse(token auth.Token) (*Ticket, error) {
	b, err := unspell(token.Reveal())
	if err != nil {
		return nil, err
	}
	body, signature := b[:len(b)-ed25519.SignatureSize], b[len(b)-ed25519.SignatureSize:]
	t, err := decode(body)
	if err != nil {
		return nil, err
	}
	if !ed25519.Verify(t.Audience, message(body), signature) {
		return nil, ErrForged
	}
	return t, nil
}

// unspell is the binary form of a text that is long enough to hold a signature.
func unspell(text string) ([]byte, error) {
	code, ok := strings.CutPrefix(text, Mark)
	if !ok || len(text) > MaxText {
		return nil, ErrMalformed
	}
	// The decoder skips line breaks and ignores spare bits: such second
	// spellings are refused by encoding again.
	b, err := encoding.DecodeString(code)
	if err != nil || len(b) <= ed25519.SignatureSize || encoding.EncodeToString(b) != code {
		return nil, ErrMalformed
	}
	return b, nil
}

var encoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

func seal(key ed25519.PrivateKey, body []byte) string {
	return Mark + encoding.EncodeToString(append(bytes.Clone(body), ed25519.Sign(key, message(body))...))
}

func message(body []byte) []byte { return append([]byte(domain), body...) }

// body is the signed part.
func (t *Ticket) body() ([]byte, error) {
	if err := t.check(); err != nil {
		return nil, err
	}
	var flags uint8
	if t.Once {
		flags |= flagOnce
	}
	if t.Bearer {
		flags |= flagBearer
	}
	var b cryptobyte.Builder
	b.AddUint8(version)
	addText(&b, t.Network)
	b.AddBytes(t.Audience)
	b.AddBytes(t.ID[:])
	b.AddUint64(uint64(t.Expires.Unix()))
	b.AddUint8(flags)
	for _, list := range [][]string{t.Scopes, t.Only} {
		b.AddUint8(uint8(len(list)))
		for _, s := range list {
			addText(&b, s)
		}
	}
	body, err := b.Bytes()
	if err != nil {
		return nil, err
	}
	if len(body)+ed25519.SignatureSize > MaxBytes {
		return nil, fmt.Errorf("scopes and operations are too long: the ticket would have more than %d bytes", MaxBytes)
	}
	return body, nil
}

// decode reads the signed part.
func decode(body []byte) (*Ticket, error) {
	if len(body)+ed25519.SignatureSize > MaxBytes {
		return nil, ErrMalformed
	}
	var (
		s              = cryptobyte.String(body)
		t              Ticket
		kind, flags    uint8
		audience, id   []byte
		expires        uint64
		counts, expiry bool
	)
	if !s.ReadUint8(&kind) || kind != version || !readText(&s, &t.Network) ||
		!s.ReadBytes(&audience, ed25519.PublicKeySize) || !s.ReadBytes(&id, len(t.ID)) ||
		!s.ReadUint64(&expires) || !s.ReadUint8(&flags) || flags&^(flagOnce|flagBearer) != 0 {
		return nil, ErrMalformed
	}
	counts = readList(&s, &t.Scopes) && readList(&s, &t.Only) && s.Empty()
	expiry = expires > 0 && expires < 1<<40
	if !counts || !expiry {
		return nil, ErrMalformed
	}
	t.ID, t.Audience, t.Expires = ID(id), audience, time.Unix(int64(expires), 0)
	t.Once, t.Bearer = flags&flagOnce != 0, flags&flagBearer != 0
	if err := t.check(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return &t, nil
}

// check holds for what is signed and for what is read alike.
func (t *Terms) check() error {
	if len(t.Network) == 0 || len(t.Network) > maxNetwork || strings.Trim(t.Network, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return fmt.Errorf("network name %q is not 1 to %d of a-z, 0-9 and hyphens", t.Network, maxNetwork)
	}
	if at := t.Expires.Unix(); at <= 0 || at >= 1<<40 {
		return errors.New("the ticket needs a time at which it expires")
	}
	if len(t.Only) == 0 {
		return errors.New("the ticket opens no operation")
	}
	for _, list := range [][]string{t.Scopes, t.Only} {
		if len(list) > maxList {
			return fmt.Errorf("more than %d scopes or operations", maxList)
		}
		for i, s := range list {
			if err := auth.CheckScope(s); err != nil {
				return fmt.Errorf("%q %w", s, err)
			}
			if len(s) > maxName {
				return fmt.Errorf("%q is longer than %d bytes", s, maxName)
			}
			if slices.Contains(list[:i], s) {
				return fmt.Errorf("%q stands twice", s)
			}
		}
	}
	return nil
}

func addText(b *cryptobyte.Builder, s string) {
	b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes([]byte(s)) })
}

func readText(s *cryptobyte.String, out *string) bool {
	var text cryptobyte.String
	if !s.ReadUint8LengthPrefixed(&text) {
		return false
	}
	*out = string(text)
	return true
}

func readList(s *cryptobyte.String, out *[]string) bool {
	var n uint8
	if !s.ReadUint8(&n) || n > maxList {
		return false
	}
	list := make([]string, n)
	for i := range list {
		if !readText(s, &list[i]) {
			return false
		}
	}
	*out = list
	return true
}
