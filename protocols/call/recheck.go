package call

import (
	"errors"
	"maps"
	"slices"

	"github.com/alkdev/alknet-p2p/protocols/auth"
)

// errTakenBack is why the context of a request's handler has ended whose token
// lost its rights.
var errTakenBack = errors.New("the right to this call was taken back")

// Recheck looks at the tokens of requests that run again, after tokens were
// removed or tickets revoked: a request whose token has not the rights any more
// that it began with ends with FORBIDDEN, and its handler's context ends. Requests
// without a token end with their session, which is the router's affair
// (NODE-28).
func (p *Protocol) Recheck() {
	p.mu.Lock()
	sessions := slices.Collect(maps.Values(p.sessions))
	p.mu.Unlock()
	for _, s := range sessions {
		s.mu.Lock()
		running := slices.Collect(maps.Values(s.serving))
		s.mu.Unlock()
		for _, r := range running {
			r.recheck()
		}
	}
}

// recheck ends the request if its token has lost what it was good for.
func (r *served) recheck() {
	if !r.allowed() {
		r.urgent(failure(r.req.ID, Errorf(CodeForbidden, "%v", errTakenBack)), errTakenBack)
	}
}

// allowed reports whether the token of the request is still worth what it was.
func (r *served) allowed() bool {
	id := r.req.Identity
	switch {
	case r.token.IsZero():
		return true
	case id.Stands != nil:
		return id.Stands()
	}
	now, ok := r.s.resolve(r.token)
	return ok && now.Equal(*id)
}

// tokenOf is the token that a request owes its identity to, if it does.
func (s *Session) tokenOf(text string, identity *auth.Identity) auth.Token {
	if identity == s.peer.Caller() {
		return auth.Token{}
	}
	return auth.TokenFromText(text)
}
