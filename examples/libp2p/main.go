// Command libp2p is an ordinary go-libp2p program with one option added: it
// reaches the node that a ticket names, wherever that is, over a relay at
// first, and keeps its stream while the path below becomes direct.
//
//	go run ./examples/libp2p alk1…
package main

import (
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"

	"github.com/libp2p/go-libp2p"

	"github.com/alkdev/alknet-p2p/transport"
	"github.com/alkdev/alknet-p2p/transport/discovery"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: libp2p TICKET")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run pings the node on one stream until the path to it is direct, at most 20
// times. opts are the program's own.
func run(ctx context.Context, text string, out io.Writer, opts ...libp2p.Option) error {
	ticket, err := discovery.ParseTicket(text)
	if err != nil {
		return err
	}
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return err
	}
	alknet, err := transport.New(transport.Config{
		Key: key, Network: ticket.Network, Join: []*discovery.Ticket{ticket}, NoMDNS: true,
	})
	if err != nil {
		return err
	}
	defer alknet.Close()
	host, err := libp2p.New(append(opts, alknet.Option())...) // the one option
	if err != nil {
		return err
	}
	defer host.Close()

	alknet.AddTicket(ticket)
	if err := alknet.Connect(ctx, ticket.Peer); err != nil {
		return err
	}
	stream, err := host.NewStream(ctx, ticket.Peer, "/alknet/ping") // libp2p as ever
	if err != nil {
		return err
	}
	defer stream.Close()
	for seq := range uint64(20) {
		rtt, err := ping(stream, seq)
		if err != nil {
			return err
		}
		path := alknet.Path(ticket.Peer)
		fmt.Fprintf(out, "ping %d: %v, %s %s\n", seq, rtt.Round(10*time.Microsecond), path.Kind, path.Addr)
		if path.Kind == transport.PathDirect {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	return nil
}

// ping sends one frame of /alknet/ping: version, kind, sequence.
func ping(stream io.ReadWriter, seq uint64) (time.Duration, error) {
	sent := time.Now()
	if _, err := stream.Write(binary.BigEndian.AppendUint64([]byte{1, 1}, seq)); err != nil {
		return 0, err
	}
	var pong [10]byte
	if _, err := io.ReadFull(stream, pong[:]); err != nil {
		return 0, err
	}
	if pong[1] != 2 || binary.BigEndian.Uint64(pong[2:]) != seq {
		return 0, errors.New("that is no pong")
	}
	return time.Since(sent), nil
}
