package call_test

import (
	"context"
	"fmt"

	"github.com/alkdev/alknet-p2p/protocols"
	"github.com/alkdev/alknet-p2p/protocols/auth"
	"github.com/alkdev/alknet-p2p/protocols/call"
)

// connected joins a Protocol to a caller within this process; in a node the
// router does that over the network.
func connected(ctx context.Context, server *call.Protocol) *call.Session {
	here, there := protocols.Pipe(call.ALPN)
	client := call.New(call.Config{})
	go func() { _ = client.Handle(ctx, here, auth.Context{}) }()
	go func() { _ = server.Handle(ctx, there, auth.Context{}) }()
	session, err := client.Session(ctx, here)
	if err != nil {
		panic(err)
	}
	return session
}

func Example() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	calls := call.New(call.Config{})
	err := calls.Register(call.Operation{
		Spec: call.Spec{Name: "math/add"},
		Handler: call.HandlerFunc(func(_ context.Context, r *call.Request) (any, error) {
			var in struct{ A, B int }
			if err := r.Decode(&in); err != nil {
				return nil, err
			}
			return in.A + in.B, nil
		}),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	session := connected(ctx, calls)
	sum, err := session.Call(ctx, "math/add", map[string]int{"A": 2, "B": 3})
	fmt.Println(string(sum), err)
	_, err = session.Call(ctx, "math/divide", nil)
	fmt.Println(err)
	// Output:
	// 5 <nil>
	// NOT_FOUND: operation not found: math/divide
}

func ExampleSession_Subscribe() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	calls := call.New(call.Config{})
	err := calls.Register(call.Operation{
		Spec: call.Spec{Name: "count/up", Type: call.OpSubscription},
		Stream: call.StreamHandlerFunc(func(_ context.Context, _ *call.Request, emit func(any) error) error {
			for i := 1; ; i++ {
				if err := emit(i); err != nil {
					return err // the subscriber has had enough
				}
			}
		}),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	sub, err := connected(ctx, calls).Subscribe(ctx, "count/up", nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	for value, err := range sub.All(ctx) {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(string(value))
		if string(value) == "3" {
			break // leaving the loop aborts the subscription
		}
	}
	// Output:
	// 1
	// 2
	// 3
}
