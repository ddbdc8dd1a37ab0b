package discovery

import (
	"bytes"
	"context"
	"sync/atomic"
	"testing"
	"time"

	dht "github.com/libp2p/go-libp2p-kad-dht"
	dhtpb "github.com/libp2p/go-libp2p-kad-dht/pb"
	libp2pdhtrecord "github.com/libp2p/go-libp2p-record"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	libp2precord "github.com/libp2p/go-libp2p/core/record"
	"github.com/stretchr/testify/require"
)

// TestPATH37RecordHijack is the attack of PATH-37 and section 9: everything an
// attacker can lay hands on is put under the victim's key, into an honest DHT
// server, into an honest relay, and given out by a DHT server and a relay of
// the attacker's own. Nobody ever takes it for the victim's record.
func TestPATH37RecordHijack(t *testing.T) {
	const victimKey, attackerKey = 2, 66
	honest, victim, resolver := newHost(t, 1), newHost(t, victimKey), newHost(t, 3)
	attacker := newHost(t, attackerKey)

	// The victim has published twice: the attacker kept the first record.
	dh := start(t, Config{Host: honest, Relay: true, DHTServer: true})
	home := []peer.AddrInfo{infoOf(honest)}
	content := boxed(Content{Relays: home, Addrs: addrsOf("/ip4/203.0.114.1/tcp/4001")})
	dv := start(t, Config{Host: victim, Bootstrap: home, Content: content.get})
	eventually(t, hasDHTPeers(dv, 1))
	require.NoError(t, dv.Publish(t.Context()))
	replayed := dv.Latest(victim.ID()).Envelope()
	content.set(Content{Relays: home, Addrs: addrsOf("/ip4/203.0.114.2/tcp/4001")})
	require.NoError(t, dv.Publish(t.Context()))
	genuine := dv.Latest(victim.ID())
	require.NotEqual(t, replayed, genuine.Envelope())

	// What the attacker has: the victim's own signed peer record, out of
	// identify, under two names; and what it can sign itself.
	sub, err := attacker.EventBus().Subscribe(new(event.EvtPeerIdentificationCompleted))
	require.NoError(t, err)
	defer sub.Close()
	require.NoError(t, attacker.Connect(t.Context(), infoOf(victim)))
	identify := (<-sub.Out()).(event.EvtPeerIdentificationCompleted).SignedPeerRecord
	require.NotNil(t, identify)
	require.True(t, victim.ID().MatchesPublicKey(identify.PublicKey), "not the victim's signature")
	fromIdentify, err := identify.Marshal()
	require.NoError(t, err)
	underOurType := bytes.Replace(fromIdentify, []byte{0x12, 2, 3, 1}, append([]byte{0x12, 0x16}, recordPayloadType...), 1)
	require.NotEqual(t, fromIdentify, underOurType)

	evil := addrsOf("/ip4/198.51.101.66/tcp/666")
	later := func(r *Record) { r.Seq += 60_000; r.Addrs = evil }
	forged, err := libp2precord.Seal((*payload)(&Record{
		Network: testNetwork, Peer: victim.ID(), Addrs: evil,
		Seq: genuine.Seq + 60_000, Expiry: genuine.Expiry,
	}), attacker.Peerstore().PrivKey(attacker.ID()))
	require.NoError(t, err)
	byAnother, err := forged.Marshal()
	require.NoError(t, err)
	forged.PublicKey = victim.Peerstore().PubKey(victim.ID())
	underVictimsKey, err := forged.Marshal()
	require.NoError(t, err)

	attacks := map[string][]byte{
		"peer record from identify":              fromIdentify,
		"the same as an address record":          underOurType,
		"signed by another key":                  byAnother,
		"the same with the victim's key":         underVictimsKey,
		"another key's own record":               sealed(t, attackerKey, later).Envelope(),
		"the victim's record of another network": sealed(t, victimKey, later, func(r *Record) { r.Network = "other" }).Envelope(),
		"the victim's record from the future":    sealed(t, victimKey, later, func(r *Record) { r.Seq += uint64(2 * time.Hour.Milliseconds()) }).Envelope(),
		"the victim's record, expired":           sealed(t, victimKey, later, func(r *Record) { r.Expiry = time.Now(); r.Seq -= 120_000 }).Envelope(),
		"the victim's older record":              replayed,
		"no envelope at all":                     []byte("192.0.2.66:666"),
		"nothing":                                {},
	}

	// The attacker's DHT server and relay believe and give out anything.
	lie := boxed[[]byte](nil)
	var asked struct{ dht, relay atomic.Int32 }
	lying, err := dht.New(attacker,
		dht.Mode(dht.ModeServer),
		dht.ProtocolPrefix("/alknet/"+testNetwork),
		dht.Validator(credulous{}),
		dht.OnRequestHook(func(_ context.Context, _ network.Stream, req *dhtpb.Message) {
			if req.GetType() == dhtpb.Message_GET_VALUE {
				asked.dht.Add(1)
			}
		}),
		dht.BootstrapPeers(home...))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, lying.Close()) })
	attacker.SetStreamHandler(ProtocolID, func(s network.Stream) {
		asked.relay.Add(1)
		var buf [2 + maxAddrMessage]byte
		if _, _, err := readAddrMessage(s, &buf); err == nil {
			_, _ = s.Write(addrMessage(addrFound, lie.get()))
		}
		_ = s.Close()
	})
	messenger, err := dhtpb.NewProtocolMessenger(lying.MessageSender())
	require.NoError(t, err)

	// The resolver asks both servers and both relays.
	dr := start(t, Config{Host: resolver, Bootstrap: append(home, infoOf(attacker))})
	eventually(t, hasDHTPeers(dr, 2))
	eventually(t, hasDHTPeers(dh, 1))
	eventually(t, func() error {
		if lying.RoutingTable().Size() == 0 {
			return errNoDHT
		}
		return nil
	})
	key := RecordKey(victim.ID())
	client := &addrClient{network: testNetwork, now: time.Now, open: func(ctx context.Context, p peer.ID) (network.Stream, error) {
		return attacker.NewStream(ctx, p, ProtocolID)
	}}
	for name, raw := range attacks {
		t.Run(name, func(t *testing.T) {
			lie.set(raw)
			rec := libp2pdhtrecord.MakePutRecord(key, raw)
			require.NoError(t, lying.Validator.Validate(key, raw))
			require.NoError(t, lying.PutValue(t.Context(), key, raw)) // into its own store
			asked.dht.Store(0)
			asked.relay.Store(0)

			// An honest DHT server refuses it from the wire.
			err := messenger.PutValue(t.Context(), honest.ID(), rec)
			require.Error(t, err, "stored in the DHT")

			// So does an honest relay.
			kind, body, err := client.ask(t.Context(), honest.ID(), addrPut, raw)
			require.NoError(t, err)
			switch {
			case bytes.Equal(raw, replayed):
				require.EqualValues(t, addrFound, kind)
				require.Equal(t, genuine.Envelope(), body)
			case name == "another key's own record":
				// Its own key's, and so no harm: it is not the victim's.
				require.EqualValues(t, addrStored, kind)
			default:
				require.EqualValues(t, addrRefused, kind)
			}
			held, err := client.get(t.Context(), honest.ID(), victim.ID())
			require.NoError(t, err)
			require.Equal(t, genuine.Envelope(), held.Envelope())

			// Nor can it be slipped in by hand.
			_, err = dr.Learn(victim.ID(), raw)
			if !bytes.Equal(raw, replayed) {
				require.Error(t, err)
			}

			// And whoever asks everybody ends with the genuine record.
			all := resolve(t, dr, victim.ID())
			require.Equal(t, genuine.Envelope(), lastFound(t, all).Record.Envelope())
			require.Positive(t, asked.dht.Load(), "the attacker's DHT server was not asked")
			require.Positive(t, asked.relay.Load(), "the attacker's relay was not asked")
			for _, f := range all {
				require.NotContains(t, f.Addrs, evil[0])
				require.Equal(t, victim.ID(), f.Record.Peer)
			}
			require.Equal(t, genuine.Envelope(), dr.Latest(victim.ID()).Envelope())
		})
	}
}

// credulous is the validator of a DHT server that stores anything and prefers
// the latest.
type credulous struct{}

func (credulous) Validate(string, []byte) error        { return nil }
func (credulous) Select(string, [][]byte) (int, error) { return 0, nil }
