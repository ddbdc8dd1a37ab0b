package portmap

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// router is a mapping that does as it is told and remembers what was asked.
type router struct {
	mu       sync.Mutex
	external netip.AddrPort
	life     time.Duration
	err      error
	acquired []time.Time
	released int
}

func (r *router) acquire(context.Context) (netip.AddrPort, time.Duration, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.acquired = append(r.acquired, time.Now())
	return r.external, r.life, r.err
}

func (r *router) release(context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.released++
	return nil
}

func (r *router) set(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
}

// asked returns when it was asked since the last time, after begin, and how
// often the port was given back.
func (r *router) asked(begin time.Time) (at []time.Duration, released int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range r.acquired {
		at = append(at, t.Sub(begin))
	}
	r.acquired = nil
	return at, r.released
}

func home() (network, error) {
	return network{netip.MustParseAddr("192.168.1.1"), netip.MustParseAddr("192.168.1.2")}, nil
}

// PATH-24: a mapping is renewed at half its life, made anew in another network,
// and given back at the end.
func TestPATH24Renewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		r := &router{external: netip.MustParseAddrPort("5.6.7.8:99"), life: time.Hour}
		changes := 0
		var mu sync.Mutex
		here, _ := home()
		m := start(Config{Changed: func() { changes++ }}, func() (network, error) {
			mu.Lock()
			defer mu.Unlock()
			return here, nil
		}, func(network) []mapping { return []mapping{r} })
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		at, released := r.asked(begin)
		require.Equal(t, []time.Duration{0, 30 * time.Minute, time.Hour, 90 * time.Minute, 2 * time.Hour}, at)
		require.Zero(t, released)
		external, ok := m.External()
		require.True(t, ok)
		require.Equal(t, r.external, external)

		mu.Lock()
		here.gateway = netip.MustParseAddr("10.0.0.1")
		mu.Unlock()
		m.Kick()
		synctest.Wait()
		at, released = r.asked(begin)
		require.Equal(t, []time.Duration{2 * time.Hour}, at)
		require.Equal(t, 1, released, "that of the other network")

		m.Close()
		m.Close()
		_, released = r.asked(begin)
		require.Equal(t, 2, released)
		_, ok = m.External()
		require.False(t, ok)
		require.Equal(t, 4, changes)
	})
}

// A router that refuses is asked again ever less often, at once after a change of
// network; what it gives must be public.
func TestPATH24Refused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		r := &router{err: ErrRefused}
		second := &router{external: netip.MustParseAddrPort("100.64.0.9:99"), life: time.Hour}
		m := start(Config{}, home, func(network) []mapping { return []mapping{r, second} })
		defer m.Close()
		time.Sleep(16 * time.Minute)
		synctest.Wait()
		at, _ := r.asked(begin)
		require.Equal(t, []time.Duration{0, time.Minute, 3 * time.Minute, 7 * time.Minute, 15 * time.Minute}, at)
		require.ErrorIs(t, m.Status().Err, ErrRefused)
		require.ErrorIs(t, m.Status().Err, ErrNotPublic)
		_, ok := m.External()
		require.False(t, ok)

		second.set(func() { second.external = netip.MustParseAddrPort("5.6.7.8:99") })
		m.Kick()
		synctest.Wait()
		external, ok := m.External()
		require.True(t, ok)
		require.Equal(t, second.external, external)

		// Lost again: the other way is tried too.
		second.set(func() { second.err = errors.New("gone") })
		r.asked(begin)
		time.Sleep(35 * time.Minute)
		synctest.Wait()
		at, _ = r.asked(begin)
		require.NotEmpty(t, at)
		require.Error(t, m.Status().Err)
	})
}

func TestPATH24NoRouter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(Config{}, func() (network, error) { return network{}, ErrNoRouter }, nil)
		synctest.Wait()
		require.ErrorIs(t, m.Status().Err, ErrNoRouter)
		m.Close()
	})
}

// RFC 6887 §11.1, the packet field by field.
func TestPCPRequest(t *testing.T) {
	r := mapRequest{
		lifetime: 2 * time.Hour, client: netip.MustParseAddr("192.168.1.2"), nonce: [12]byte([]byte("abcdefghijkl")),
		port: 0x1234, external: netip.MustParseAddrPort("5.6.7.8:4660"),
	}
	require.Equal(t, "\x02\x01\x00\x00\x00\x00\x1c\x20"+
		"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xc0\xa8\x01\x02"+
		"abcdefghijkl\x11\x00\x00\x00\x12\x34\x12\x34"+
		"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\x05\x06\x07\x08", string(r.append(nil)))
}

func FuzzPCPAnswer(f *testing.F) {
	good := mapRequest{lifetime: time.Hour, client: netip.MustParseAddr("192.168.1.2"), port: 7}.append(nil)
	good[1] |= pcpAnswer
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Add(append(good, 1, 2, 3, 4))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := parseMapAnswer(b)
		if err != nil {
			return
		}
		require.GreaterOrEqual(t, len(b), pcpMapSize)
		require.GreaterOrEqual(t, a.lifetime, time.Duration(0))
		require.False(t, a.external.Addr().Is4In6())
	})
}
