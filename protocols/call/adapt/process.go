//go:build linux || darwin || dragonfly || freebsd || netbsd || openbsd

package adapt

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// termGrace is what a program gets between SIGTERM and SIGKILL.
	termGrace = 500 * time.Millisecond
	// maxPipe is the most a pipe can hold once nobody writes to it any more
	// (the default of /proc/sys/fs/pipe-max-size).
	maxPipe = 1 << 20
	// What one run may put into the log.
	maxLogLines = 64
	maxLogLine  = 1 << 10
)

// supported reports whether this system can run programs as Exec promises.
func supported() error { return nil }

// run starts the program, gives consume its standard output, and returns once
// the program and everything in its process group are gone. When ctx ends or
// consume fails the group gets SIGTERM, and SIGKILL half a second later. stdin
// and secret, where they are not nil, are what the program reads from
// descriptors 0 and 3; secret is cleared.
//
// code is the exit code, 128 + n after signal n, and only meaningful when err
// is nil; err is consume's, ctx's, or the reason why the program did not
// start.
func (p *program) run(ctx context.Context, stdin, secret []byte, consume func(io.Reader) error) (code int, err error) {
	defer clear(secret)
	if err := context.Cause(ctx); err != nil {
		return 0, err
	}
	proc, err := p.start(stdin, secret)
	if err != nil {
		return 0, fmt.Errorf("start %s: %w", p.path, err)
	}
	unhook := context.AfterFunc(ctx, proc.terminate)
	err = consume(proc.stdout)
	if err != nil {
		proc.terminate()
	}
	<-proc.over
	unhook()
	proc.close()
	if cause := context.Cause(ctx); cause != nil {
		return 0, cause
	}
	if err != nil {
		return 0, err
	}
	return proc.exitCode(), nil
}

// process is one running program. It owns the goroutine that waits for it,
// those that feed its inputs and the one that logs its standard error; close
// waits for them.
type process struct {
	cmd    *exec.Cmd
	stdout *output
	stderr *output
	inputs []*os.File // our ends of its standard input and its credential
	over   chan struct{}
	wg     sync.WaitGroup

	mu     sync.Mutex
	reaped bool
	kill   *time.Timer // set by terminate
}

func (p *program) start(stdin, secret []byte) (_ *process, err error) {
	proc := &process{over: make(chan struct{})}
	proc.cmd = &exec.Cmd{
		Path: p.path,
		Args: p.argv,
		Dir:  "/",
		Env:  []string{}, // not nil: nil would mean ours
	}
	proc.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}

	var theirs, ours []*os.File
	defer func() {
		closeAll(theirs)
		if err != nil {
			closeAll(ours)
		}
	}()
	pipe := func() (r, w *os.File) {
		if err != nil {
			return nil, nil
		}
		r, w, err = os.Pipe()
		return r, w
	}
	outR, outW := pipe()
	errR, errW := pipe()
	ours, theirs = append(ours, outR, errR), append(theirs, outW, errW)
	var feeds [][]byte
	feed := func(b []byte) *os.File {
		r, w := pipe()
		ours, theirs = append(ours, w), append(theirs, r)
		proc.inputs, feeds = append(proc.inputs, w), append(feeds, b)
		return r
	}
	if stdin != nil {
		proc.cmd.Stdin = feed(stdin)
	}
	if secret != nil {
		proc.cmd.ExtraFiles = []*os.File{feed(secret)} // from descriptor 3 on
	}
	if err != nil {
		return nil, err
	}
	proc.cmd.Stdout, proc.cmd.Stderr = outW, errW
	proc.stdout = &output{file: outR, over: proc.over, left: maxPipe}
	proc.stderr = &output{file: errR, over: proc.over, left: maxPipe}

	started := make(chan error, 1)
	proc.wg.Go(func() {
		onOwnThread(func() {
			err := confine(proc.cmd.SysProcAttr)
			if err == nil {
				err = proc.cmd.Start()
			}
			started <- err
			if err == nil {
				proc.reap()
			}
		})
	})
	if err := <-started; err != nil {
		proc.wg.Wait()
		return nil, err
	}
	for i, w := range proc.inputs {
		proc.wg.Go(func() {
			// A program that does not read its input is no failure.
			_, _ = w.Write(feeds[i])
			_ = w.Close()
		})
	}
	proc.wg.Go(func() { p.logLines(proc.stderr) })
	return proc, nil
}

