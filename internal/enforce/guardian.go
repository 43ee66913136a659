package enforce

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Patience is how long the guardian waits for a sign of life of the agent's
// answering thread before it kills the agent's process. A program that is being
// started waits at most this long and the time the agent takes to die.
const Patience = 10 * time.Second

// GuardianArg is the hidden command that starts the program as a guardian.
const GuardianArg = "guardian"

// guardianFD is the descriptor on which the guardian finds its socket.
const guardianFD = 3

// canaryWithin is how long a canary may take. It is longer than [Patience],
// because a machine that is slow is no reason to believe that nothing is
// enforced: if the agent itself hangs, the guardian ends it long before.
const canaryWithin = time.Minute

// What the agent says: a sign of life, or a number (four bytes), a length (two
// bytes) and a path to run, which is answered with that number, an errno and a
// wait status (four bytes each).
const (
	sayAlive byte = 'a'
	sayRun   byte = 'r'
)

// Guardian is the agent's handle on its guardian process.
type Guardian struct {
	cmd  *exec.Cmd
	conn net.Conn

	run  sync.Mutex // one canary at a time; guards reading from conn, and runs
	runs uint32     // number of the last canary
	send sync.Mutex // guards writing to conn
}

// StartGuardian starts exe with args as a guardian of this process. It must be
// called before any enforcer is opened: see the package comment.
func StartGuardian(exe string, args ...string) (*Guardian, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("start guardian: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "guardian"), os.NewFile(uintptr(fds[1]), "agent")
	conn, err := net.FileConn(ours)
	if err = errors.Join(err, ours.Close()); err != nil {
		return nil, errors.Join(fmt.Errorf("start guardian: %w", err), theirs.Close())
	}
	cmd := exec.Command(exe, args...)
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Stderr = os.Stderr
	// A session of its own: a Ctrl-C is for the agent, which then lets go of
	// the scope in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err = errors.Join(cmd.Start(), theirs.Close()); err != nil {
		return nil, errors.Join(fmt.Errorf("start guardian: %w", err), conn.Close())
	}
	return &Guardian{cmd: cmd, conn: conn}, nil
}

// PID is the guardian's process.
func (g *Guardian) PID() int { return g.cmd.Process.Pid }

// Leave moves the guardian from the control group of this process to the root of
// the hierarchy (cgroups(7), version 2), which alone cannot be frozen: so it
// ends an agent that was frozen with its service.
func (g *Guardian) Leave() error {
	f, err := os.OpenFile("/sys/fs/cgroup/cgroup.procs", os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("move guardian: %w", err)
	}
	if _, err = fmt.Fprint(f, g.PID()); err != nil {
		err = fmt.Errorf("move guardian: %w", err)
	}
	return errors.Join(err, f.Close())
}

// Alive gives the guardian a sign of life. From the first one on it waits at
// most [Patience] for the next. An error means that it is gone.
func (g *Guardian) Alive() error { return g.write([]byte{sayAlive}) }

// Watch passes an enforcer's beat on to the guardian, until the guardian is
// gone, and returns the error that says so. While the beat stands still it
// says nothing, and the guardian draws its conclusion.
func Watch(g *Guardian, beat func() uint64) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for last := beat(); ; <-tick.C {
		if now := beat(); now != last {
			last = now
			if err := g.Alive(); err != nil {
				return err
			}
		}
	}
}

func (g *Guardian) write(b []byte) error {
	g.send.Lock()
	defer g.send.Unlock()
	if err := g.conn.SetWriteDeadline(time.Now().Add(Patience)); err != nil {
		return fmt.Errorf("guardian is gone: %w", err)
	}
	if _, err := g.conn.Write(b); err != nil {
		return fmt.Errorf("guardian is gone: %w", err)
	}
	return nil
}

