// Package relay carries sealed packets between nodes that cannot reach each
// other: the frames, the relay itself and the links of its clients (PATH-25 to
// 32).
//
// A node opens one [Link] to a relay and may then send to every key that is
// connected there; the relay passes frames on by key. It sees keys, sizes and
// times. It can drop and delay, but not read or impersonate: what it carries
// is sealed end to end, and each end has proved its key to it (PATH-32).
//
// A [Server] serves any number of clients. A [Pool] holds a node's links: two
// homes, where others find it, and foreign links to the homes of its peers.
//
// All of it runs on any ordered byte stream whose ends are authenticated; the
// bytes are specified in SPEC.md.
package relay