// reap waits for the program to end, kills what it left in its group, and
// collects it. The group is killed before the program is collected: until
// then nobody else can have its number.
func (proc *process) reap() {
	awaitExit(proc.cmd.Process.Pid)
	proc.mu.Lock()
	_ = unix.Kill(-proc.cmd.Process.Pid, unix.SIGKILL)
	_ = proc.cmd.Wait() // the state is read from ProcessState
	proc.reaped = true
	if proc.kill != nil {
		proc.kill.Stop()
	}
	proc.mu.Unlock()

	proc.stdout.wake()
	proc.stderr.wake()
	for _, w := range proc.inputs {
		_ = w.SetWriteDeadline(past)
	}
	close(proc.over)
}

// terminate asks the group to end, and makes it half a second later.
func (proc *process) terminate() {
	proc.mu.Lock()
	defer proc.mu.Unlock()
	if proc.reaped || proc.kill != nil {
		return
	}
	_ = unix.Kill(-proc.cmd.Process.Pid, unix.SIGTERM)
	proc.kill = time.AfterFunc(termGrace, func() {
		proc.mu.Lock()
		defer proc.mu.Unlock()
		if !proc.reaped {
			_ = unix.Kill(-proc.cmd.Process.Pid, unix.SIGKILL)
		}
	})
}

// close waits for the goroutines and lets go of the pipes; only after over.
func (proc *process) close() {
	proc.wg.Wait()
	_ = proc.stdout.file.Close()
	_ = proc.stderr.file.Close()
}

func (proc *process) exitCode() int {
	state := proc.cmd.ProcessState
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal())
	}
	return state.ExitCode()
}

// past is a deadline that wakes whoever waits.
var past = time.Unix(1, 0)

// output is the reading end of a pipe to the program. Once the program is
// over, Read gives what the pipe still holds and never waits: a process that
// left the group and kept the pipe must not hold the call open.
type output struct {
	file *os.File
	over <-chan struct{}
	left int // may still be read after over
}

// wake ends a waiting Read; over is closed right after.
func (o *output) wake() { _ = o.file.SetReadDeadline(past) }

// Read implements io.Reader.
func (o *output) Read(b []byte) (int, error) {
	n, err := o.file.Read(b)
	if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		return n, err
	}
	<-o.over
	if o.left <= 0 || len(b) == 0 {
		return 0, io.EOF
	}
	raw, err := o.file.SyscallConn()
	if err != nil {
		return 0, err
	}
	_ = o.file.SetReadDeadline(time.Time{})
	rawErr := raw.Read(func(fd uintptr) bool {
		n, err = unix.Read(int(fd), b)
		return true
	})
	o.wake()
	if rawErr != nil || err != nil || n <= 0 {
		return 0, io.EOF
	}
	o.left -= n
	return n, nil
}

// logLines writes what the program says on standard error to the log, within
// bounds, and reads the rest away so that the program never waits for us.
func (p *program) logLines(r io.Reader) {
	lines := bufio.NewReaderSize(r, maxLogLine)
	for range maxLogLines {
		line, err := lines.ReadSlice('\n')
		if line = bytes.TrimRight(line, "\r\n"); len(line) > 0 {
			p.log.LogAttrs(context.Background(), slog.LevelWarn, "program wrote to standard error",
				slog.String("op", p.op), slog.String("line", string(line)))
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
	_, _ = io.Copy(io.Discard, lines)
}

// closeOnExecAll marks every open descriptor but the standard three
// close-on-exec: those that Go opened are, those that our own parent left
// open may not be.
func closeOnExecAll() error {
	entries, err := os.ReadDir("/dev/fd")
	if err != nil {
		return err
	}
	for _, e := range entries {
		var fd int
		if _, err := fmt.Sscanf(e.Name(), "%d", &fd); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
	return nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		if f != nil {
			_ = f.Close()
		}
	}
}
