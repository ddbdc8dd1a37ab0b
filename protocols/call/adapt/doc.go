// Package adapt makes operations out of things that are none here: programs, by
// [Exec]; requests to HTTP services, or schemas alone, by [FromJSONSchema]; the
// operations of a peer, by [FromCall].
package adapt
