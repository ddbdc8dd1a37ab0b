//go:build !linux

package netmon

import "log/slog"

func openSource(*slog.Logger) (source, error) { return newPoll(), nil }
