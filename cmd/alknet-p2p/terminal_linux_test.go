package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/alkdev/alknet-p2p/vault"
)

// person sits at a terminal: reads what it shows and types.
type person struct {
	t        *testing.T
	keyboard *os.File

	mu   sync.Mutex
	seen []byte
	read int // of seen, by expect
}

// newTerminal opens a pseudo terminal for an app and a person.
func newTerminal(t *testing.T) (*app, *bytes.Buffer, *person) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	var number int
	raw, err := master.SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) {
		if err = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); err == nil {
			number, err = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
	}))
	require.NoError(t, err)
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)

	p := &person{t: t, keyboard: master}
	var reading sync.WaitGroup
	reading.Go(func() {
		buf := make([]byte, 4096)
		for {
			n, err := master.Read(buf)
			p.mu.Lock()
			p.seen = append(p.seen, buf[:n]...)
			p.mu.Unlock()
			if err != nil {
				return
			}
		}
	})
	t.Cleanup(func() {
		_ = slave.Close()
		_ = master.Close()
		reading.Wait()
	})
	out := new(bytes.Buffer)
	return &app{in: slave, out: out, err: slave}, out, p
}

// expect waits until the terminal shows the pattern, after what was expected
// before.
func (p *person) expect(pattern string) []string {
	p.t.Helper()
	re := regexp.MustCompile(pattern)
	var found []string
	require.Eventually(p.t, func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		at := re.FindSubmatchIndex(p.seen[p.read:])
		if at == nil {
			return false
		}
		for i := 0; i < len(at); i += 2 {
			found = append(found, string(p.seen[p.read+at[i]:p.read+at[i+1]]))
		}
		p.read += at[1]
		return true
	}, 20*time.Second, 5*time.Millisecond, "%s is not shown", pattern)
	return found
}

// typesSecret types what must not be shown, once the terminal hides it.
func (p *person) typesSecret(text string) {
	p.t.Helper()
	require.Eventually(p.t, p.hidden, 20*time.Second, time.Millisecond, "the terminal shows what is typed")
	p.types(text)
}

// hidden reports whether the terminal hides what is typed.
func (p *person) hidden() bool {
	raw, err := p.keyboard.SyscallConn()
	if err != nil {
		return false
	}
	var mode *unix.Termios
	rawErr := raw.Control(func(fd uintptr) { mode, err = unix.IoctlGetTermios(int(fd), unix.TCGETS) })
	return rawErr == nil && err == nil && mode.Lflag&unix.ECHO == 0
}

// all is what the terminal has shown.
func (p *person) all() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return string(p.seen)
}

func (p *person) types(text string) {
	p.t.Helper()
	_, err := p.keyboard.WriteString(text + "\n")
	require.NoError(p.t, err)
}

// readsWords reads the 24 words and knows them when asked.
func (p *person) readsWords() []string {
	p.t.Helper()
	words := make([]string, 24)
	for i := range words {
		words[i] = p.expect(fmt.Sprintf(`%2d ([a-z]+)`, i+1))[1]
	}
	return words
}

func (p *person) isAsked() int {
	p.t.Helper()
	n, err := strconv.Atoi(p.expect(`Word (\d+): `)[1])
	require.NoError(p.t, err)
	return n
}

