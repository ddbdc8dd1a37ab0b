package relay_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alkdev/alknet-p2p/transport/relay"
	"github.com/stretchr/testify/require"
)

func TestPATH25TwoClientsExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, relay.ServerConfig{})
		a, inA := w.link(key(1))
		b, inB := w.link(key(2))

		require.NoError(t, a.Send(key(2), relay.FrameData, 2, []byte("to b")))
		require.Equal(t, received{key(1), relay.FrameData, 2, "to b"}, get(t, inB.frames))
		require.NoError(t, b.Send(key(1), relay.FrameDisco, 0xff, []byte("to a")))
		require.Equal(t, received{key(2), relay.FrameDisco, 3, "to a"}, get(t, inA.frames))
		require.NoError(t, a.Send(key(1), relay.FrameDisco, 0, []byte("to myself")))
		require.Equal(t, received{key(1), relay.FrameDisco, 0, "to myself"}, get(t, inA.frames)) // PATH-35
		require.NoError(t, a.Send(key(2), relay.FrameData, 0, bytes.Repeat([]byte("x"), relay.MaxPayload)))
		require.Len(t, get(t, inB.frames).payload, relay.MaxPayload)
		require.NoError(t, a.Send(key(1), relay.FrameData, 0, []byte("of no use")))
		synctest.Wait()
		none(t, inA.frames)

		st := w.server.Stats()
		require.Equal(t, 2, st.Clients)
		require.Equal(t, 2, st.Homed)
		require.EqualValues(t, 5, st.FramesIn)
		require.EqualValues(t, 5*36+4+4+9+9+relay.MaxPayload, st.BytesIn)
		require.EqualValues(t, 1, st.DroppedDenied)
	})
}

func TestPATH25Welcome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		records := [][]byte{}
		for range 12 {
			records = append(records, bytes.Repeat([]byte("r"), 300))
		}
		w := newWorld(t, relay.ServerConfig{RelayRecords: func() [][]byte { return records }})
		l, welcome, err := relay.NewLink(context.Background(), w.stream(key(1)), relay.LinkConfig{BootID: boot(1)})
		require.NoError(t, err)
		defer l.Close()
		require.Equal(t, relay.Version, welcome.Version)
		require.Equal(t, "192.0.2.1:7", welcome.Observed)
		require.Equal(t, relay.Limits{Rate: relay.DefaultRate, Burst: relay.DefaultBurst, Disco: relay.DefaultDiscoRate}, welcome.Limits)
		require.Len(t, welcome.Records, 8)
		require.True(t, time.Now().Equal(welcome.Clock()))

		// Those that do not fit are left out.
		for i := range records {
			records[i] = bytes.Repeat([]byte("r"), 1000)
		}
		l2, welcome, err := relay.NewLink(context.Background(), w.stream(key(2)), relay.LinkConfig{BootID: boot(1)})
		require.NoError(t, err)
		defer l2.Close()
		require.Len(t, welcome.Records, 2)
	})
}

func TestPATH25UnknownTypesAreSkipped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, relay.ServerConfig{})
		_, in := w.link(key(2))
		s := w.raw(key(1), hello())
		long := append([]byte{0xff, 0xff, 200}, make([]byte, 0xffff-1)...) // the longest there can be
		write(t, s, long, []byte{0, 34, 0}, make([]byte, 33))              // type 0
		write(t, s, frame(t, relay.Frame{Type: relay.FrameHealth, Payload: []byte("means nothing to a relay")}))
		write(t, s, frame(t, relay.Frame{Type: relay.FrameData, Key: key(2), Payload: []byte("after")}))
		require.Equal(t, received{key(1), relay.FrameData, 0, "after"}, get(t, in.frames))
		require.EqualValues(t, 2, w.server.Stats().SkippedUnknown)
	})
}

func write(t *testing.T, s io.Writer, parts ...[]byte) {
	t.Helper()
	for _, p := range parts {
		_, err := s.Write(p)
		require.NoError(t, err)
	}
}

func TestPATH25HostileFrames(t *testing.T) {
	for name, raw := range map[string][]byte{
		"length zero":      {0, 0, 1},
		"length too small": {0, 33, 1},
		"unknown, small":   {0, 33, 99},
		"payload too long": append([]byte{0x06, 0x63, 1}, make([]byte, 1634)...),
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, relay.ServerConfig{})
			s := w.raw(key(1), hello())
			go func() { _, _ = s.Write(raw) }() // the relay need not read all of it
			f := readFrame(t, s)
			require.Equal(t, relay.FrameGoAway, f.Type, name)
			require.Equal(t, []byte{byte(relay.GoAwayProtocol)}, f.Payload, name)
			_ = s.Close()
			require.ErrorIs(t, get(t, w.served), relay.ErrFrame, name)
			require.Zero(t, w.server.Stats().Clients, name)
		})
	}
}

