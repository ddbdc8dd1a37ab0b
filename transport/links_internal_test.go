package transport

import "github.com/alkdev/alknet-p2p/transport/magic"

// LimitedBy tells whether a host's socket knows that a relay limits it.
func (h *Host) LimitedBy(r *Host) bool {
	k, err := magic.KeyOf(r.id)
	return err == nil && h.socket.Limited(k)
}
