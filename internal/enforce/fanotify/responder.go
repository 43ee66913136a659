package fanotify

import (
	"errors"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/fileid"
)

// responder is the answering thread's own: nobody else touches its fields.
type responder struct {
	*Enforcer
	buf    [4096]byte
	statx  unix.Statx_t
	answer unix.FanotifyResponse
	// cache holds identities of trusted files that the trust set does not know by
	// identity, because they were copied or made after it was built.
	cache map[cordon.FileID]struct{}
	under *policy // that cache was filled under
}

// ruling is what can be said of a file without reading it.
type ruling uint8

const (
	allow ruling = iota
	refuse
	readIt
)

// rule is the decision for a file that has identity id, pure but for the cache.
func rule(p *policy, id cordon.FileID, on trait, cache map[cordon.FileID]struct{}) (ruling, string) {
	switch _, cached := cache[id]; {
	case on == remote:
		return refuse, "it is on a network or FUSE file system"
	case on != timeless && (cached || p.set.Knows(id)):
		return allow, ""
	}
	if !p.set.MayHaveSize(id.Size) {
		return refuse, "it is not in the trust set"
	}
	return readIt, ""
}

func (r *responder) loop() {
	fds := []unix.PollFd{{Fd: int32(r.group.fd), Events: unix.POLLIN}, {Fd: int32(r.stop), Events: unix.POLLIN}}
	for {
		r.beat.Add(1)
		_, err := unix.Poll(fds, int(time.Second.Milliseconds()))
		if err != nil && !errors.Is(err, unix.EINTR) {
			r.lost.Add(1)
		}
		if fds[1].Revents != 0 {
			return
		}
		r.learn()
		if fds[0].Revents != 0 {
			r.read()
		}
	}
}

// learn takes over what the hashers found out since the last round.
func (r *responder) learn() {
	if p := r.policy.Load(); p != r.under {
		clear(r.cache)
		r.under = p
	}
	for {
		select {
		case l := <-r.learned:
			if l.under != r.under {
				continue
			}
			if len(r.cache) >= maxLearned {
				clear(r.cache)
			}
			r.cache[l.id] = struct{}{}
		default:
			return
		}
	}
}

func (r *responder) read() {
	n, err := unix.Read(r.group.fd, r.buf[:])
	if err != nil {
		// EMFILE and the like: the kernel refuses an event that it cannot hand over.
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			r.lost.Add(1)
		}
		return
	}
	for off := 0; off+metaSize <= n; {
		ev := (*unix.FanotifyEventMetadata)(unsafe.Pointer(&r.buf[off]))
		if ev.Vers != unix.FANOTIFY_METADATA_VERSION || int(ev.Event_len) < metaSize {
			r.lost.Add(1)
			return
		}
		off += int(ev.Event_len)
		r.event(ev)
	}
}

func (r *responder) event(ev *unix.FanotifyEventMetadata) {
	switch {
	case ev.Fd < 0: // FAN_Q_OVERFLOW
		r.lost.Add(1)
	case ev.Mask&unix.FAN_OPEN_EXEC_PERM != 0:
		r.judge(ev.Fd, ev.Pid)
	default: // FAN_CLOSE_WRITE of a spared file
		r.group.unspare(int(ev.Fd))
		closeFD(ev.Fd)
	}
}

func (r *responder) judge(fd, pid int32) {
	p := r.policy.Load()
	if p.mode == cordon.ModeOff {
		r.reply(fd, unix.FAN_ALLOW)
		closeFD(fd)
		return
	}
	r.judged.Add(1)
	id, ok := identify(int(fd), &r.statx)
	if !ok {
		r.refuse(p, fd, pid, id, "it cannot be examined", true, &r.answer)
		return
	}
	switch verdict, reason := rule(p, id, (*r.traits.Load())[id.Dev], r.cache); verdict {
	case allow:
		if written(int(fd)) {
			r.refuse(p, fd, pid, id, "somebody has it open for writing", false, &r.answer)
			return
		}
		r.spare(p, int(fd), id, &r.statx)
		r.reply(fd, unix.FAN_ALLOW)
		closeFD(fd)
	case refuse:
		r.refuse(p, fd, pid, id, reason, false, &r.answer)
	default:
		select {
		case r.jobs <- job{fd, pid, id}:
		default:
			r.refuse(p, fd, pid, id, "too many programs are being examined at once", true, &r.answer)
		}
	}
}

func (r *responder) reply(fd int32, verdict uint32) {
	if err := r.group.answer(fd, verdict, &r.answer); err != nil {
		r.lost.Add(1)
	}
}

// spare spares a file that was allowed under p, unless the file or the policy
// has changed since it was looked at.
func (e *Enforcer) spare(p *policy, fd int, id cordon.FileID, st *unix.Statx_t) {
	if !fileid.Settled(id, time.Now()) || e.group.spare(fd) != nil {
		return
	}
	if now, ok := identify(fd, st); !ok || now != id || e.policy.Load() != p {
		e.group.unspare(fd)
	}
}

// refuse counts, answers, and hands the file to the namer. failure says that
// the file could not be judged. Who was refused finds it counted.
func (e *Enforcer) refuse(p *policy, fd, pid int32, id cordon.FileID, reason string, failure bool, buf *unix.FanotifyResponse) {
	verdict := uint32(unix.FAN_DENY)
	count := &e.refused
	if p.mode == cordon.ModeAudit {
		verdict, count = unix.FAN_ALLOW, &e.would
	}
	count.Add(1)
	if failure {
		e.failed.Add(1)
	}
	if err := e.group.answer(fd, verdict, buf); err != nil {
		e.lost.Add(1)
	}
	if !e.spots.add(e.sightings, sighting{fd, pid, spot{id, p.mode}, reason}) {
		closeFD(fd)
	}
}

func closeFD(fd int32) {
	_ = unix.Close(int(fd)) // an event's descriptor; close(2) frees it even when it fails
}
