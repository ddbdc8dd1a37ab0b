package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"
)

const (
	// TokenMark begins every token this package makes (NODE-21).
	TokenMark = "alk_"

	tokenPrefixLen = 8
	hashMark       = "sha256:"
	redacted       = "[redacted]"
)

var errRedacted = errors.New("a token is not serialised")

// Token is a bearer credential; it redacts itself wherever it is printed. The
// zero value is no token: it has no text and resolves to nothing. The text
// sits behind a func so that printers that walk values by reflection do not
// find it.
type Token struct{ raw func() string }

// NewToken makes a token of 32 random bytes: "alk_" and 43 characters
// (NODE-21).
func NewToken() Token {
	var b [32]byte
	rand.Read(b[:]) // never fails, says its documentation
	return TokenFromText(TokenMark + base64.RawURLEncoding.EncodeToString(b[:]))
}

// TokenFromText wraps a token as it came from a peer or a file. Any text is
// allowed (NODE-22); the caller bounds its length.
func TokenFromText(text string) Token {
	if text == "" {
		return Token{}
	}
	return Token{raw: func() string { return text }}
}

// Reveal returns the token itself, for showing it once or sending it.
func (t Token) Reveal() string {
	if t.raw == nil {
		return ""
	}
	return t.raw()
}

// IsZero reports whether there is no token.
func (t Token) IsZero() bool { return t.raw == nil }

// Hash is the form in which tokens are stored: "sha256:" and the lower-case
// hex SHA-256 of the full text; "" for the zero value.
func (t Token) Hash() string {
	if t.raw == nil {
		return ""
	}
	sum := sha256.Sum256([]byte(t.raw()))
	return hashMark + hex.EncodeToString(sum[:])
}

// Prefix is the part of a made token that may be logged: its first eight
// bytes (NODE-23). Of any other token nothing is shown and it is "".
func (t Token) Prefix() string {
	if text := t.Reveal(); strings.HasPrefix(text, TokenMark) && len(text) >= tokenPrefixLen {
		return text[:tokenPrefixLen]
	}
	return ""
}

// String implements fmt.Stringer without the secret.
func (t Token) String() string { return redacted }

// GoString implements fmt.GoStringer without the secret.
func (t Token) GoString() string { return "auth.Token{" + redacted + "}" }

// Format implements fmt.Formatter without the secret, for every verb.
func (t Token) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// LogValue implements slog.LogValuer without the secret.
func (t Token) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText refuses: a token is stored as its Hash.
func (t Token) MarshalText() ([]byte, error) { return nil, errRedacted }

// MarshalJSON refuses: a token is stored as its Hash.
func (t Token) MarshalJSON() ([]byte, error) { return nil, errRedacted }

// tokenHash is a decoded "sha256:" text.
type tokenHash [sha256.Size]byte

// equal takes the same time whatever the hashes are.
func (h tokenHash) equal(o tokenHash) bool { return subtle.ConstantTimeCompare(h[:], o[:]) == 1 }

func parseTokenHash(text string) (tokenHash, error) {
	var h tokenHash
	digits, ok := strings.CutPrefix(text, hashMark)
	if !ok || !isLowerHex(digits, 2*len(h)) {
		return h, errors.New(`not of the form "sha256:<64 lower-case hex>"`)
	}
	if _, err := hex.Decode(h[:], []byte(digits)); err != nil {
		return h, fmt.Errorf("decode hash: %w", err)
	}
	return h, nil
}

// isLowerHex reports whether s is n lower-case hex digits.
func isLowerHex(s string, n int) bool {
	if len(s) != n {
		return false
	}
	return strings.Trim(s, "0123456789abcdef") == ""
}
