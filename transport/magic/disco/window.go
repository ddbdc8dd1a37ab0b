package disco

// windowSize is how many transactions of one peer are remembered (PATH-11).
const windowSize = 1024

// Window remembers the last 1,024 transactions of one peer, so that a recorded
// packet is refused. The zero value is empty. It must not be used
// concurrently.
type Window struct {
	seen map[TxID]struct{}
	ring []TxID
	next int // in ring, once it is full
}

// Add remembers the transaction and says whether it is new.
func (w *Window) Add(id TxID) bool {
	if _, ok := w.seen[id]; ok {
		return false
	}
	if w.seen == nil {
		w.seen = make(map[TxID]struct{})
	}
	if len(w.ring) < windowSize {
		w.ring = append(w.ring, id)
	} else {
		delete(w.seen, w.ring[w.next])
		w.ring[w.next] = id
		w.next = (w.next + 1) % windowSize
	}
	w.seen[id] = struct{}{}
	return true
}

// BootVerdict is what a boot id says about the packet it came in (PATH-11).
type BootVerdict int

// The verdicts.
const (
	// BootCurrent: take the packet.
	BootCurrent BootVerdict = iota
	// BootStale: drop the packet, the peer has booted since.
	BootStale
	// BootUnproven: take the packet, but it may be a recording: nothing follows
	// from the new boot yet.
	BootUnproven
	// BootRestarted: take the packet; the peer has booted, all paths to it are
	// void.
	BootRestarted
)

// Boots is the current boot of one peer. The zero value knows none. It must
// not be used concurrently.
type Boots struct{ current BootID }

// Current is the boot id that holds; zero while none came.
func (b *Boots) Current() BootID { return b.current }

// Check judges a boot id. proven says that the packet cannot be a recording:
// it is a Pong to a transaction of ours, or came over a fresh handshake. The
// first boot id that comes is taken as it is. A Pong may leave it out, nothing
// else may.
func (b *Boots) Check(id BootID, proven bool) BootVerdict {
	switch {
	case id == BootID{} && !proven:
		return BootStale
	case id == BootID{} || id == b.current:
		return BootCurrent
	case b.current == BootID{}:
		b.current = id
		return BootCurrent
	case id.Before(b.current):
		return BootStale
	case !proven:
		return BootUnproven
	}
	b.current = id
	return BootRestarted
}