// PATH-25: a frame cut short ends the link when the stream ends, or after the
// silence that ends any other; what came before it was passed on.
func TestPATH25TruncatedFrames(t *testing.T) {
	for _, ends := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, relay.ServerConfig{})
			_, in := w.link(key(2))
			s := w.raw(key(1), hello())
			write(t, s, frame(t, relay.Frame{Type: relay.FrameData, Key: key(2), Payload: []byte("whole")}))
			half := frame(t, relay.Frame{Type: relay.FrameData, Key: key(2), Payload: []byte("half")})
			write(t, s, half[:len(half)-1])
			start := time.Now()
			if ends {
				require.NoError(t, s.Close())
				require.ErrorIs(t, get(t, w.served), io.ErrUnexpectedEOF)
			} else {
				require.Error(t, get(t, w.served))
				require.Equal(t, 20*time.Second, time.Since(start))
			}
			require.Equal(t, "whole", get(t, in.frames).payload)
			none(t, in.frames)
			require.Equal(t, 1, w.server.Stats().Clients)
		})
	}
}

// PATH-27: of two sources that send to one client as fast as they can, and
// faster than it reads, each gets its share; one that sends little loses
// nothing.
func TestPATH27FairnessOverTheRelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, relay.ServerConfig{Rate: relay.NoLimit})
		slow := w.raw(key(9), hello())
		loud, loud2, quiet := w.raw(key(1), hello()), w.raw(key(2), hello()), w.raw(key(3), hello())
		payload := make([]byte, 1200)
		flood := func(s io.Writer, n int) {
			for range n {
				write(t, s, frame(t, relay.Frame{Type: relay.FrameData, Key: key(9), Payload: payload}))
			}
		}
		got := map[relay.Key]int{}
		for range 50 {
			flood(loud, 40)
			flood(loud2, 10)
			flood(quiet, 1)
			synctest.Wait()
			for range 11 {
				got[readFrame(t, slow).Key]++
			}
			time.Sleep(20 * time.Millisecond)
		}
		require.InDelta(t, 50, got[key(3)], 2, "the quiet one got through")
		require.InDelta(t, got[key(1)], got[key(2)], 30, "the loud ones alike")
		require.NotZero(t, w.server.Stats().DroppedOld+w.server.Stats().DroppedFull)
	})
}

func TestHostileHellos(t *testing.T) {
	const ok = `"boot_id":"00000000000000010000000000000000","mode":"home"`
	for name, raw := range map[string]string{
		"too long":       "\x10\x01{",
		"empty":          "\x00\x00",
		"no json":        text("nonsense"),
		"version zero":   text(`{"version":0,` + ok + `}`),
		"no version":     text(`{` + ok + `}`),
		"duplicate name": text(`{"version":1,"version":1,` + ok + `}`),
		"no mode":        text(`{"version":1,"boot_id":"00000000000000010000000000000000"}`),
		"unknown mode":   text(`{"version":1,"boot_id":"00000000000000010000000000000000","mode":"x"}`),
		"short boot id":  text(`{"version":1,"boot_id":"00","mode":"home"}`),
		"upper-case":     text(`{"version":1,"boot_id":"000000000000000A0000000000000000","mode":"home"}`),
		"two texts":      text(`{"version":1,` + ok + `}{}`),
		"cut short":      "\x00\x30{",
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, relay.ServerConfig{})
			s := w.stream(key(1))
			go func() {
				_, _ = io.WriteString(s, raw)
				if name == "cut short" {
					_ = s.Close()
				}
			}()
			err := get(t, w.served)
			if name == "cut short" {
				require.ErrorIs(t, err, io.ErrUnexpectedEOF, name)
			} else {
				require.ErrorIs(t, err, relay.ErrFrame, name)
			}
			require.EqualValues(t, 1, w.server.Stats().Refused, name)
		})
	}
}

func text(s string) string { return string([]byte{byte(len(s) >> 8), byte(len(s))}) + s }

