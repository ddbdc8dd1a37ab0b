package discovery

import (
	"encoding/hex"
	"os"
	"path/filepath"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"
)

// The forms of the files in testdata, described in SPEC.md.

type ticketVectors struct {
	Valid []struct {
		Name    string       `json:"name"`
		Network string       `json:"network"`
		Key     string       `json:"key"`
		Relays  []vectorNode `json:"relays"`
		Addrs   []string     `json:"addrs"`
		Binary  string       `json:"binary"`
		Text    string       `json:"text"`
	} `json:"valid"`
	Invalid []struct {
		Name  string `json:"name"`
		Error string `json:"error"`
		Text  string `json:"text"`
	} `json:"invalid"`
}

type recordVectors struct {
	Valid []struct {
		Name       string       `json:"name"`
		Seed       string       `json:"seed"`
		Network    string       `json:"network"`
		Key        string       `json:"key"`
		Next       string       `json:"next"`
		Seq        uint64       `json:"seq"`
		Expiry     int64        `json:"expiry"`
		Generation uint32       `json:"generation"`
		HandOver   string       `json:"hand_over"`
		Relays     []vectorNode `json:"relays"`
		Addrs      []string     `json:"addrs"`
		Payload    string       `json:"payload"`
		Envelope   string       `json:"envelope"`
	} `json:"valid"`
	Invalid []struct {
		Name     string `json:"name"`
		Error    string `json:"error"`
		Network  string `json:"network"`
		Key      string `json:"key"`
		Now      int64  `json:"now"`
		Envelope string `json:"envelope"`
	} `json:"invalid"`
}

type addrVectors struct {
	Network   string `json:"network"`
	Now       int64  `json:"now"`
	Exchanges []struct {
		Name    string `json:"name"`
		Request string `json:"request"`
		Answer  string `json:"answer"`
	} `json:"exchanges"`
}

// vectorNode is a relay.
type vectorNode struct {
	Key   string   `json:"key"`
	Addrs []string `json:"addrs"`
}

func readVectors(t testing.TB, name string, into any) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", name))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(raw, into, json.RejectUnknownMembers(true)))
}

func unhex(t testing.TB, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(text)
	require.NoError(t, err)
	return b
}

func relaysOf(t testing.TB, nodes []vectorNode) []peer.AddrInfo {
	t.Helper()
	var infos []peer.AddrInfo
	for _, n := range nodes {
		infos = append(infos, peer.AddrInfo{ID: peerOf(unhex(t, n.Key)), Addrs: addrsOf(n.Addrs...)})
	}
	return infos
}

// vectorErrors names the errors of the vector files.
func vectorErrors() map[string]error {
	return map[string]error{
		"malformed":     ErrMalformed,
		"typo":          ErrTicketTypo,
		"version":       ErrTicketVersion,
		"wrong signer":  ErrWrongSigner,
		"wrong network": ErrWrongNetwork,
		"ahead":         ErrRecordAhead,
		"expired":       ErrRecordExpired,
	}
}

func hexOf(b []byte) string { return hex.EncodeToString(b) }
