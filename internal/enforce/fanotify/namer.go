package fanotify

import (
	"crypto/sha256"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/enforce"
	"github.com/cordon-project/cordon/internal/fileid"
)

// spot is what refused executions have in common that become one sample.
type spot struct {
	id   cordon.FileID // zero: not known
	mode cordon.Mode
}

// spots counts the executions of each file that waits to be named, so that a
// file which is tried thousands of times a second is one sample with an exact
// count. There are at most as many as fit into the channel, and the one that is
// being named. The lock is held for a few instructions only.
type spots struct {
	sync.Mutex
	waiting map[spot]uint64
}

// add hands a sighting on. It returns false if the file need not stay open:
// another execution of it waits already, or too many files do.
func (s *spots) add(to chan<- sighting, seen sighting) bool {
	s.Lock()
	defer s.Unlock()
	if n := s.waiting[seen.spot]; n > 0 && seen.spot.id != (cordon.FileID{}) {
		s.waiting[seen.spot] = n + 1
		return false
	}
	select {
	case to <- seen:
		s.waiting[seen.spot]++
		return true
	default:
		return false // the counters have it
	}
}

// take returns how many executions a sighting stands for, from now on none.
func (s *spots) take(seen spot) uint64 {
	s.Lock()
	defer s.Unlock()
	n := s.waiting[seen]
	if seen.id == (cordon.FileID{}) && n > 1 { // these are not joined
		s.waiting[seen] = n - 1
		return 1
	}
	delete(s.waiting, seen)
	return n
}

// Bounds of the namer's work.
const (
	maxNamedSize = 64 << 20 // bytes of a file beyond which it is named without its digest
	maxNamed     = 1 << 9   // digests that are remembered
)

// name tells what was refused, after the answer: only now may a path be looked
// up and content be read.
func (e *Enforcer) name() {
	known := make(map[cordon.FileID]cordon.Digest)
	buf := make([]byte, 128<<10)
	for s := range e.sightings {
		path, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(int(s.fd)))
		if err != nil {
			path = "?"
		}
		digest, ok := known[s.spot.id]
		if !ok {
			if digest = e.content(s, buf); digest != (cordon.Digest{}) && fileid.Settled(s.spot.id, time.Now()) && (*e.traits.Load())[s.spot.id.Dev] != timeless {
				if len(known) >= maxNamed {
					clear(known)
				}
				known[s.spot.id] = digest
			}
		}
		closeFD(s.fd)
		select {
		case e.refusals <- enforce.Refusal{At: time.Now(), Path: path, PID: s.pid, Mode: s.spot.mode, Reason: s.reason, Digest: digest, Count: e.spots.take(s.spot)}:
		default: // nobody listens; the counters have it
		}
	}
	close(e.refusals)
}

// content returns the digest of what was refused, zero if it is not to be had:
// nobody may make the namer wait or work for long.
func (e *Enforcer) content(s sighting, buf []byte) (d cordon.Digest) {
	if s.spot.id == (cordon.FileID{}) || s.spot.id.Size > maxNamedSize || (*e.traits.Load())[s.spot.id.Dev] == remote {
		return d
	}
	sum := sha256.New()
	for off := int64(0); off <= maxNamedSize; {
		n, err := unix.Pread(int(s.fd), buf, off)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return d
		}
		if n == 0 {
			sum.Sum(d[:0])
			return d
		}
		sum.Write(buf[:n])
		off += int64(n)
	}
	return d
}