// A member that is not known is no fault: later versions may add some.
func TestHelloOfLaterVersion(t *testing.T) {
	h, err := relay.ParseHello([]byte(`{"version":7,"boot_id":"00000000000000010000000000000000","mode":"home","new":[1]}`))
	require.NoError(t, err)
	require.Equal(t, 7, h.Version)
	_, err = relay.ParseWelcome([]byte(`{"version":2,"time":0}`))
	require.ErrorIs(t, err, relay.ErrFrame, "a relay answers with a version the client has")
	_, err = relay.ParseWelcome([]byte(`{"version":1,"time":0,"records":["","","","","","","","",""]}`))
	require.ErrorIs(t, err, relay.ErrFrame)
	_, err = relay.ParseWelcome([]byte(`[]`))
	require.ErrorIs(t, err, relay.ErrFrame)
}

func TestSilentStrangerIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, relay.ServerConfig{})
		start := time.Now()
		s := w.stream(key(1))
		defer s.Close()
		require.Error(t, get(t, w.served))
		require.Equal(t, 10*time.Second, time.Since(start))

		w.raw(key(1), hello())
		start = time.Now()
		require.Error(t, get(t, w.served))
		require.Equal(t, 20*time.Second, time.Since(start))
		require.Zero(t, w.server.Stats().Clients)
	})
}

func TestPATH26SlowTargetBlocksNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, relay.ServerConfig{Known: func(relay.Key) bool { return true }})
		a, _ := w.link(key(1))
		_, fast := w.link(key(2))
		slow := w.raw(key(3), hello())
		payload := bytes.Repeat([]byte("x"), 1000)
		for i := range 2000 {
			require.NoError(t, a.Send(key(3), relay.FrameData, 0, payload))
			if i%100 == 0 {
				synctest.Wait()
			}
		}
		synctest.Wait()
		sent := time.Now()
		require.NoError(t, a.Send(key(2), relay.FrameData, 0, []byte("hello")))
		require.Equal(t, "hello", get(t, fast.frames).payload)
		require.Zero(t, time.Since(sent))
		require.NotZero(t, w.server.Stats().DroppedFull)

		// What it could not take in 100 ms it does not get late.
		time.Sleep(101 * time.Millisecond)
		require.NoError(t, a.Send(key(3), relay.FrameData, 0, []byte("new")))
		synctest.Wait()
		before := 0
		for {
			f := readFrame(t, slow)
			if f.Type == relay.FrameData && string(f.Payload) == "new" {
				break
			}
			before += len(f.Payload)
		}
		require.LessOrEqual(t, before, 34<<10, "no more than the one write that was under way")
		require.NotZero(t, w.server.Stats().DroppedOld)
	})
}

// A client that takes nothing at all is dropped.
func TestStuckClientIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, relay.ServerConfig{})
		a, in := w.link(key(1))
		w.raw(key(3), hello())
		require.NoError(t, a.Send(key(3), relay.FrameData, 0, []byte("x")))
		require.Error(t, get(t, w.served))
		require.NoError(t, a.Send(key(3), relay.FrameData, 0, []byte("x")))
		require.Equal(t, key(3), get(t, in.gone))
	})
}

func TestPATH25PeerGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, relay.ServerConfig{})
		a, in := w.link(key(1))
		for range 50 { // told at most four times a second
			require.NoError(t, a.Send(key(9), relay.FrameData, 0, []byte("x")))
			synctest.Wait()
		}
		require.Equal(t, key(9), get(t, in.gone))
		none(t, in.gone)
		time.Sleep(250 * time.Millisecond)
		require.NoError(t, a.Send(key(9), relay.FrameDisco, 0, []byte("x")))
		require.Equal(t, key(9), get(t, in.gone))
		require.EqualValues(t, 51, w.server.Stats().DroppedGone)
	})
}

func TestPATH27Rate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, relay.ServerConfig{
			Rate: 10_000, Burst: 50_000,
			Known: func(k relay.Key) bool { return k == key(3) },
		})
		a, inA := w.link(key(1))
		_, inB := w.link(key(2))
		c, _ := w.link(key(3))
		flood := func(l *relay.Link, frames int) (arrived int) {
			for range frames {
				require.NoError(t, l.Send(key(2), relay.FrameData, 0, make([]byte, 964)))
				synctest.Wait()
			}
			return len(drain(inB.frames))
		}
		require.Equal(t, 50, flood(a, 100), "the burst")
		require.EqualValues(t, 10_000, get(t, inA.hints))
		none(t, inA.hints)
		time.Sleep(2 * time.Second)
		require.Equal(t, 20, flood(a, 100), "two seconds' worth")
		require.EqualValues(t, 10_000, get(t, inA.hints))
		require.EqualValues(t, 130, w.server.Stats().DroppedRate)
		require.Equal(t, 300, flood(c, 300), "known clients have no limit")

		// Probes are not held up by data.
		require.NoError(t, a.Send(key(2), relay.FrameDisco, 0, []byte("probe")))
		require.Equal(t, "probe", get(t, inB.frames).payload)
	})
}

