// Package secrets holds no code, only tests: what the command leaves of its
// secrets in files, output, control traffic and memory, and of its files when
// it is killed in the middle.
//
// They read the memory of other processes, which takes root, and are skipped
// without; with -natlab.required they fail instead.
package secrets
