package relay_test

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/alkdev/alknet-p2p/transport/relay"
)

// Two nodes meet at a relay. A real host passes libp2p streams instead of
// pipes.
func Example() {
	alice, bob := relay.Key{1}, relay.Key{2}
	var served sync.WaitGroup
	defer served.Wait()
	server := relay.NewServer(relay.ServerConfig{})
	defer server.Close()
	dial := func(self relay.Key) relay.Stream {
		client, end := net.Pipe()
		served.Go(func() { _ = server.Serve(context.Background(), end, self, "192.0.2.1:1") })
		return client
	}

	arrived := make(chan string, 1)
	toBob, _, err := relay.NewLink(context.Background(), dial(bob), relay.LinkConfig{
		OnFrame: func(from relay.Key, _ relay.FrameType, _ byte, payload []byte) {
			select {
			case arrived <- fmt.Sprintf("%s: %s", from, payload):
			default: // it came already
			}
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer toBob.Close()
	toAlice, _, err := relay.NewLink(context.Background(), dial(alice), relay.LinkConfig{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer toAlice.Close()
	// A relay promises no more than a network does: what waited too long on the
	// way is dropped. Who sends it sends it again.
	for {
		if err := toAlice.Send(bob, relay.FrameData, 0, []byte("sealed bytes")); err != nil {
			fmt.Println(err)
			return
		}
		select {
		case got := <-arrived:
			fmt.Println(got)
			return
		case <-time.After(100 * time.Millisecond):
		}
	}
	// Output: 01000000: sealed bytes
}

// A pool keeps a node's two homes.
func ExamplePool() {
	server := relay.NewServer(relay.ServerConfig{})
	defer server.Close()
	var served sync.WaitGroup
	defer served.Wait()
	self, home := relay.Key{1}, relay.Key{9}
	up := make(chan relay.Key, 1)
	pool := relay.NewPool(relay.PoolConfig{
		Key: self,
		Dial: func(context.Context, relay.Key) (relay.Stream, error) {
			client, end := net.Pipe()
			served.Go(func() { _ = server.Serve(context.Background(), end, self, "") })
			return client, nil
		},
		OnHomes: func(homes []relay.Key) { up <- homes[0] },
	})
	defer pool.Close()
	pool.SetKnown([]relay.Key{home})
	fmt.Println("home:", <-up)
	// Output: home: 09000000
}