func drain[T any](ch <-chan T) (out []T) {
	for {
		select {
		case v := <-ch:
			out = append(out, v)
		default:
			return out
		}
	}
}

func TestPATH27NoLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, relay.ServerConfig{Rate: relay.NoLimit, DiscoRate: relay.NoLimit})
		a, _ := w.link(key(1))
		_, in := w.link(key(2))
		for range 4000 {
			require.NoError(t, a.Send(key(2), relay.FrameData, 0, make([]byte, 1000)))
			require.NoError(t, a.Send(key(2), relay.FrameDisco, 0, nil))
			synctest.Wait()
		}
		require.Len(t, in.frames, 8000)
	})
}

func TestPATH27DiscoRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, relay.ServerConfig{Known: func(relay.Key) bool { return true }})
		a, _ := w.link(key(1))
		_, inB := w.link(key(2))
		_, inC := w.link(key(3))
		send := func(to relay.Key, n int) {
			for range n {
				require.NoError(t, a.Send(to, relay.FrameDisco, 0, []byte("probe")))
				synctest.Wait()
			}
		}
		send(key(2), 50)
		require.Len(t, drain(inB.frames), 20)
		send(key(3), 5)
		require.Len(t, drain(inC.frames), 5, "another pair")
		time.Sleep(500 * time.Millisecond)
		send(key(2), 50)
		require.Len(t, drain(inB.frames), 10)
		require.EqualValues(t, 70, w.server.Stats().DroppedDisco)
	})
}

func TestPATH27GlobalRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, relay.ServerConfig{GlobalRate: 1_000_000, Known: func(relay.Key) bool { return true }})
		a, _ := w.link(key(1))
		b, _ := w.link(key(2))
		_, in := w.link(key(3))
		for range 200 {
			require.NoError(t, a.Send(key(3), relay.FrameData, 0, make([]byte, 964)))
			require.NoError(t, b.Send(key(3), relay.FrameData, 0, make([]byte, 964)))
			synctest.Wait()
		}
		require.Len(t, in.frames, 100)
		require.EqualValues(t, 300, w.server.Stats().DroppedGlobal)
	})
}

// A sender that floods one target with many keys is held in bounds.
func TestPATH27ManyTargets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, relay.ServerConfig{Rate: relay.NoLimit})
		s := w.raw(key(1), hello())
		go func() { _, _ = io.Copy(io.Discard, s) }()
		send := func(n int) {
			var burst []byte
			for i := range n {
				burst = append(burst, frame(t, relay.Frame{Type: relay.FrameData, Key: relay.Key{9, byte(i), byte(i >> 8)}})...)
			}
			write(t, s, burst)
			synctest.Wait()
		}
		send(5000)
		require.EqualValues(t, 4096, w.server.Stats().DroppedGone)
		require.EqualValues(t, 5000-4096, w.server.Stats().DroppedDisco)
		time.Sleep(2 * time.Second)
		send(5000)
		require.EqualValues(t, 2*4096, w.server.Stats().DroppedGone, "those of before are forgotten")
	})
}

func TestPATH27OneSessionPerKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var events []string
		w := newWorld(t, relay.ServerConfig{OnClient: func(k relay.Key, m relay.Mode, up bool) {
			events = append(events, fmt.Sprint(k, " ", m, " ", up))
		}})
		_, other := w.link(key(2))
		o, _ := w.link(key(3))
		older, _ := w.link(key(1), withBoot(boot(1)))
		newer, inNewer := w.link(key(1), withBoot(boot(2)))
		<-older.Done()
		requireGoAway(t, older.Err(), relay.GoAwayDuplicate)

		require.Equal(t, relay.GoAwayDuplicate, w.refused(key(1), withBoot(boot(1))), "the loser comes back")
		again, inAgain := w.link(key(1), withBoot(boot(2)))
		<-newer.Done()
		requireGoAway(t, newer.Err(), relay.GoAwayReplaced)

		require.NoError(t, o.Send(key(1), relay.FrameData, 0, []byte("x")))
		get(t, inAgain.frames)
		none(t, inNewer.frames)
		require.NoError(t, again.Send(key(2), relay.FrameData, 0, []byte("x")))
		get(t, other.frames)

		require.NoError(t, again.Close())
		synctest.Wait()
		require.Equal(t, []string{"02000000 home true", "03000000 home true", "01000000 home true", "01000000 home false"}, events)
		require.EqualValues(t, 2, w.server.Stats().Replaced)
	})
}

