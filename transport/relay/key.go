package relay

import "encoding/hex"

// Key is the raw ed25519 public key of a node, as it stands in relay frames.
type Key [32]byte

// String is a short form for logs: the first eight hex digits.
func (k Key) String() string { return hex.EncodeToString(k[:4]) }
