package relay

import "fmt"

// GoAwayReason says why a relay ends or refuses a link.
type GoAwayReason byte

// The reasons. Others may be added; an unknown one is treated as a plain end.
const (
	// GoAwayDraining: the relay is going down; the link still carries frames
	// until it closes, so that the client can move first.
	GoAwayDraining GoAwayReason = 1
	// GoAwayDuplicate: another node with the same key is connected, newer by
	// its boot id. The client stays away for DuplicateHold.
	GoAwayDuplicate GoAwayReason = 2
	// GoAwayReplaced: the same node opened another link to this relay.
	GoAwayReplaced GoAwayReason = 3
	// GoAwayDenied: the relay does not serve this key in this mode.
	GoAwayDenied GoAwayReason = 4
	// GoAwayFull: the relay has as many clients as it takes.
	GoAwayFull GoAwayReason = 5
	// GoAwayProtocol: the client broke the protocol.
	GoAwayProtocol GoAwayReason = 6
	// GoAwayVersion: no version in common.
	GoAwayVersion GoAwayReason = 7
)

// String names the reason for people.
func (r GoAwayReason) String() string {
	switch r {
	case GoAwayDraining:
		return "draining"
	case GoAwayDuplicate:
		return "duplicate key"
	case GoAwayReplaced:
		return "replaced by a newer link of this node"
	case GoAwayDenied:
		return "not allowed"
	case GoAwayFull:
		return "relay is full"
	case GoAwayProtocol:
		return "protocol violation"
	case GoAwayVersion:
		return "no common version"
	}
	return fmt.Sprintf("reason %d", byte(r))
}

// GoAwayError is how a link ends that the relay ended or refused; found with
// errors.As.
type GoAwayError struct{ Reason GoAwayReason }

// Error implements error.
func (e *GoAwayError) Error() string { return "relay says go away: " + e.Reason.String() }
