package socket

import "time"

// silences is the longest silence of a peer on the best path in each of the last
// periods. What is silent for longer than it was in any of them is missed.
type silences struct {
	begin int64         // of the present period
	now   time.Duration // the longest in it so far
	then  time.Duration // and in the whole period before; 0: there is none
}

const silencePeriod = int64(time.Second)

// longest is 0 until a whole period has passed.
func (s *silences) longest() time.Duration {
	if s.then == 0 {
		return 0
	}
	return max(s.now, s.then)
}

// note adds what was seen since the last note: the longest silence that ended.
func (s *silences) note(longest time.Duration, now int64) {
	s.now = max(s.now, longest)
	switch passed := now - s.begin; {
	case passed >= 2*silencePeriod: // nobody looked
		*s = silences{begin: now, now: longest}
	case passed >= silencePeriod:
		*s = silences{begin: now, then: s.now}
	}
}

// silent takes what the data plane saw. The caller holds p.mu.
func (p *peer) silent(now int64) time.Duration {
	p.silences.note(time.Duration(p.longest.Swap(0)), now)
	return p.silences.longest()
}