// Run has the guardian execute the program at path, without arguments or
// environment, and wait for it. verdict is nil if it ended with status 0, else
// the errno with which execve(2) failed. err is for a guardian that is gone or a
// program that did something else.
func (g *Guardian) Run(path string) (verdict, err error) {
	g.run.Lock()
	defer g.run.Unlock()
	g.runs++
	msg := binary.BigEndian.AppendUint32([]byte{sayRun}, g.runs)
	msg = binary.BigEndian.AppendUint16(msg, uint16(len(path)))
	if err := g.write(append(msg, path...)); err != nil {
		return nil, err
	}
	if err := g.conn.SetReadDeadline(time.Now().Add(canaryWithin)); err != nil {
		return nil, fmt.Errorf("guardian is gone: %w", err)
	}
	var answer [12]byte
	for {
		if _, err := io.ReadFull(g.conn, answer[:]); err != nil {
			return nil, fmt.Errorf("guardian does not answer: %w", err)
		}
		if binary.BigEndian.Uint32(answer[:]) == g.runs {
			break // else about a canary that was given up
		}
	}
	errno, status := binary.BigEndian.Uint32(answer[4:]), binary.BigEndian.Uint32(answer[8:])
	switch {
	case errno != 0:
		return unix.Errno(errno), nil
	case status != 0:
		return nil, fmt.Errorf("the canary ended with wait status %#x", status)
	}
	return nil, nil
}

// Close ends the guardian and waits for it.
func (g *Guardian) Close() error {
	err := g.conn.Close()
	_ = g.cmd.Wait() // how it ended is of no interest once it was told to
	return err
}

// GuardianMain is the guardian's process. It returns when the agent is gone.
func GuardianMain() error {
	// While a canary waits for its verdict, the thread that forked it stands
	// still without a safe point (see the package comment). The watch must go on
	// all the same: so nothing may stop the world here, and there must be another
	// processor for Go to run on.
	debug.SetGCPercent(-1)
	runtime.GOMAXPROCS(max(2, runtime.GOMAXPROCS(0)))
	f := os.NewFile(guardianFD, "agent")
	conn, err := net.FileConn(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("the guardian is started by the agent, not by hand: %w", err)
	}
	agent, err := unix.PidfdOpen(os.Getppid(), 0)
	if err != nil {
		return fmt.Errorf("watch the agent: %w", err)
	}
	return guard(conn, func() error { return unix.PidfdSendSignal(agent, unix.SIGKILL, nil, 0) }, execute)
}

// guard serves the agent at the other end of conn. kill ends the agent.
func guard(conn net.Conn, kill func() error, execute func(path string) (errno, status uint32)) error {
	type canary struct {
		number uint32
		path   string
	}
	canaries := make(chan canary, 1)
	defer close(canaries)
	go func() {
		for c := range canaries {
			errno, status := execute(c.path)
			answer := binary.BigEndian.AppendUint32(nil, c.number)
			answer = binary.BigEndian.AppendUint32(answer, errno)
			answer = binary.BigEndian.AppendUint32(answer, status)
			if _, err := conn.Write(answer); err != nil {
				return // the agent is gone, which the loop below sees too
			}
		}
	}()
	var what [1]byte
	watching := false // from the first sign of life on: before it nothing is open for which anybody could wait
	for {
		if watching {
			if err := conn.SetReadDeadline(time.Now().Add(Patience)); err != nil {
				return err
			}
		}
		_, err := io.ReadFull(conn, what[:])
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return errors.Join(fmt.Errorf("the agent gave no sign of life for %s and was killed, so that nobody waits for it", Patience), kill())
		case err != nil:
			return nil // the agent has ended
		case what[0] == sayAlive:
			watching = true
		case what[0] == sayRun:
			var head [6]byte
			if _, err := io.ReadFull(conn, head[:]); err != nil {
				return nil
			}
			path := make([]byte, binary.BigEndian.Uint16(head[4:]))
			if _, err := io.ReadFull(conn, path); err != nil {
				return nil
			}
			select {
			case canaries <- canary{binary.BigEndian.Uint32(head[:]), string(path)}:
			default: // one is still waiting for its verdict; its caller has given up
			}
		}
	}
}

func execute(path string) (errno, status uint32) {
	pid, err := syscall.ForkExec(path, []string{path}, &syscall.ProcAttr{Dir: "/"})
	if err != nil {
		var e syscall.Errno
		if !errors.As(err, &e) {
			e = syscall.EINVAL
		}
		return uint32(e), 0
	}
	var ws syscall.WaitStatus
	for {
		_, err = syscall.Wait4(pid, &ws, 0, nil)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	return 0, uint32(ws)
}
