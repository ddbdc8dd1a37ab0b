package discovery

import (
	"fmt"
	"strings"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"
)

func TestTicketVectors(t *testing.T) {
	var vectors ticketVectors
	readVectors(t, "tickets.json", &vectors)
	require.NotEmpty(t, vectors.Valid)
	for _, v := range vectors.Valid {
		t.Run(v.Name, func(t *testing.T) {
			want := &Ticket{Network: v.Network, Peer: peerOf(unhex(t, v.Key)), Relays: relaysOf(t, v.Relays), Addrs: addrsOf(v.Addrs...)}
			require.Equal(t, v.Text, want.String())
			b, err := want.encode()
			require.NoError(t, err)
			require.Equal(t, unhex(t, v.Binary), b)
			got, err := ParseTicket(v.Text)
			require.NoError(t, err)
			require.Equal(t, want, got)
		})
	}
	require.NotEmpty(t, vectors.Invalid)
	for _, v := range vectors.Invalid {
		t.Run(v.Name, func(t *testing.T) {
			_, err := ParseTicket(v.Text)
			require.ErrorIs(t, err, vectorErrors()[v.Error])
		})
	}
}

func TestTicketText(t *testing.T) {
	ticket, err := NewTicket("main", testID(1), []peer.AddrInfo{{ID: testID(2)}}, nil)
	require.NoError(t, err)
	text, err := ticket.MarshalText()
	require.NoError(t, err)
	require.Equal(t, ticket.String(), string(text))
	var again Ticket
	require.NoError(t, again.UnmarshalText(text))
	require.Equal(t, *ticket, again)
	require.ErrorIs(t, again.UnmarshalText(text[1:]), ErrMalformed)

	require.Empty(t, new(Ticket).String())
	_, err = new(Ticket).MarshalText()
	require.ErrorIs(t, err, ErrNetworkName)
	_, err = NewTicket("main", peer.ID("x"), nil, nil)
	require.Error(t, err)
}

// NewTicket drops what does not fit instead of failing, the least wanted first.
func TestNewTicketTrims(t *testing.T) {
	var relays []peer.AddrInfo
	for i := range 6 {
		r := peer.AddrInfo{ID: testID(byte(10 + i))}
		for j := range 12 {
			r.Addrs = append(r.Addrs, addrsOf(fmt.Sprintf("/dns4/relay-%d-%s.example.com/tcp/%d/tls/ws", i, strings.Repeat("x", 50), j+1))...)
		}
		relays = append(relays, r)
	}
	relays = append([]peer.AddrInfo{{ID: peer.ID("no Ed25519 key")}, relays[0]}, relays...)
	addrs := append(addrsOf(
		"/ip4/0.0.0.0/tcp/1",
		"/ip4/203.0.114.1/tcp/1/p2p-circuit",
		"/ip4/203.0.114.1/tcp/4001",
		"/ip4/203.0.114.1/tcp/4001",
	), relays[1].Addrs...)
	ticket, err := NewTicket("main", testID(1), relays, addrs)
	require.NoError(t, err)
	require.Len(t, ticket.Relays, MaxRelays)
	for i, r := range ticket.Relays {
		require.Equal(t, testID(byte(10+i)), r.ID)
		require.NotEmpty(t, r.Addrs)
		require.Equal(t, relays[2+i].Addrs[0], r.Addrs[0])
	}
	require.Equal(t, "/ip4/203.0.114.1/tcp/4001", ticket.Addrs[0].String())
	require.False(t, containsAddr(ticket.Addrs[1:], ticket.Addrs[0]))
	_, err = ParseTicket(ticket.String())
	require.NoError(t, err)
	require.Greater(t, len(ticket.String())*5/8, MaxTicketBytes-300, "more was dropped than needed")
}

func FuzzParseTicket(f *testing.F) {
	var vectors ticketVectors
	readVectors(f, "tickets.json", &vectors)
	for _, v := range vectors.Valid {
		f.Add(v.Text)
	}
	for _, v := range vectors.Invalid {
		f.Add(v.Text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		ticket, err := ParseTicket(text)
		if err == nil && ticket.String() != text {
			t.Fatalf("a second spelling: %q", text)
		}
	})
}

// FuzzDecodeTicket gets past the checksum, which FuzzParseTicket hardly does.
func FuzzDecodeTicket(f *testing.F) {
	var vectors ticketVectors
	readVectors(f, "tickets.json", &vectors)
	for _, v := range vectors.Valid {
		b := unhex(f, v.Binary)
		f.Add(b[:len(b)-ticketSumBytes])
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		ticket, err := decodeTicket(body)
		if err != nil || len(body)+ticketSumBytes > MaxTicketBytes {
			return
		}
		b, err := ticket.encode()
		require.NoError(t, err)
		require.Equal(t, body, b[:len(b)-ticketSumBytes])
	})
}