func TestInitOnATerminal(t *testing.T) {
	a, _, p := newTerminal(t)
	h := home(filepath.Join(t.TempDir(), "home"))
	type result struct {
		info *vault.Info
		err  error
	}
	done := make(chan result, 1)
	go func() {
		info, err := a.initialise(t.Context(), h, initFlags{workFactor: 10})
		done <- result{info, err}
	}()
	p.expect(`A passphrase to seal the key with: `)
	p.typesSecret("correct hors3")
	p.expect(`The same again: `)
	p.typesSecret("correct hous3")
	p.expect(`They differ`)
	p.expect(`seal the key with: `)
	p.typesSecret("correct hors3")
	p.expect(`again: `)
	p.typesSecret("correct hors3")
	p.expect(`Write them down`)
	words := p.readsWords()
	first := p.isAsked()
	p.types(words[first-1])
	n := p.isAsked()
	require.NotEqual(t, first, n, "three different words are asked")
	p.types("wrong")
	p.expect(`That is not word`)
	require.Equal(t, n, p.isAsked(), "the same word is asked again")
	require.NoFileExists(t, filepath.Join(string(h), "vault.age"), "nothing is made before the words are known")
	p.types(strings.ToUpper(words[n-1]))
	third := p.isAsked()
	require.NotContains(t, []int{first, n}, third)
	p.types(words[third-1])
	r := <-done
	require.NoError(t, r.err)
	require.NotContains(t, p.all(), "hors3", "passphrases are not shown")

	v, err := vault.Open(string(h), []byte("correct hors3"), nil)
	require.NoError(t, err)
	require.NoError(t, v.Close())

	// The words that were written down restore the same key.
	again := home(filepath.Join(t.TempDir(), "again"))
	go func() {
		info, err := a.initialise(t.Context(), again, initFlags{workFactor: 10, restore: "-"})
		done <- result{info, err}
	}()
	p.expect(`The words, separated by spaces`)
	shown := len(p.all())
	p.typesSecret(strings.Join(words, " "))
	p.expect(`seal the key with: `)
	p.typesSecret("x")
	p.expect(`again: `)
	p.typesSecret("x")
	restored := <-done
	require.NoError(t, restored.err)
	require.Equal(t, r.info, restored.info)
	require.NotContains(t, p.all()[shown:], strings.Join(words[:3], " "), "the words are not shown") // one alone may stand in a question
}

func TestInitWithoutWrittenWordsMakesNothing(t *testing.T) {
	a, _, p := newTerminal(t)
	h := home(filepath.Join(t.TempDir(), "home"))
	done := make(chan error, 1)
	go func() {
		_, err := a.initialise(t.Context(), h, initFlags{workFactor: 10})
		done <- err
	}()
	p.expect(`seal the key with: `)
	p.typesSecret("x")
	p.expect(`again: `)
	p.typesSecret("x")
	for range 3 {
		p.isAsked()
		p.types("unknown")
	}
	require.ErrorContains(t, <-done, "nothing was made")
	require.NoDirExists(t, string(h))
}

// The first up of a machine makes the key, with the person's help.
func TestFirstUpGuidesThroughInit(t *testing.T) {
	a, out, p := newTerminal(t)
	a.workFactor = 10
	a.homeFlag = filepath.Join(t.TempDir(), "home")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() {
		done <- a.up(ctx, upFlags{
			node:     nodeFlags{relay: true, listen: []string{"/ip4/127.0.0.1/tcp/0"}},
			logLevel: logLevel{slog.LevelError},
		})
	}()
	p.expect(`holds no vault yet`)
	p.expect(`seal the key with: `)
	p.typesSecret("x")
	p.expect(`again: `)
	p.typesSecret("x")
	words := p.readsWords()
	for range 3 {
		p.types(words[p.isAsked()-1])
	}
	p.expect(`Passphrase of the vault: `)
	p.typesSecret("x")
	p.expect(`Others join with: alknet-p2p up --join alk1`)
	p.expect(`Online after`)
	cancel()
	require.NoError(t, <-done)
	info, err := vault.ReadInfo(a.homeFlag)
	require.NoError(t, err)
	require.Contains(t, out.String(), "node key  "+info.Identity)
}

// An interrupt at a prompt ends the command and leaves the terminal as it was.
func TestInterruptAtAPrompt(t *testing.T) {
	a, _, p := newTerminal(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := a.initialise(ctx, home(filepath.Join(t.TempDir(), "home")), initFlags{})
		done <- err
	}()
	p.expect(`seal the key with: `)
	require.Eventually(t, p.hidden, 20*time.Second, time.Millisecond)
	cancel()
	err := <-done
	require.ErrorIs(t, err, context.Canceled)
	require.False(t, p.hidden(), "what is typed is shown again")
	require.Equal(t, exitInterrupted, a.fail(ctx, err))
	p.expect(`alknet-p2p: interrupted`)
	p.types("") // ends the reading that was left
}