func requireGoAway(t *testing.T, err error, want relay.GoAwayReason) {
	t.Helper()
	var away *relay.GoAwayError
	require.ErrorAs(t, err, &away)
	require.Equal(t, want, away.Reason)
}

// A node whose clock was wrong at its last boot, and which died without a
// word, is not locked out by its own past.
func TestPATH27SilentSessionYields(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, relay.ServerConfig{})
		w.raw(key(1), relay.Hello{Version: 1, BootID: boot(9), Mode: relay.ModeHome})
		require.Equal(t, relay.GoAwayDuplicate, w.refused(key(1), withBoot(boot(1))))
		time.Sleep(6 * time.Second)
		w.link(key(1), withBoot(boot(1)))
	})
}

func TestPATH27Access(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, relay.ServerConfig{
			MayReserve: func(k relay.Key) bool { return k == key(1) },
			MayConnect: func(k relay.Key) bool { return k != key(8) },
		})
		member, inMember := w.link(key(1))
		require.Equal(t, relay.GoAwayDenied, w.refused(key(2)))
		require.Equal(t, relay.GoAwayDenied, w.refused(key(8), connecting))
		a, inA := w.link(key(2), connecting)
		_, inB := w.link(key(3), connecting)

		require.NoError(t, a.Send(key(1), relay.FrameData, 0, []byte("to a homed key")))
		require.Equal(t, "to a homed key", get(t, inMember.frames).payload)
		require.NoError(t, member.Send(key(2), relay.FrameData, 0, []byte("and back")))
		require.Equal(t, "and back", get(t, inA.frames).payload)

		require.NoError(t, a.Send(key(3), relay.FrameData, 0, []byte("strangers among themselves")))
		synctest.Wait()
		none(t, inB.frames)
		require.EqualValues(t, 1, w.server.Stats().DroppedDenied)
		require.Equal(t, 1, w.server.Stats().Homed)
		require.EqualValues(t, 2, w.server.Stats().Refused)
	})
}

// Where everyone may be homed, everyone may meet.
func TestPATH27OpenRelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, relay.ServerConfig{})
		a, _ := w.link(key(1), connecting)
		_, in := w.link(key(2), connecting)
		require.NoError(t, a.Send(key(2), relay.FrameData, 0, []byte("x")))
		get(t, in.frames)
	})
}

func TestPATH27MaxClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, relay.ServerConfig{MaxClients: 2, Known: func(k relay.Key) bool { return k[0] >= 8 }})
		first, _ := w.link(key(1))
		w.link(key(8))
		w.link(key(2))
		require.Equal(t, relay.GoAwayFull, w.refused(key(3)))
		w.link(key(9))
		w.link(key(2)) // in its own place
		require.NoError(t, first.Close())
		synctest.Wait()
		w.link(key(3))
		require.Equal(t, relay.GoAwayFull, w.refused(key(4)))
	})
}

func TestHealth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, relay.ServerConfig{})
		_, a := w.link(key(1))
		w.server.SetHealth("disk is full" + strings.Repeat("!", 1000))
		require.Len(t, get(t, a.health), 256)
		_, b := w.link(key(2))
		require.Contains(t, get(t, b.health), "disk is full")
		w.server.SetHealth("")
		require.Empty(t, get(t, a.health))
		require.Empty(t, get(t, b.health))
		_, c := w.link(key(3))
		synctest.Wait()
		none(t, c.health)
	})
}

func TestPATH27Drain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, relay.ServerConfig{})
		a, inA := w.link(key(1))
		b, inB := w.link(key(2))
		drained := make(chan error, 1)
		go func() { drained <- w.server.Drain(context.Background()) }()
		require.Equal(t, relay.GoAwayDraining, get(t, inA.away))
		require.Equal(t, relay.GoAwayDraining, get(t, inB.away))
		require.True(t, a.Draining())
		require.Equal(t, relay.GoAwayDraining, w.refused(key(3)))

		// It still carries, so that nothing is lost on the way out.
		require.NoError(t, a.Send(key(2), relay.FrameData, 0, []byte("x")))
		get(t, inB.frames)
		require.NoError(t, a.Close())
		synctest.Wait()
		none(t, drained)
		require.NoError(t, b.Close())
		require.NoError(t, get(t, drained))
	})
}

func TestDrainIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, relay.ServerConfig{})
		w.link(key(1))
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		require.ErrorIs(t, w.server.Drain(ctx), context.DeadlineExceeded)
	})
}

func TestServerClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, relay.ServerConfig{})
		a, in := w.link(key(1))
		stuck := w.raw(key(2), hello()) // never reads
		greeting := w.stream(key(3))    // never speaks
		defer greeting.Close()
		start := time.Now()
		require.NoError(t, w.server.Close())
		require.LessOrEqual(t, time.Since(start), time.Second)
		require.NoError(t, w.server.Close())
		require.Equal(t, relay.GoAwayDraining, get(t, in.away))
		<-a.Done()
		requireGoAway(t, a.Err(), relay.GoAwayDraining)
		_ = stuck.Close()

		client, server := net.Pipe()
		require.ErrorIs(t, w.server.Serve(context.Background(), server, key(4), ""), net.ErrClosed)
		_, err := client.Read(make([]byte, 1))
		require.Error(t, err)
	})
}

func TestServeEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := relay.NewServer(relay.ServerConfig{})
		defer server.Close()
		ctx, cancel := context.WithCancel(context.Background())
		client, end := net.Pipe()
		served := make(chan error, 1)
		go func() { served <- server.Serve(ctx, end, key(1), "") }()
		l, _, err := relay.NewLink(context.Background(), client, relay.LinkConfig{})
		require.NoError(t, err)
		defer l.Close()
		cancel()
		require.ErrorIs(t, get(t, served), context.Canceled)
		<-l.Done()
	})
}

// PATH-23: a relay attests the IP of a client to whom the client names, and
// to nobody else.
func TestPATH23Attest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, relay.ServerConfig{DiscoRate: 3})
		a, inA := w.link(key(1))
		_, inB := w.link(key(2))
		_, inC := w.link(key(3))

		mapped := string([]byte{10: 0xff, 11: 0xff, 12: 192, 13: 0, 14: 2, 15: 1})
		require.NoError(t, a.Send(key(2), relay.FrameAttest, 0, nil))
		require.Equal(t, received{key(1), relay.FrameAttest, 0, mapped}, get(t, inB.frames))
		require.ErrorIs(t, a.Send(key(2), relay.FrameAttest, 0, []byte(mapped)), relay.ErrFrame, "an IP is not for the client to say")
		require.NoError(t, a.Send(key(1), relay.FrameAttest, 0, nil))
		synctest.Wait()
		none(t, inA.frames)
		none(t, inC.frames)

		// Whatever IP a client puts in, the relay tells what it sees.
		forged := w.raw(key(4), hello())
		write(t, forged, frame(t, relay.Frame{Type: relay.FrameAttest, Key: key(2), Flags: 3, Payload: bytes.Repeat([]byte{7}, 16)}))
		require.Equal(t, received{key(4), relay.FrameAttest, 0, mapped}, get(t, inB.frames))

		for range 5 {
			require.NoError(t, a.Send(key(2), relay.FrameAttest, 0, nil))
		}
		synctest.Wait()
		require.EqualValues(t, 3, w.server.Stats().DroppedDisco, "over the rate of probes")
		require.EqualValues(t, 4, w.server.Stats().Attested)
	})
}

// A relay that attests in another form broke the protocol.
func TestPATH23MalformedAttestation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, n := range []int{0, 4, 15, 17} {
			client, server := net.Pipe()
			go func() { // the relay of this test ends with its stream
				defer server.Close()
				b := make([]byte, 4096)
				_, _ = server.Read(b)
				raw, _ := relay.AppendWelcome(nil, relay.Welcome{Version: 1})
				_, _ = server.Write(raw)
				raw, _ = relay.AppendFrame(nil, relay.Frame{Type: relay.FrameAttest, Key: key(2), Payload: make([]byte, n)})
				_, _ = server.Write(raw)
				_, _ = io.Copy(io.Discard, server)
			}()
			in := newInbox()
			l, _, err := relay.NewLink(t.Context(), client, in.config())
			require.NoError(t, err)
			<-l.Done()
			require.ErrorIs(t, l.Err(), relay.ErrFrame, "%d bytes", n)
			none(t, in.frames)
			require.NoError(t, l.Close())
		}
	})
}
