// Package disco seals and opens the small packets by which two nodes probe the
// paths between them (PATH-10, 11). It is bytes and keys only: no sockets, no
// timers, no goroutines.
//
// An [Identity] is made of the node's ed25519 key. Over a relay, which names
// the sender, [Identity.Seal] and [Identity.Open] do. Straight over UDP the
// node's key must not be seen by the network, so packets there name a key made
// for this boot: [Identity.SealIntroduction] makes it known to a peer,
// [Identity.SealDirect] uses it, [Identity.OpenDirect] opens both.
//
// Opening proves who sealed a packet, not that it is new: the caller keeps a
// [Window] of transactions and a [Boots] for every peer. The bytes are
// specified in SPEC.md.
package disco
