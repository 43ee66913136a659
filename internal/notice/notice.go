// Package notice tells the people at a machine that it was restricted, that it
// is not any more, and which programs were refused: by a desktop notification
// (D-Bus) in graphical sessions, by a line on the terminals of the others.
//
// # What it promises
//
// Nothing here delays the agent or an enforcer: the agent's process writes a line
// into a pipe or drops it, and counts that. What is dropped is told nobody; it
// changes no verdict and no count elsewhere.
//
// One text for each restriction and for each release; of refused programs one
// text each within a minute, and at most six in all. Names that attackers chose
// arrive as visible characters only, bounded in length.
//
// # What it owns
//
// Two processes beside the agent's, of the same program. The notifier, started
// before anything is enforced (see package enforce), takes lines from the pipe and
// asks logind, or else utmp(5), who is logged in. For each text and user it
// starts a messenger that *is* that user, with no privilege, and ends it after a few
// seconds: only that one touches what belongs to the user, a bus or a terminal that
// may be slow, stopped or hostile.
package notice

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Config says what is told. All fields are required unless they say otherwise.
type Config struct {
	Contact string // whom to ask, at most [MaxContact] characters; empty: nobody is named
	Now     func() time.Time
	Log     *slog.Logger
}

// Notices is the agent's handle on its notifier. A nil one tells nothing. It is
// safe for concurrent use, and no method waits but Close.
type Notices struct {
	cfg Config
	cmd *exec.Cmd

	mu      sync.Mutex // guards what follows
	pipe    int        // its write end, which does not block; -1: closed
	limiter limiter
	dropped int
}

// The hidden commands that start the program as a notifier and as a messenger,
// below "agent".
const (
	NotifierArg  = "notifier"
	MessengerArg = "messenger"
)

// notifierFD is the descriptor on which the notifier finds the pipe's other end.
const notifierFD = 3

// Start starts exe, this program, as a notifier. It must be called before any
// enforcer is opened: see package enforce.
func Start(cfg Config, exe string) (*Notices, error) {
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
		return nil, fmt.Errorf("start notifier: %w", err)
	}
	theirs := os.NewFile(uintptr(ends[0]), "notices")
	cmd := exec.Command(exe, "agent", NotifierArg)
	cmd.ExtraFiles, cmd.Stderr = []*os.File{theirs}, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // a Ctrl-C is for the agent
	err := unix.SetNonblock(ends[1], true)
	if err == nil {
		err = cmd.Start()
	}
	if err = errors.Join(err, theirs.Close()); err != nil {
		return nil, errors.Join(fmt.Errorf("start notifier: %w", err), unix.Close(ends[1]))
	}
	return &Notices{cfg: cfg, cmd: cmd, pipe: ends[1]}, nil
}

// PID is the notifier's process.
func (n *Notices) PID() int { return n.cmd.Process.Pid }

// Changed tells that the machine was restricted, or is not any more.
func (n *Notices) Changed(isRestricted bool) {
	if n == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if isRestricted {
		n.send(restricted(n.cfg.Contact))
	} else {
		n.send(freed(n.cfg.Contact))
	}
}

// Refused tells that the program at path was refused, if that is not too often.
func (n *Notices) Refused(path string) {
	if n == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if ok, unsaid := n.limiter.allow(path, n.cfg.Now()); ok {
		n.send(refused(path, unsaid, n.cfg.Contact))
	}
}

// pipeBuf is how much is written to a pipe as a whole or not at all (PIPE_BUF, pipe(7)).
const pipeBuf = 4096

// send is called with mu held. The pipe is the queue, and the kernel bounds it.
func (n *Notices) send(t Text) {
	line, err := t.encode()
	if err == nil && len(line) > pipeBuf {
		err = errors.New("it is too long")
	}
	if err == nil {
		for {
			_, err = unix.Write(n.pipe, line)
			if !errors.Is(err, unix.EINTR) {
				break
			}
		}
	}
	if err != nil {
		n.dropped++
		n.cfg.Log.Warn("the people at this machine are not told", "summary", t.Summary, "err", err, "dropped", n.dropped)
	}
}

// lastWords is how long a notifier may go on when the agent ends.
const lastWords = time.Second

// Close ends the notifier and waits for it.
func (n *Notices) Close() error {
	if n == nil {
		return nil
	}
	n.mu.Lock()
	err := unix.Close(n.pipe)
	n.pipe = -1
	n.mu.Unlock()
	kill := time.AfterFunc(lastWords, func() { _ = n.cmd.Process.Kill() }) // it may have ended
	defer kill.Stop()
	_ = n.cmd.Wait() // how it ended is of no interest
	return err
}
