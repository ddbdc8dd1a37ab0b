package discovery_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/alkdev/alknet-p2p/transport/discovery"
)

func ExampleParseTicket() {
	id, err := peer.Decode("12D3KooWQK1wnefoLrcVHbbnf5tLzbopUd3K3bFAoJpA7YJgL5pV")
	if err != nil {
		panic(err)
	}
	ticket, err := discovery.NewTicket("main", id, nil, []ma.Multiaddr{ma.StringCast("/ip4/203.0.114.1/tcp/4001")})
	if err != nil {
		panic(err)
	}
	text := ticket.String()
	fmt.Println(text)

	again, err := discovery.ParseTicket(text)
	if err != nil {
		panic(err)
	}
	fmt.Println(again.Network, again.Peer, again.Addrs)

	_, err = discovery.ParseTicket(text[:len(text)-5])
	fmt.Println(errors.Is(err, discovery.ErrTicketTypo))
	// Output:
	// alk1aecg2yljn3lvvgabqkyqvn6vjp7nhslea45a5yls6pnkmizfv4bbu2hxa5iruaabbacmwadsaeda7iktedrfm
	// main 12D3KooWQK1wnefoLrcVHbbnf5tLzbopUd3K3bFAoJpA7YJgL5pV [/ip4/203.0.114.1/tcp/4001]
	// true
}

// The addresses of a peer, as they come, until one of them works.
func ExampleDiscovery_Resolve() {
	dialByKey := func(d *discovery.Discovery, p peer.ID, dial func(discovery.Found) error) error {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		for found := range d.Resolve(ctx, p) {
			if dial(found) == nil {
				return nil
			}
		}
		return errors.New("unreachable")
	}
	_ = dialByKey
}
