package node_test

import (
	"context"
	"crypto/ed25519"
	"fmt"

	"github.com/alkdev/alknet-p2p/node"
	"github.com/alkdev/alknet-p2p/protocols/call"
)

func Example() {
	// README begin
	ctx := context.Background()
	_, aliceKey, _ := ed25519.GenerateKey(nil)
	_, bobKey, _ := ed25519.GenerateKey(nil)

	alice, _ := node.New(node.Config{Key: aliceKey, Relay: &node.RelayConfig{}, Listen: []string{"/ip4/127.0.0.1/tcp/0"}})
	alice.Calls().Register(call.Operation{
		Spec: call.Spec{Name: "greet/hello"},
		Handler: call.HandlerFunc(func(_ context.Context, r *call.Request) (any, error) {
			return map[string]any{"hello": r.Input}, nil
		}),
	})
	alice.Start(ctx)
	defer alice.Close()

	bob, _ := node.New(node.Config{Key: bobKey, Join: []string{alice.Ticket()}})
	bob.Start(ctx)
	defer bob.Close()
	out, err := bob.Call(ctx, alice.Key(), "greet/hello", "bob")
	fmt.Println(string(out), err)
	// README end

	// Output: {"hello":"bob"} <nil>
}
