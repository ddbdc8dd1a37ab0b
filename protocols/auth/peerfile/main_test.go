package peerfile_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/alkdev/alknet-p2p/protocols/auth"
	"github.com/alkdev/alknet-p2p/protocols/auth/peerfile"
)

// The test program is also the other process that writes the file.
var (
	writerFile = flag.String("peerfile.writer", "", "add peers to this `file` until killed, a line for each")
	writerOnce = flag.String("peerfile.name", "", "add the peer of this `name` and end")
)

func TestMain(m *testing.M) {
	flag.Parse()
	if *writerFile != "" {
		os.Exit(writer(*writerFile, *writerOnce))
	}
	goleak.VerifyTestMain(m)
}

func writer(path, name string) int {
	for {
		var added auth.PeerName
		err := peerfile.Update(context.Background(), path, func(c *auth.Config) error {
			if added = auth.PeerName(name); name == "" {
				added = auth.PeerName(fmt.Sprintf("p%d", len(c.Auth.Peers)))
			}
			return addPeer(added)(c)
		})
		if err != nil {
			fmt.Fprintln(os.Stdout, "failed:", err)
			return 1
		}
		fmt.Fprintln(os.Stdout, added)
		if name != "" {
			return 0
		}
	}
}
