package natlab_test

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/alkdev/alknet-p2p/transport/natlab"
)

// A program behind a home router meets another one behind a symmetric NAT; in
// the middle of it, one router reboots and the relay is silent for a while.
func ExampleStart() {
	var t *testing.T // the test's own

	lab := natlab.Start(t, natlab.Config{
		Public: []string{"relay"},
		Peers: []natlab.Peer{
			{Name: "a", Kind: natlab.PortRestricted},
			{Name: "b", Kind: natlab.Symmetric},
		},
		Link: natlab.Link{Delay: 25 * time.Millisecond},
	})

	relay := lab.Host("relay").Command(t.Context(), "./program", "relay")
	if err := relay.Start(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "b"} {
		peer := lab.Host(name).Command(t.Context(), "./program", "join", lab.Host("relay").Addr().String())
		if err := peer.Start(); err != nil {
			t.Fatal(err)
		}
	}

	if err := lab.NATReset("a"); err != nil {
		t.Fatal(err)
	}
	if err := lab.Dark("relay", 5*time.Second); err != nil {
		t.Fatal(err)
	}
}

// A socket that Do opens stays in the host and is used from anywhere.
func ExampleHost_Do() {
	var h *natlab.Host // of a lab

	var conn *net.UDPConn
	err := h.Do(func() (err error) {
		conn, err = net.ListenUDP("udp4", nil)
		return err
	})
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = conn.WriteToUDPAddrPort([]byte("hello"), netip.MustParseAddrPort("5.20.0.2:7"))
}
