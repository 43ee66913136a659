package vm

import (
	"bytes"
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon/internal/testkit/vm/channel"
)

// process is one QEMU, from a start of the guest to its end.
type process struct {
	console tail
	stderr  tail
	hello   chan struct{} // closed when the guest runs programs
	done    chan struct{} // closed when QEMU has ended
	cancel  context.CancelCauseFunc
	ctx     context.Context

	mu      sync.Mutex // guards the rest
	out     *gob.Encoder
	next    uint32
	running map[uint32]chan channel.Message
	wait    error // of QEMU, when done
}

// startProcess starts QEMU, connected with us by descriptor 3.
func startProcess(ctx context.Context, args []string) (*process, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make the channel: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "channel"), os.NewFile(uintptr(fds[1]), "channel")
	conn, err := net.FileConn(ours)
	if err := errors.Join(err, ours.Close()); err != nil {
		return nil, errors.Join(fmt.Errorf("use the channel: %w", err), theirs.Close())
	}
	p := &process{hello: make(chan struct{}), done: make(chan struct{}), out: gob.NewEncoder(conn), running: map[uint32]chan channel.Message{}}
	p.ctx, p.cancel = context.WithCancelCause(ctx)
	cmd := exec.CommandContext(p.ctx, args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = &p.console, &p.stderr, []*os.File{theirs}
	// Its own group: Ctrl-C reaches us, and we end it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	started := make(chan error, 1)
	go func() {
		// The kernel sends Pdeathsig when the thread ends that started the process.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- errors.Join(err, theirs.Close())
		if err != nil {
			return
		}
		err = cmd.Wait()
		p.mu.Lock()
		p.wait = err
		p.mu.Unlock()
		_ = conn.Close() // ends the reader
		close(p.done)
	}()
	if err := <-started; err != nil {
		p.cancel(err)
		return nil, errors.Join(fmt.Errorf("start QEMU: %w", err), conn.Close())
	}
	go p.read(conn)
	return p, nil
}

// read takes in what the guest says until the channel is closed, and hands it to
// those who wait for it.
func (p *process) read(conn io.Reader) {
	for in := gob.NewDecoder(conn); ; {
		var m channel.Message
		if err := in.Decode(&m); err != nil {
			select {
			case <-p.done:
			default:
				if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
					p.cancel(fmt.Errorf("the guest said what is not understood: %w", err))
				}
			}
			return
		}
		if m.Kind == channel.Hello {
			close(p.hello)
			continue
		}
		p.mu.Lock()
		to := p.running[m.ID]
		p.mu.Unlock()
		if to != nil {
			select {
			case to <- m:
			case <-p.done:
			}
		}
	}
}

func (p *process) send(m channel.Message) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.out.Encode(m); err != nil {
		return fmt.Errorf("write to the guest: %w", err)
	}
	return nil
}

// stop ends QEMU, with the reason, and waits for its end.
func (p *process) stop(why error) {
	p.cancel(why)
	<-p.done
}

func (p *process) isDone() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// failed reports whether QEMU ended otherwise than by the guest's switching off.
func (p *process) failed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.wait != nil || strings.Contains(p.console.String(), "Kernel panic")
}

// ended says why there is no machine any more, with the console's last lines.
// It waits for QEMU's end.
func (p *process) ended() error {
	<-p.done
	p.mu.Lock()
	wait := p.wait
	p.mu.Unlock()
	var exit *exec.ExitError
	reason := errors.New("the guest switched itself off")
	switch {
	case p.ctx.Err() != nil:
		reason = context.Cause(p.ctx)
	case strings.Contains(p.console.String(), "Kernel panic"):
		reason = errors.New("the guest's kernel panicked")
	case errors.As(wait, &exit) && exit.Sys().(syscall.WaitStatus).Signaled():
		reason = fmt.Errorf("%w: %w", ErrEmulator, wait)
	case wait != nil:
		reason = fmt.Errorf("QEMU ended: %w", wait)
	}
	if text := strings.TrimSpace(p.stderr.String()); text != "" {
		reason = fmt.Errorf("%w\nQEMU: %s", reason, text)
	}
	return fmt.Errorf("%w\nlast lines of the console%s:\n%s", reason, p.keep(), p.console.lines(40))
}

