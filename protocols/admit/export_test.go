package admit

import (
	"io"

	"golang.org/x/time/rate"

	"github.com/alkdev/alknet-p2p/protocols/auth"
)

// AppendRequest writes a request.
func AppendRequest(b []byte, token auth.Token) ([]byte, error) { return appendRequest(b, token) }

// ReadRequest reads one.
func ReadRequest(r io.Reader) (auth.Token, error) { return readRequest(r) }

// SetRate changes how many knocks a second are looked at, and how many at once.
func (d *Door) SetRate(perSecond float64, burst int) {
	d.limiter.SetLimit(rate.Limit(perSecond))
	d.limiter.SetBurst(burst)
}

// Standing is how many streams wait at the door.
func (d *Door) Standing() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.open
}
