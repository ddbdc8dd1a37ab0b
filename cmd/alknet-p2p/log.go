package main

import (
	"log/slog"
	"os"
	"time"

	golog "github.com/ipfs/go-log/v2"
	"github.com/libp2p/go-libp2p/gologshim"
	"github.com/lmittmann/tint"
)

// logger writes the node's log to standard error, and takes the logs of
// libp2p and kad-dht over, which are one for the whole process. Theirs are for
// their developers: shown with --log-level debug, errors of libp2p always.
func (a *app) logger(level slog.Level) *slog.Logger {
	handler := func(level slog.Level) slog.Handler {
		if isTerminal(a.err) {
			return tint.NewTextHandler(a.err, &tint.Options{
				Level: level, TimeFormat: time.TimeOnly, NoColor: os.Getenv("NO_COLOR") != "",
			})
		}
		return slog.NewTextHandler(a.err, &slog.HandlerOptions{Level: level})
	}
	theirs := max(level, slog.LevelError)
	dht := "fatal"
	if level <= slog.LevelDebug {
		theirs, dht = level, "debug"
	}
	gologshim.SetDefaultHandler(handler(theirs))
	_ = golog.SetLogLevel("*", dht) // the level is one it knows
	return slog.New(handler(level))
}
