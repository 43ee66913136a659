package main

import (
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon/internal/testkit/vm/channel"
)

var environ = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "TERM=dumb"}

// drain is how long output is still taken from what a program left behind.
const drain = 2 * time.Second

// server starts programs for the harness.
type server struct {
	mu       sync.Mutex // guards out
	out      *gob.Encoder
	programs sync.Map // of *program by ID
}

type program struct {
	cmd   *exec.Cmd
	input chan []byte // one waits at most: the harness sends the next after Taken
}

// serve answers the harness until the port fails.
func serve() error {
	port, err := openPort()
	if err != nil {
		return err
	}
	// Programs find what they need here and not in what systemd gave us.
	for _, e := range environ {
		name, value, _ := strings.Cut(e, "=")
		if err := os.Setenv(name, value); err != nil {
			return err
		}
	}
	s := &server{out: gob.NewEncoder(port)}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return err
	}
	s.send(channel.Message{Kind: channel.Hello, Data: []byte(unix.ByteSliceToString(uts.Release[:]))})
	for in := gob.NewDecoder(port); ; {
		var m channel.Message
		if err := in.Decode(&m); err != nil {
			return fmt.Errorf("read from the harness: %w", err)
		}
		s.take(m)
	}
}

// openPort finds the port without udev, which is not always there, so that it has
// to look again until the kernel has found it.
func openPort() (*os.File, error) {
	for range 300 {
		names, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
		for _, n := range names {
			if b, err := os.ReadFile(n); err == nil && strings.TrimSpace(string(b)) == channel.Port {
				return os.OpenFile("/dev/"+filepath.Base(filepath.Dir(n)), os.O_RDWR, 0)
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	return nil, errors.New("the harness's serial port did not appear within 30 s")
}

func (s *server) send(m channel.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.out.Encode(m); err != nil {
		fmt.Fprintln(os.Stderr, "cordon-vm: write to the harness:", err)
	}
}

func (s *server) take(m channel.Message) {
	if m.Kind == channel.Start {
		s.start(m.ID, m.Program)
		return
	}
	if m.Kind == channel.Reset {
		unix.Sync()
		if err := unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART); err != nil {
			fmt.Fprintln(os.Stderr, "cordon-vm: restart:", err)
		}
		return
	}
	v, ok := s.programs.Load(m.ID)
	if !ok { // it has ended meanwhile
		if m.Kind == channel.Stdin {
			s.send(channel.Message{Kind: channel.Taken, ID: m.ID})
		}
		return
	}
	switch p := v.(*program); m.Kind {
	case channel.Stdin:
		p.input <- m.Data
	case channel.Kill:
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) // it may have ended
	}
}

func (s *server) start(id uint32, what channel.Program) {
	cmd := exec.Command(what.Args[0], what.Args[1:]...)
	home := "/root"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if what.User {
		home = channel.UserHome
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: channel.UserID, Gid: channel.UserID}
		cmd.Env = append(cmd.Env, "USER="+channel.UserName, "LOGNAME="+channel.UserName)
	}
	cmd.Env = append(append(append(cmd.Env, environ...), "HOME="+home), what.Env...)
	cmd.Dir = home
	if what.Dir != "" {
		cmd.Dir = what.Dir
	}
	if _, err := os.Stat(cmd.Dir); err != nil && what.Dir == "" {
		cmd.Dir = "/"
	}
	cmd.Stdout, cmd.Stderr = output{s, id, channel.Stdout}, output{s, id, channel.Stderr}
	cmd.WaitDelay = drain
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		var errno syscall.Errno
		errors.As(err, &errno)
		s.send(channel.Message{Kind: channel.Exit, ID: id, Errno: errno, Data: []byte(err.Error())})
		return
	}
	p := &program{cmd: cmd, input: make(chan []byte, 1)}
	s.programs.Store(id, p)
	done := make(chan struct{})
	go s.feed(id, p, stdin, done)
	go func() {
		// What stays behind and holds the output does not make the program's end
		// an error, and its status is in ProcessState in any case.
		_ = cmd.Wait()
		close(done)
		s.programs.Delete(id)
		code := cmd.ProcessState.ExitCode()
		if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			code = 128 + int(ws.Signal())
		}
		s.send(channel.Message{Kind: channel.Exit, ID: id, Code: code})
	}()
}

// feed writes the input; after the program's end it takes it in and drops it.
func (s *server) feed(id uint32, p *program, w io.WriteCloser, done <-chan struct{}) {
	for {
		select {
		case <-done:
			return
		case data := <-p.input:
			if len(data) == 0 {
				_ = w.Close() // the program may have closed it
			} else if _, err := w.Write(data); err != nil {
				_ = w.Close() // it goes with the guest
			}
			s.send(channel.Message{Kind: channel.Taken, ID: id})
		}
	}
}

// output is one of a program's output streams.
type output struct {
	s    *server
	id   uint32
	kind channel.Kind
}

// Write sends p to the harness.
func (o output) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		n := min(len(rest), channel.Chunk)
		o.s.send(channel.Message{Kind: o.kind, ID: o.id, Data: rest[:n]})
		rest = rest[n:]
	}
	return len(p), nil
}
