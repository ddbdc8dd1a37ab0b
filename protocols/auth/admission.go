package auth

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// Admit says whose keys may have sessions with this node. Relaying, the DHT and
// the door where tickets are redeemed are open to all keys, whatever it says.
type Admit string

const (
	// AdmitOpen lets any key have a session; operations decide what it may do.
	AdmitOpen Admit = "open"
	// AdmitKnown lets the keys in the registry in, and those that redeemed a
	// ticket.
	AdmitKnown Admit = "known"
	// AdmitClosed is AdmitKnown, and a node that is closed as a whole tells
	// strangers no address of its own and ends their connections.
	AdmitClosed Admit = "closed"
)

// ParseAdmit reads one of the three words.
func ParseAdmit(text string) (Admit, error) {
	switch a := Admit(text); a {
	case AdmitOpen, AdmitKnown, AdmitClosed:
		return a, nil
	}
	return "", errors.New(`is none of "open", "known" and "closed"`)
}

// maxALPN is as long as a TLS protocol name may be (RFC 7301).
const maxALPN = 255

// Admission is who may have sessions with this node. The zero value says
// nothing.
type Admission struct {
	// Default holds where ALPNs says nothing; "" says nothing either.
	Default Admit `json:"default,omitempty"`
	// ALPNs overrides it for single protocols, such as "alknet/call".
	ALPNs map[string]Admit `json:"alpns,omitempty"`
}

// For returns who may have sessions for the ALPN, or "".
func (a Admission) For(alpn string) Admit { return cmp.Or(a.ALPNs[alpn], a.Default) }

// IsZero reports whether nothing is said.
func (a Admission) IsZero() bool { return a.Default == "" && len(a.ALPNs) == 0 }

func (a Admission) clone() Admission {
	return Admission{Default: a.Default, ALPNs: maps.Clone(a.ALPNs)}
}

func (a Admission) validate() error {
	if a.Default != "" {
		if _, err := ParseAdmit(string(a.Default)); err != nil {
			return &FieldError{Pointer: "/admission/default", Err: err}
		}
	}
	for _, alpn := range slices.Sorted(maps.Keys(a.ALPNs)) {
		field := "/admission/alpns/" + escapePointer(alpn)
		if err := CheckScope(alpn); err != nil {
			return &FieldError{Pointer: field, Err: err}
		}
		if len(alpn) > maxALPN {
			return &FieldError{Pointer: field, Err: fmt.Errorf("is longer than %d bytes", maxALPN)}
		}
		if _, err := ParseAdmit(string(a.ALPNs[alpn])); err != nil {
			return &FieldError{Pointer: field, Err: err}
		}
	}
	return nil
}
