package natlab

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// offloadHeader precedes each frame and says what the sender's kernel left
	// to the network card; the receiver's kernel takes it as it is.
	offloadHeader = 10
	maxFrame      = offloadHeader + 18 + 65536
	maxFrames     = 16384
	maxHeld       = 64 << 20
)

// wire is a cable between two namespaces that delays, loses and paces frames:
// a TAP device at each end, and for each direction one goroutine that takes
// frames in and one that lets them out in time.
type wire struct {
	taps    [2]*os.File
	link    atomic.Pointer[Link]
	done    chan struct{}
	running sync.WaitGroup
	close   func() error
}

// frame is one or, when the kernel segments later, many Ethernet frames.
type frame struct {
	due  time.Time
	data []byte
}

// newWire lays a wire between the device devA to be made in namespace a and
// devB in b. The devices vanish when it is closed.
func newWire(a namespace, devA string, b namespace, devB string, l Link) (*wire, error) {
	w := &wire{done: make(chan struct{})}
	w.close = sync.OnceValue(w.stop)
	var err error
	if w.taps[0], err = openTAP(a, devA); err != nil {
		return nil, err
	}
	if w.taps[1], err = openTAP(b, devB); err != nil {
		w.taps[0].Close()
		return nil, err
	}
	if err := w.set(l); err != nil {
		w.taps[0].Close()
		w.taps[1].Close()
		return nil, err
	}

	w.carry(w.taps[0], w.taps[1])
	w.carry(w.taps[1], w.taps[0])

	return w, nil
}

// set changes the link for frames that enter from now on.
func (w *wire) set(l Link) error {
	offload := uint(unix.TUN_F_CSUM)
	if !l.shaped() {
		offload |= unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_TSO_ECN
	}
	for _, tap := range w.taps {
		if err := setOffload(tap, offload); err != nil {
			return fmt.Errorf("set offload of %s: %w", tap.Name(), err)
		}
	}
	w.link.Store(&l)

	return nil
}

func (w *wire) stop() error {
	close(w.done)
	err := errors.Join(w.taps[0].Close(), w.taps[1].Close())
	w.running.Wait()

	return err
}

// carry starts the direction from in to out.
func (w *wire) carry(in, out *os.File) {
	queue := make(chan frame, maxFrames)
	var held atomic.Int64 // bytes in queue

	w.running.Go(func() {
		defer close(queue)
		var state lane
		buf := make([]byte, maxFrame)
		for {
			n, err := in.Read(buf)
			if err != nil { // closed
				return
			}
			due, ok := state.admit(*w.link.Load(), time.Now(), n-offloadHeader)
			if !ok || held.Load()+int64(n) > maxHeld {
				continue
			}
			held.Add(int64(n))
			select {
			case queue <- frame{due, append([]byte(nil), buf[:n]...)}:
			default: // full
				held.Add(int64(-n))
			}
		}
	})
	w.running.Go(func() {
		for f := range queue {
			if !w.wait(f.due) {
				return
			}
			// An error means that the far device is down: the frame is lost,
			// as on a cable that is not plugged in.
			_, _ = out.Write(f.data)
			held.Add(int64(-len(f.data)))
		}
	})
}

// wait sleeps until due, or returns false when the wire is closed.
func (w *wire) wait(due time.Time) bool {
	// The runtime's timers may be a millisecond late, the kernel's are not: the
	// last stretch is slept in the kernel.
	const stretch = 1200 * time.Microsecond
	if left := time.Until(due); left > stretch {
		select {
		case <-time.After(left - stretch):
		case <-w.done:
			return false
		}
	}
	for left := time.Until(due); left > 0; left = time.Until(due) {
		ts := unix.NsecToTimespec(int64(left))
		_ = unix.Nanosleep(&ts, nil) // interrupted: the loop goes on
	}

	return true
}

// openTAP makes a TAP device in a namespace; it lives as long as the file.
func openTAP(n namespace, dev string) (*os.File, error) {
	var file *os.File
	err := n.do(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open /dev/net/tun: %w", err)
		}
		request, err := unix.NewIfreq(dev)
		if err == nil {
			request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
			err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
		}
		if err != nil {
			unix.Close(fd)
			return fmt.Errorf("make TAP device %s in %s: %w", dev, n, err)
		}
		// Only now: the poller refuses a file that has no device yet.
		file = os.NewFile(uintptr(fd), dev)

		return nil
	})

	return file, err
}

func setOffload(tap *os.File, flags uint) error {
	conn, err := tap.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = conn.Control(func(fd uintptr) {
		set = unix.IoctlSetInt(int(fd), unix.TUNSETOFFLOAD, int(flags))
	})

	return errors.Join(err, set)
}
