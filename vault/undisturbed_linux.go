package vault

import (
	"math/bits"
	"runtime"

	"golang.org/x/crypto/chacha20poly1305"
	"golang.org/x/sys/unix"
)

// undisturbed runs f, which handles a root secret, without a signal to its
// thread, and clears the registers that f used. When a signal comes the kernel
// writes all registers to memory, where they stay: those that bytes were last
// copied, decrypted or hashed in hold the bytes. Go sends itself signals all the
// time, to take the processor from a goroutine; meanwhile f gives it up at its
// calls of functions, as it does anyway.
func undisturbed(f func() error) error {
	// All but those that a fault of the program itself raises.
	var held, before unix.Sigset_t
	for i := range held.Val {
		held.Val[i] = ^held.Val[i]
	}
	for _, fault := range []unix.Signal{unix.SIGSEGV, unix.SIGBUS, unix.SIGFPE, unix.SIGILL, unix.SIGTRAP, unix.SIGABRT, unix.SIGSYS} {
		bit := int(fault) - 1
		held.Val[bit/bits.UintSize] &^= 1 << (bit % bits.UintSize)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &held, &before); err == nil {
		defer func() { _ = unix.PthreadSigmask(unix.SIG_SETMASK, &before, nil) }() // as it was
	}
	defer clearRegisters()
	return f()
}

// clearRegisters fills the registers that hold bytes with something else: those
// for encryption and those for copies are the same, and hold more than hashes
// use.
func clearRegisters() {
	aead, err := chacha20poly1305.New(make([]byte, chacha20poly1305.KeySize))
	if err != nil {
		return // the key has the right size
	}
	filler := make([]byte, 1<<10, 1<<10+chacha20poly1305.Overhead)
	aead.Seal(filler[:0], make([]byte, chacha20poly1305.NonceSize), filler, nil)
	copy(make([]byte, len(filler)), filler)
}