// keep writes the console to a file, unless somebody ended the machine on
// purpose, and says where.
func (p *process) keep() string {
	if errors.Is(p.ctx.Err(), context.Canceled) && errors.Is(context.Cause(p.ctx), context.Canceled) {
		return ""
	}
	f, err := os.CreateTemp("", "cordon-vm-console-*.log")
	if err != nil {
		return ""
	}
	_, err = f.WriteString(p.console.String())
	if errors.Join(err, f.Close()) != nil {
		return "" // the last lines are said in any case
	}
	return " (more in " + f.Name() + ")"
}

// run is Machine.Run.
func (p *process) run(ctx context.Context, c Cmd) (int, error) {
	if len(c.Args) == 0 {
		return 0, errors.New("run a program in the guest: no arguments")
	}
	select {
	case <-p.hello:
	default:
		return 0, p.ended() // after a restart that failed
	}
	from := make(chan channel.Message, 16)
	p.mu.Lock()
	p.next++
	id := p.next
	p.running[id] = from
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		delete(p.running, id)
		p.mu.Unlock()
	}()
	if err := p.send(channel.Message{Kind: channel.Start, ID: id, Program: c.Program}); err != nil {
		return 0, p.broken(err)
	}
	taken := make(chan struct{}, 1)
	over := make(chan struct{})
	defer close(over)
	go p.feed(id, c.Stdin, taken, over)

	cancelled := ctx.Done()
	var hung <-chan time.Time
	for {
		select {
		case m := <-from:
			switch m.Kind {
			case channel.Stdout:
				write(c.Stdout, m.Data)
			case channel.Stderr:
				write(c.Stderr, m.Data)
			case channel.Taken:
				taken <- struct{}{}
			case channel.Exit:
				if m.Data != nil {
					return 0, &StartError{Message: string(m.Data), Errno: m.Errno}
				}
				return m.Code, ctx.Err()
			}
		case <-cancelled:
			cancelled, hung = nil, time.After(killLimit) // now wait for its end
			if err := p.send(channel.Message{Kind: channel.Kill, ID: id}); err != nil {
				return 0, p.broken(err)
			}
		case <-hung:
			return 0, p.broken(fmt.Errorf("the guest did not answer within %v that it had killed a program", killLimit))
		case <-p.done:
			return 0, p.ended()
		}
	}
}

// killLimit is how long the guest may take to kill a program.
const killLimit = 30 * time.Second

// broken turns a failure of the channel into what is behind it.
func (p *process) broken(err error) error {
	p.stop(err)
	return p.ended()
}

// feed sends the input, each part when the one before was taken.
func (p *process) feed(id uint32, r io.Reader, taken, over <-chan struct{}) {
	if r == nil {
		r = bytes.NewReader(nil)
	}
	for buf := make([]byte, channel.Chunk); ; {
		n, err := io.ReadFull(r, buf)
		if n > 0 {
			if p.send(channel.Message{Kind: channel.Stdin, ID: id, Data: buf[:n]}) != nil {
				return // run hears of it
			}
			select {
			case <-taken:
			case <-over:
				return
			case <-p.done:
				return
			}
		}
		if err != nil {
			_ = p.send(channel.Message{Kind: channel.Stdin, ID: id}) // as above
			return
		}
	}
}

// write passes output on. Where it cannot be written, the program goes on.
func write(w io.Writer, data []byte) {
	if w != nil {
		_, _ = w.Write(data)
	}
}

// tail keeps the end of what is written to it.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

const tailSize = 64 << 10 // bytes

// Write appends b.
func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, b...)
	if len(t.buf) > 2*tailSize {
		t.buf = append(t.buf[:0], t.buf[len(t.buf)-tailSize:]...)
	}
	return len(b), nil
}

// String is the end of what was written.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.ReplaceAll(string(t.buf[max(0, len(t.buf)-tailSize):]), "\r", "")
}

// lines are the last n lines.
func (t *tail) lines(n int) string {
	all := strings.Split(strings.TrimSpace(t.String()), "\n")
	return strings.Join(all[max(0, len(all)-n):], "\n")
}
