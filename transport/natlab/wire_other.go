//go:build !linux

package natlab

// wire is a cable with delay; there are none on this system.
type wire struct{ close func() error }

func newWire(namespace, string, namespace, string, Link) (*wire, error) {
	return nil, ErrUnavailable
}

func (*wire) set(Link) error { return ErrUnavailable }
