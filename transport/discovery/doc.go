// Package discovery finds the addresses of peers by their keys.
//
// A node publishes one small signed [Record] that says through which relays,
// and optionally at which addresses, its key can be reached. The record goes
// straight to the node's own relays over the stream protocol [ProtocolID] and
// into a private kad-dht (PATH-36, PATH-37); [Discovery.Resolve] asks all of
// them at once, beside the disk cache and mDNS, and hands out results as they
// come. A [Ticket] carries the same facts by hand, as text. A node that hides
// speaks to its relays only, and they ask the DHT for it (PATH-38).
//
// Whatever is found is a hint where to dial, never a right: the key proves
// itself in the handshake, and a record counts only when its own key signed it
// for this network. The byte formats are in SPEC.md.
package discovery
