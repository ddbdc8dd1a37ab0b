// Package acceptance holds no code, only tests: the command itself, built once,
// run as people run it, in network namespaces behind real NATs.
//
// They need root, nft and ip, and are skipped without; with -natlab.required
// they fail instead.
package acceptance
