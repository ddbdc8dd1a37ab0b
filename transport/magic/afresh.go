package magic

import (
	"context"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/alkdev/alknet-p2p/transport/relay"
)

// migrateWithin is how long a connection tries to migrate.
const migrateWithin = 5 * time.Second

// startAfresh makes a connection that was dialled forget what it learnt of a
// relay's line, now that packets go straight (PATH-22): it migrates, beneath the
// same virtual address. The other side's socket does the same for its own
// direction. A migration costs a connection ID for good, so there is one for
// each connection.
func (t *Transport) startAfresh(c *quic.Conn, key relay.Key) {
	t.mu.Lock()
	defer t.mu.Unlock()
	select {
	case <-t.done:
		return
	default:
	}
	t.wg.Go(func() {
		if err := t.migrate(c, key); err != nil {
			t.log.Debug("connection keeps the window of its relay", "peer", key, "err", err)
		}
	})
}

func (t *Transport) migrate(c *quic.Conn, key relay.Key) error {
	ctx, cancel := context.WithTimeout(c.Context(), migrateWithin)
	defer cancel()
	path, err := c.AddPath(t.second)
	if err != nil {
		return err
	}
	t.cfg.Socket.Probing(key, true)
	err = path.Probe(ctx)
	t.cfg.Socket.Probing(key, false)
	if err != nil {
		_ = path.Close()
		return err
	}
	return path.Switch()
}
