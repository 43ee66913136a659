package fanotify

import (
	"crypto/sha256"
	"errors"
	"hash"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/fileid"
)

// hasher is one worker's own.
type hasher struct {
	*Enforcer
	buf    []byte
	sum    hash.Hash
	statx  unix.Statx_t
	answer unix.FanotifyResponse
}

// hash serves jobs until there will be no more.
func (e *Enforcer) hash() {
	h := hasher{Enforcer: e, buf: make([]byte, 128<<10), sum: sha256.New()}
	for j := range e.jobs {
		h.serve(j)
	}
}

// errChanged says that the file did not hold still while it was read.
var errChanged = errors.New("changed while it was read")

func (h *hasher) serve(j job) {
	digest, err := h.digest(j)
	if errors.Is(err, errChanged) {
		if id, ok := identify(int(j.fd), &h.statx); ok {
			j.id = id
			digest, err = h.digest(j)
		}
	}
	// Judged by what is in force now, not when the file began to be read.
	p := h.policy.Load()
	switch {
	case p.mode == cordon.ModeOff:
		h.allow(j.fd)
	case errors.Is(err, errChanged):
		h.refuse(p, j.fd, j.pid, j.id, "it was changed while it was examined", true, &h.answer)
	case err != nil:
		h.refuse(p, j.fd, j.pid, j.id, "it cannot be read", true, &h.answer)
	case !p.set.Contains(digest):
		h.refuse(p, j.fd, j.pid, j.id, "it is not in the trust set", false, &h.answer)
	default:
		if fileid.Settled(j.id, time.Now()) {
			select {
			case h.learned <- lesson{j.id, p}:
			default: // it is read once more next time
			}
			h.spare(p, int(j.fd), j.id, &h.statx)
		}
		h.allow(j.fd)
	}
}

func (h *hasher) allow(fd int32) {
	if err := h.group.answer(fd, unix.FAN_ALLOW, &h.answer); err != nil {
		h.lost.Add(1)
	}
	closeFD(fd)
}

// digest reads the file through the event's own descriptor, which raises no
// event itself. Nobody may have had it open for writing before, and it must be
// the same after: a later writer moves the change time with his first page.
func (h *hasher) digest(j job) (d cordon.Digest, err error) {
	if written(int(j.fd)) {
		return d, errChanged
	}
	h.sum.Reset()
	for off := int64(0); ; {
		n, err := unix.Pread(int(j.fd), h.buf, off)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return d, err
		}
		if n == 0 {
			break
		}
		h.sum.Write(h.buf[:n])
		off += int64(n)
		if off > j.id.Size {
			return d, errChanged // it grows; it need not be followed to its end
		}
	}
	if now, ok := identify(int(j.fd), &h.statx); !ok || now != j.id {
		return d, errChanged
	}
	h.sum.Sum(d[:0])
	return d, nil
}
