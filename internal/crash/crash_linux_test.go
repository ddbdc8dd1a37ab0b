package crash_test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/alkdev/alknet-p2p/internal/crash"
)

var victim = flag.String("victim", "", "write in this folder, and exit")

func TestMain(m *testing.M) {
	flag.Parse()
	if *victim == "" {
		os.Exit(m.Run())
	}
	path := filepath.Join(*victim, "f")
	done := make(chan error)
	go func() { done <- os.WriteFile(path, []byte("x"), 0o600) }() // another thread's, as likely as not
	if err := errors.Join(<-done, os.Rename(path, path+"2"), os.Remove(path+"2")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// At each step the calls before it have been made, and no other.
func TestAt(t *testing.T) {
	left := func(dir string) string {
		var text strings.Builder
		files, err := os.ReadDir(dir)
		require.NoError(t, err)
		for _, f := range files {
			b, err := os.ReadFile(filepath.Join(dir, f.Name()))
			require.NoError(t, err)
			text.WriteString(f.Name() + "=" + string(b))
		}
		return text.String()
	}
	null, err := os.Open(os.DevNull) // or the runtime opens one
	require.NoError(t, err)
	defer null.Close()
	at := func(step int, dir string) (string, error) {
		return crash.At(step, os.Args[0], []string{os.Args[0], "-victim", dir}, os.ProcAttr{Files: []*os.File{null, os.Stdout, os.Stderr}})
	}
	for i, want := range []struct{ call, left string }{
		{"openat", ""}, {"write", "f="}, {"renameat", "f=x"}, {"unlinkat", "f2=x"}, {"", ""},
	} {
		dir := t.TempDir()
		call, err := at(i+1, dir)
		if errors.Is(err, syscall.EPERM) {
			t.Skip("processes may not be traced here")
		}
		require.NoError(t, err)
		require.Equal(t, want.call, call)
		require.Equal(t, want.left, left(dir), "at %s", call)
	}
	_, err = at(100, filepath.Join(t.TempDir(), "none"))
	require.ErrorContains(t, err, "exit status 1")
}
