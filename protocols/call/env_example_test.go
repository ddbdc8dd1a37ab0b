package call_test

import (
	"context"
	"fmt"
	"strings"

	"github.com/alkdev/alknet-p2p/protocols"
	"github.com/alkdev/alknet-p2p/protocols/call"
)

// An operation calls another: which one its ScopedEnv says, as whom its
// Authority, whoever its own caller is.
func ExampleEnv() {
	node := call.New(call.Config{})
	defer node.Close()
	err := node.Register(
		call.Operation{
			Spec: call.Spec{Name: "text/upper", Visibility: call.Internal},
			Handler: call.HandlerFunc(func(_ context.Context, r *call.Request) (any, error) {
				var s string
				if err := r.Decode(&s); err != nil {
					return nil, err
				}
				return strings.ToUpper(s) + " for " + r.Identity.ID, nil
			}),
		},
		call.Operation{
			Spec:      call.Spec{Name: "text/shout"},
			Authority: &call.CompositionAuthority{Label: "shouter"},
			ScopedEnv: &call.ScopedEnv{AllowedOps: []string{"text/upper"}},
			Handler: call.HandlerFunc(func(ctx context.Context, r *call.Request) (any, error) {
				return r.Env.Invoke(ctx, "text/upper", r.Input)
			}),
		},
	)
	if err != nil {
		fmt.Println(err)
		return
	}

	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	user := call.New(call.Config{})
	a, b := protocols.Pipe(call.ALPN)
	done := make(chan error, 2)
	go func() { done <- user.Handle(ctx, a, anonymous()) }()
	go func() { done <- node.Handle(ctx, b, anonymous()) }()
	session, err := user.Session(ctx, a)
	if err != nil {
		fmt.Println(err)
		return
	}
	out, err := session.Call(ctx, "text/shout", "hello")
	fmt.Println(string(out), err)
	stop()
	<-done
	<-done
	// Output: "HELLO for shouter" <nil>
}
