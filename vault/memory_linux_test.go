package vault_test

import (
	"bufio"
	"bytes"
	"crypto/pbkdf2"
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/alkdev/alknet-p2p/vault"
)

// A dump of the memory of a process that opened a vault, without what is kept
// out of dumps, holds neither phrase nor seed, however they are written: not
// while the vault is open, and not after.
func TestMemoryDump(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can read the memory of another process")
	}
	m, err := vault.NewMnemonic(vault.DefaultWords)
	require.NoError(t, err)
	var phrase string
	require.NoError(t, m.Use(func(b []byte) { phrase = string(b) }))
	home := filepath.Join(t.TempDir(), "home")
	_, err = vault.Create(home, m, []byte(passphrase), vault.FileOptions{WorkFactor: cheap})
	require.NoError(t, err)
	seed, err := pbkdf2.Key(sha512.New, phrase, []byte("mnemonic"), 2048, 64)
	require.NoError(t, err)
	secrets := map[string][]byte{
		"seed": seed, "half of the seed": seed[:32], "other half": seed[32:], "seed in hex": []byte(hex.EncodeToString(seed)),
	}
	words := strings.Fields(phrase)
	for i := range len(words) - 3 {
		secrets[fmt.Sprint("words from ", i+1)] = []byte(strings.Join(words[i:i+4], " "))
	}

	cmd := child(t, "open", home)
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := bufio.NewScanner(out)
	_, err = io.WriteString(in, passphrase+"\n")
	require.NoError(t, err)
	require.True(t, lines.Scan())
	require.Equal(t, "open true", lines.Text())

	dumped, withheld := dump(t, cmd.Process.Pid)
	require.True(t, bytes.Contains(withheld, seed), "the seed is where it should be, so this test looks at memory")
	require.True(t, bytes.Contains(dumped, []byte(home)))
	for name, secret := range secrets {
		require.False(t, bytes.Contains(dumped, secret), name)
	}

	_, err = io.WriteString(in, "close\n")
	require.NoError(t, err)
	require.True(t, lines.Scan())
	dumped, withheld = dump(t, cmd.Process.Pid)
	for name, secret := range secrets {
		require.False(t, bytes.Contains(dumped, secret), name)
		require.False(t, bytes.Contains(withheld, secret), name)
	}
	require.NoError(t, in.Close())
	require.NoError(t, cmd.Wait())
}

// dump is the memory that a process has written to: what a core dump has of it,
// and what it has not.
func dump(t *testing.T, pid int) (dumped, withheld []byte) {
	t.Helper()
	const tooLarge = 8 << 30 // the race detector's shadow, which holds no data
	smaps, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", pid))
	require.NoError(t, err)
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	require.NoError(t, err)
	defer mem.Close()
	pages, err := os.Open(fmt.Sprintf("/proc/%d/pagemap", pid))
	require.NoError(t, err)
	defer pages.Close()
	size := uint64(os.Getpagesize())
	page := make([]byte, size)
	var start, end uint64
	var writable bool
	for line := range strings.Lines(string(smaps)) {
		if head := region.FindStringSubmatch(line); head != nil {
			start, end, writable = address(t, head[1]), address(t, head[2]), head[3] == "w"
			continue
		}
		flags, found := strings.CutPrefix(line, "VmFlags:")
		if !found || !writable || end-start > tooLarge {
			continue
		}
		entries := make([]byte, (end-start)/size*8)
		_, err := pages.ReadAt(entries, int64(start/size*8))
		require.NoError(t, err)
		for at := start; at < end; at += size {
			const present, swapped = 1 << 63, 1 << 62
			if binary.NativeEndian.Uint64(entries[(at-start)/size*8:])&(present|swapped) == 0 {
				continue
			}
			_, err := mem.ReadAt(page, int64(at))
			require.NoError(t, err)
			if strings.Contains(flags, " dd") {
				withheld = append(withheld, page...)
			} else {
				dumped = append(dumped, page...)
			}
		}
	}
	return dumped, withheld
}

// region is the head of a mapping in smaps.
var region = regexp.MustCompile(`^([0-9a-f]+)-([0-9a-f]+) .(.)`)

func address(t *testing.T, hex string) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(hex, 16, 64)
	require.NoError(t, err)
	return n
}

func TestSeedIsLocked(t *testing.T) {
	v := unlocked(t, vault.Config{})
	require.True(t, v.MemoryLocked())
	seed := vault.SeedAddress(v)
	flags := mapping(t, seed)
	for _, flag := range []string{"lo", "dd", "dc"} { // locked, not dumped, not copied by fork
		require.Contains(t, flags, flag)
	}
	v.Lock()
	require.False(t, v.MemoryLocked())
	require.NotContains(t, mapping(t, seed), "dd", "given back")
}

// mapping are the flags of the mapping at an address, none where there is none.
func mapping(t *testing.T, at uint64) []string {
	t.Helper()
	smaps, err := os.ReadFile("/proc/self/smaps")
	require.NoError(t, err)
	var start, end uint64
	for line := range strings.Lines(string(smaps)) {
		if head := region.FindStringSubmatch(line); head != nil {
			start, end = address(t, head[1]), address(t, head[2])
			continue
		}
		if flags, found := strings.CutPrefix(line, "VmFlags:"); found && start <= at && at < end {
			return strings.Fields(flags)
		}
	}
	return nil
}

// Without permission to lock memory the vault works, and says so.
func TestSeedIsNotLocked(t *testing.T) {
	var old unix.Rlimit
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_MEMLOCK, &old))
	require.NoError(t, unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Max: old.Max}))
	defer func() { require.NoError(t, unix.Setrlimit(unix.RLIMIT_MEMLOCK, &old)) }()
	identity := keyVectors(t)[0].PeerID
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for good: the thread without capabilities ends with the goroutine
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		if err := unix.Capset(&header, &data[0]); err != nil {
			t.Error(err)
			return
		}
		v, err := vault.New(vault.Config{})
		if err != nil {
			t.Error(err)
			return
		}
		defer v.Close()
		m, err := vault.ParseMnemonic([]byte(about))
		if err != nil {
			t.Error(err)
			return
		}
		if err := v.Unlock(m, nil); err != nil {
			t.Error(err)
		}
		if v.MemoryLocked() {
			t.Error("locked without permission")
		}
		if key, err := v.PublicKey(vault.Identity); err != nil || vault.PeerIDOf(key) != identity {
			t.Error("wrong key")
		}
	}()
	<-done
}

func TestHardenProcess(t *testing.T) {
	cmd := child(t, "harden")
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	defer in.Close()
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := bufio.NewScanner(out)
	require.True(t, lines.Scan())
	require.Equal(t, "hardened", lines.Text())

	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", cmd.Process.Pid))
	require.NoError(t, err)
	require.Regexp(t, `Max core file size +0 +0 `, string(limits))
	// Of a process that is not dumpable, root owns the files in /proc.
	stat, err := os.Stat(fmt.Sprintf("/proc/%d/mem", cmd.Process.Pid))
	require.NoError(t, err)
	require.Zero(t, stat.Sys().(*syscall.Stat_t).Uid)

	require.NoError(t, cmd.Process.Signal(syscall.SIGABRT))
	require.Error(t, cmd.Wait())
	require.False(t, cmd.ProcessState.Sys().(syscall.WaitStatus).CoreDump())
}
