// Package interop holds no code, only tests: our node and a js-libp2p node
// meet, each dialling the other; and Node computes what the vault derives.
//
// They need Node.js with npm, and npm's registry once; they are skipped
// without, and fail instead with -interop.required.
package interop
