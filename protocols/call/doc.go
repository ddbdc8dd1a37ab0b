// Package call is the call protocol, ALPN "alknet/call": typed, discoverable,
// access-controlled operations between two nodes, in both directions over one
// session.
//
// A program registers each [Operation], a [Spec] and its handler, with a
// [Protocol], and hands the Protocol to the router as the handler of the ALPN.
// Whichever side opened the session, both may call: [Protocol.Session] gives
// the [Session] of a connection, whose Call takes one answer and whose
// Subscribe takes many.
//
//	calls := call.New(call.Config{Provider: peers})
//	err := calls.Register(call.Operation{
//		Spec: call.Spec{Name: "clock/now"},
//		Handler: call.HandlerFunc(func(ctx context.Context, r *call.Request) (any, error) {
//			return time.Now(), nil
//		}),
//	})
//
// Authorisation is the operation's Access against the identity of the
// caller, and nothing else (CALL-62). Cancellation reaches a handler through
// its context only.
//
// A handler calls other operations through its Request's [Env]: those of this
// node, of its agent session, and those a session has imported from its peer
// (RegisterImported). What it reaches is the operation's ScopedEnv, as whom its
// Authority, and with which outbound secrets its Capabilities; assembly grants
// all three, peers none. An abort, a deadline and the loss of a session reach
// everything below a request, on this node and beyond.
//
// SPEC.md beside this file describes the wire completely.
package call

// ALPN is the name of the call protocol.
const ALPN = "alknet/call"
