package fanotify

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/enforce"
)

// Probe finds out whether this kernel really asks, by having the guardian run
// a canary in dir whose inode alone is marked, and refusing it.
func Probe(g *enforce.Guardian, dir string) enforce.Finding {
	group, err := newGroup()
	if err != nil {
		return enforce.Finding{Answer: cordon.No, Reason: err.Error()}
	}
	canary, err := enforce.NewCanary()
	if err != nil {
		return enforce.Finding{Answer: cordon.No, Reason: err.Error()}
	}
	defer func() { _ = unix.Close(group.fd) }() // lets go of the canary
	dir, err = os.MkdirTemp(dir, ".cordon-probe-")
	if err != nil {
		return unknown(err)
	}
	defer func() { _ = os.RemoveAll(dir) }() // what is left is one harmless file
	path := filepath.Join(dir, "canary")
	if err := canary.WriteFile(path); err != nil {
		return unknown(err)
	}
	if verdict, err := g.Run(path); err != nil || verdict != nil {
		return unknown(fmt.Errorf("a canary could not be run without any mark: %w", errors.Join(err, verdict)))
	}
	if err := group.watch(unix.FAN_MARK_INODE, path); err != nil {
		return enforce.Finding{Answer: cordon.No, Reason: watchError(path, err).Error()}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		group.refuseOne()
	}()
	verdict, err := g.Run(path)
	<-done
	switch {
	case err != nil:
		return unknown(err)
	case errors.Is(verdict, unix.EPERM):
		return enforce.Finding{Answer: cordon.Yes, Reason: "a canary was refused by the kernel"}
	default:
		return enforce.Finding{Answer: cordon.No, Reason: fmt.Sprintf("the kernel accepts the mark, but did not refuse a canary (%v)", verdict)}
	}
}

func unknown(err error) enforce.Finding {
	return enforce.Finding{Answer: cordon.Unknown, Reason: "fanotify could not be tried: " + err.Error()}
}

// refuseOne refuses the next execution that it is asked about within a second.
func (g *group) refuseOne() {
	fds := []unix.PollFd{{Fd: int32(g.fd), Events: unix.POLLIN}}
	var ev [1]unix.FanotifyEventMetadata
	for end := time.Now().Add(time.Second); time.Now().Before(end); {
		if n, err := unix.Poll(fds, 100); n < 1 || err != nil {
			continue
		}
		buf := (*[metaSize]byte)(unsafe.Pointer(&ev))[:]
		if n, err := unix.Read(g.fd, buf); n < metaSize || err != nil {
			continue
		}
		if err := g.answer(ev[0].Fd, unix.FAN_DENY, new(unix.FanotifyResponse)); err == nil {
			closeFD(ev[0].Fd)
			return
		}
	}
}
