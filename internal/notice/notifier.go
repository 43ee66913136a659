package notice

import (
	"bytes"
	"context"
	"encoding/json"
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

// Bounds of what one text may cost.
const (
	asked     = 30 * time.Second // to find out who is logged in
	delivered = 10 * time.Second // to tell one user
	abreast   = 8                // messengers at one time
	mostUsers = 64
)

// nobody is the group of a messenger: it needs none.
const nobody = 65534

// Notifier is the notifier's process. It returns when the agent is gone.
func Notifier(log *slog.Logger) error {
	var st unix.Stat_t
	if err := unix.Fstat(notifierFD, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFIFO {
		return errors.New("the notifier is started by the agent, not by hand")
	}
	unix.CloseOnExec(notifierFD) // it is no messenger's
	n := notifier{log: log}
	for texts := json.NewDecoder(os.NewFile(notifierFD, "notices")); ; {
		var t Text
		if err := texts.Decode(&t); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read notice: %w", err)
		}
		n.tell(t)
	}
}

type notifier struct {
	log    *slog.Logger
	failed string // why the last try to find out who is logged in did, empty: it did not
}

// tell tells everybody who is logged in, and waits until all know or their time
// is over.
func (n *notifier) tell(t Text) {
	ctx, cancel := context.WithTimeout(context.Background(), asked)
	everybody, err := people(ctx)
	cancel()
	before := n.failed
	if n.failed = ""; err != nil {
		if n.failed = err.Error(); n.failed != before { // a machine may have neither for good
			n.log.Warn("notices are not delivered: who is logged in is not known", "err", err)
		}
		return
	}
	if without := len(everybody) - mostUsers; without > 0 {
		n.log.Warn("notice not delivered to all: too many users", "summary", t.Summary, "without", without)
		everybody = everybody[:mostUsers]
	}
	var work sync.WaitGroup
	free := make(chan struct{}, abreast)
	for _, p := range everybody {
		free <- struct{}{}
		work.Go(func() {
			defer func() { <-free }()
			if err := send(p, t); err != nil {
				n.log.Warn("notice not delivered", "summary", t.Summary, "uid", p.UID, "err", err)
			}
		})
	}
	work.Wait()
}

// errand is what a messenger is told on its standard input.
type errand struct {
	Text Text
	To   person
}

// send has a messenger tell one person.
func send(p person, t Text) error {
	e, err := json.Marshal(errand{t, p})
	if err != nil {
		return fmt.Errorf("send messenger: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), delivered+time.Second) // it ends by itself before
	defer cancel()
	// The very program that this process runs, also while its file is replaced,
	// and wherever that is: the user need not be able to reach it.
	cmd := exec.CommandContext(ctx, "/proc/self/exe", "agent", MessengerArg)
	var said capped
	cmd.Args[0], cmd.Dir, cmd.Env = "cordon", "/", []string{}
	cmd.Stdin, cmd.Stderr = bytes.NewReader(e), &said
	cmd.WaitDelay = time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: &syscall.Credential{Uid: p.UID, Gid: nobody}}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(said))
	}
	return nil
}

// capped keeps the beginning of what is written to it.
type capped []byte

// Write never fails.
func (c *capped) Write(p []byte) (int, error) {
	*c = append(*c, p[:min(len(p), 500-len(*c))]...)
	return len(p), nil
}
