// Command alknet-p2p runs a node and talks to it: it keeps the node's secret
// in a vault, runs the node, and calls the operations of other nodes by their
// keys.
//
// What a command answers goes to standard output, what it says beside that to
// standard error. Exit codes: 0 done, 1 failed, 2 usage or configuration,
// 3 unreachable, 4 denied, 5 no daemon or vault locked, 6 timed out,
// 130 interrupted.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() { os.Exit(run(os.Args[1:])) }

// run is the whole program but for the exit.
func run(args []string) int {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	// The first signal ends the work in order, the second ends it at once.
	context.AfterFunc(ctx, cancel)

	a := &app{in: os.Stdin, out: os.Stdout, err: os.Stderr}
	root := newRoot(a)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	return a.fail(ctx, err)
}
