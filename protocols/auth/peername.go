package auth

import (
	"errors"
	"fmt"
	"strings"

	"github.com/google/uuid"
	"github.com/libp2p/go-libp2p/core/peer"
)

// PeerName is the logical name of a peer, chosen by the operator (NODE-25).
// It is a type of its own so that a key or peer ID cannot be passed for it.
type PeerName string

const maxPeerName = 64

// ParsePeerName checks a name as an operator may choose it (NODE-27): 1 to 64
// characters of A-Z a-z 0-9 . _ -, not "local", and neither shaped like a
// UUID, which are the names of peers that are not known, nor a peer ID.
func ParsePeerName(text string) (PeerName, error) {
	switch {
	case text == "":
		return "", errors.New("a peer name is empty")
	case len(text) > maxPeerName:
		return "", fmt.Errorf("a peer name is longer than %d characters", maxPeerName)
	case strings.ContainsFunc(text, func(c rune) bool { return !isNameChar(c) }):
		return "", fmt.Errorf("peer name %q holds other characters than A-Z a-z 0-9 . _ -", text)
	case text == "local":
		return "", errors.New(`the peer name "local" is reserved`)
	case uuid.Validate(text) == nil:
		return "", fmt.Errorf("peer name %q is shaped like a UUID, which names unknown peers", text)
	}
	if _, err := peer.Decode(text); err == nil {
		return "", fmt.Errorf("peer name %q is a peer ID", text)
	}
	return PeerName(text), nil
}

func isNameChar(c rune) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' ||
		c == '.' || c == '_' || c == '-'
}
