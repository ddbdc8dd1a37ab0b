package protocols_test

import (
	"context"
	"fmt"
	"io"

	"github.com/alkdev/alknet-p2p/protocols"
	"github.com/alkdev/alknet-p2p/protocols/auth"
)

// greeter answers the first stream of a session with a greeting.
type greeter struct{}

func (greeter) ALPN() string { return "example.org/greet" }

func (greeter) Handle(ctx context.Context, conn protocols.Connection, peer auth.Context) error {
	s, err := conn.AcceptStream(ctx)
	if err != nil {
		return err
	}
	name, err := io.ReadAll(io.LimitReader(s, 64))
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(s, "hello %s, you are %s", name, peer.PeerName); err != nil {
		return err
	}
	return s.Close()
}

// A handler sees sessions only, so it can be tried out in memory.
func ExamplePipe() {
	ctx := context.Background()
	near, far := protocols.Pipe(greeter{}.ALPN())
	done := make(chan error)
	go func() { done <- greeter{}.Handle(ctx, far, auth.Context{PeerName: "worker-a"}) }()

	s, err := near.OpenStream(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	_, _ = io.WriteString(s, "Ada")
	_ = s.CloseWrite()
	answer, _ := io.ReadAll(s)
	_ = s.Close()
	fmt.Println(string(answer), <-done)
	_ = near.Close(0, "done")
	// Output: hello Ada, you are worker-a <nil>
}
