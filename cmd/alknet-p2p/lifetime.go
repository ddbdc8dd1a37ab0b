package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// lifetime is a flag: how long something is good for, such as 24h or 30d.
type lifetime struct{ time.Duration }

// maxLifetime is the longest that can be asked for; who wants more wants no end.
const maxLifetime = 100 * 365 * 24 * time.Hour

// Set implements pflag.Value.
func (l *lifetime) Set(text string) error {
	d, err := time.ParseDuration(text)
	if days, ok := strings.CutSuffix(text, "d"); ok {
		var n int64
		if n, err = strconv.ParseInt(days, 10, 32); err == nil {
			d = time.Duration(min(n, int64(maxLifetime/(24*time.Hour))+1)) * 24 * time.Hour
		}
	}
	if err != nil || d < time.Second || d > maxLifetime {
		return fmt.Errorf("%q is no time such as 24h or 30d", text)
	}
	l.Duration = d
	return nil
}

// Type implements pflag.Value.
func (l *lifetime) Type() string { return "time" }

// String implements pflag.Value.
func (l *lifetime) String() string {
	if l.Duration == 0 {
		return ""
	}
	return l.Duration.String()
}

// unix is when it ends if it begins now, in Unix seconds; nil when it does not.
func (l *lifetime) unix(now time.Time) *uint64 {
	if l.Duration == 0 {
		return nil
	}
	at := uint64(now.Add(l.Duration).Unix())
	return &at
}

// unixTime is the time of so many seconds, as far as a time can be printed.
func unixTime(seconds uint64) time.Time {
	const latest = 253402300799 // the end of the year 9999
	return time.Unix(int64(min(seconds, latest)), 0).UTC()
}
