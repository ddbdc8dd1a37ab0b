package transport

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/transport/relay"
)

// SetClock gives a host another clock than the machine's.
func (c *Config) SetClock(now func() time.Time) { c.now = now }

// LooksUp tells whether a host finds a record of another one that is good.
func (h *Host) LooksUp(ctx context.Context, other *Host) bool {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for found := range h.disc.Resolve(ctx, other.id) {
		if found.Record != nil {
			return true
		}
	}
	return false
}

// madeClock is a clock of a node with these home relays. Its machine's clock is
// wrong by off, and the relays' by those given.
type madeClock struct {
	*clock
	off   time.Duration
	homes []relay.Key
	alone bool
}

func makeClock(off time.Duration, relays ...time.Duration) *madeClock {
	m := &madeClock{off: off}
	m.clock = &clock{
		local: func() time.Time { return time.Now().Add(m.off) },
		homes: func() []relay.Key { return m.homes }, alone: func() bool { return m.alone },
		log: slog.New(slog.DiscardHandler), told: make(map[relay.Key]moment),
	}
	for i, theirs := range relays {
		m.homes = append(m.homes, relay.Key{byte(i)})
		m.says(i, theirs)
	}
	return m
}

func (m *madeClock) says(home int, wrong time.Duration) {
	m.tell(relay.Key{byte(home)}, time.UnixMilli(time.Now().Add(wrong).UnixMilli()))
}

// is requires that the corrected clock is wrong by as much.
func (m *madeClock) is(t *testing.T, wrong time.Duration) {
	t.Helper()
	require.InDelta(t, wrong, time.Until(m.now()), float64(time.Second))
}

const year = 365 * 24 * time.Hour

// PATH-25: what relays agree on corrects the clock, and one that lies never
// makes a right clock wrong while another is honest.
func TestPATH25ClockIsCorrected(t *testing.T) {
	for name, c := range map[string]struct {
		off    time.Duration
		relays []time.Duration
		alone  bool
		want   time.Duration
	}{
		"nobody to ask":                    {off: 2 * year, want: 2 * year},
		"both homes":                       {off: 2 * year, relays: []time.Duration{0, time.Second}, want: 0},
		"both homes, behind":               {off: -2 * year, relays: []time.Duration{0, 0}, want: 0},
		"small":                            {off: 4 * time.Minute, relays: []time.Duration{0, 0}, want: 4 * time.Minute},
		"one of several relays":            {off: 2 * year, relays: []time.Duration{0}, want: 2 * year},
		"the only relay":                   {off: 2 * year, relays: []time.Duration{0}, alone: true, want: 0},
		"one, and the clock cannot be":     {off: -56 * year, relays: []time.Duration{0}, want: 0},
		"one lies, ahead":                  {relays: []time.Duration{2 * year, 0}, want: 0},
		"one lies, behind":                 {relays: []time.Duration{0, -time.Hour}, want: 0},
		"they lie to either side":          {relays: []time.Duration{year, -time.Hour}, want: 0},
		"one exaggerates":                  {off: -year, relays: []time.Duration{0, 3 * year}, want: 0},
		"one has no clock":                 {off: 2 * year, relays: []time.Duration{-56 * year}, alone: true, want: 2 * year},
		"a time that no record could have": {relays: []time.Duration{200 * year, 250 * year}, want: 200 * year},
	} {
		t.Run(name, func(t *testing.T) {
			m := makeClock(c.off, c.relays...)
			m.alone = c.alone
			m.is(t, c.want)
			require.Equal(t, c.off != c.want, m.corrected())
		})
	}
}

// PATH-25: a correction outlives the link of a relay that told it, and ends when
// the clock is set.
func TestPATH25CorrectionLasts(t *testing.T) {
	m := makeClock(2*year, 0, 0)
	m.is(t, 0)
	m.homes = m.homes[:1]
	m.forget(relay.Key{1})
	m.is(t, 0)
	m.homes = nil
	m.forget(relay.Key{0})
	m.is(t, 0)
	require.Empty(t, m.differences())

	m.off = 0 // set
	m.is(t, 0)
	require.False(t, m.corrected())
	m.off = 2 * year
	m.is(t, 2*year)
}

// PATH-25: what was told before the clock was set does not make it wrong.
func TestPATH25ClockIsSetMeanwhile(t *testing.T) {
	m := makeClock(2*year, 0, 0)
	m.off = 0
	m.is(t, 0)
	require.Less(t, m.differences()[0].Abs(), time.Second)
}

// PATH-25: a relay that nobody contradicts leads the clock to few times only,
// neither by leaps nor by many small steps.
func TestPATH25LiarLeadsNowhere(t *testing.T) {
	for name, says := range map[string]func(i int) time.Duration{
		"ever later":   func(i int) time.Duration { return time.Duration(i+1) * year },
		"ever earlier": func(i int) time.Duration { return time.Duration(100-i) * year },
		"to and fro":   func(i int) time.Duration { return time.Duration(i%2*i) * year },
		"small steps":  func(i int) time.Duration { return year - time.Duration(i)*4*time.Minute },
	} {
		m := makeClock(0, 0)
		m.alone = true
		led := make(map[time.Duration]bool)
		for i := range 100 {
			m.says(0, says(i))
			led[time.Until(m.now()).Round(10*time.Minute)] = true
		}
		require.LessOrEqual(t, len(led), maxCorrections+1, name) // and the right time
		m.says(0, 0)
		m.is(t, 0)
	}
}
