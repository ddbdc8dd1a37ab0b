package protocols

import "context"

type drainingKey struct{}

// Draining returns a channel that is closed when the node begins to shut
// down: a handler then takes no new work, finishes what runs and returns
// (NODE-14, NODE-63). It is nil, and blocks for ever, for a ctx that comes
// from no Router.
func Draining(ctx context.Context) <-chan struct{} {
	ch, _ := ctx.Value(drainingKey{}).(<-chan struct{})
	return ch
}

// WithDraining returns a ctx in which Draining finds the channel; for code
// that runs handlers without a Router.
func WithDraining(ctx context.Context, draining <-chan struct{}) context.Context {
	return context.WithValue(ctx, drainingKey{}, draining)
}
