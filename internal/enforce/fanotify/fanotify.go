// Package fanotify enforces with fanotify(7) permission events: the kernel asks
// before each execution in the scope, and waits for the answer.
//
// # How it decides
//
// A file may run if the SHA-256 of its content is in the trust set. Most files
// are never read for that: a file whose identity was known when the set was
// built is allowed, one of a size that no trusted file has is refused, and one
// that was allowed once is spared by an ignore mark on its inode until it
// changes, so that the kernel does not even ask again (see spare). The others are hashed
// through the event's own descriptor by a few workers. What cannot be judged
// (unreadable, being written, on a network or FUSE file system, too many at once) is refused.
//
// # What it owns
//
// One goroutine on a thread of its own that answers, the hashing workers, one
// that watches the mount table (scope host), and one that names what was
// refused. The answering thread does nothing that could wait for a watched
// file: no I/O but fanotify's own, statx(2) of what the kernel has cached and
// fcntl(2), no log, no lock that is held over any of these.
//
// # What it cannot do
//
// See [Enforcer.Describe]; in short: it judges executions, not libraries, mappings or
// interpreted programs, and when its process ends the kernel lets go.
package fanotify

import (
	"errors"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/enforce"
)

// limits are what [Enforcer.Describe] says. Each was seen to be so.
var limits = []string{
	"If the agent is killed, the kernel lets go and everything may run until the agent has started again.",
	"Programs on a file system that somebody mounts in another mount namespace after the restriction (as ordinary users can, with a user namespace) are not judged.",
	"Shared libraries, LD_PRELOAD, and code that a running program maps or makes executable by itself are not judged.",
	"A program handed to its loader (ld.so PROGRAM) and programs in memory files (memfd) are not judged.",
	"Scripts are judged when they are executed by name, not when a trusted interpreter is told to read them (sh FILE, python FILE, -c, standard input).",
	"Root can rewrite a trusted program through a shared memory mapping and, in the moment after closing it, run it before the agent hears of the change.",
	"What was running before the restriction keeps running.",
	"Files on network and FUSE file systems are always refused.",
}

// coverage is what fanotify asks about, on every kernel.
var coverage = []cordon.Coverage{
	{What: "programs and scripts that are executed", Answer: cordon.Yes, Reason: "a canary was refused"},
	{What: "libraries and other files mapped as code", Answer: cordon.No, Reason: "fanotify asks about executions"},
	{What: "memory files (memfd, System V)", Answer: cordon.No, Reason: "they belong to no mount that can be watched"},
	{What: "code without a file (JIT)", Answer: cordon.No, Reason: "fanotify asks about executions"},
	{What: "modules and kernels", Answer: cordon.No, Reason: "fanotify asks about executions"},
	{What: "other processes' memory (ptrace, /proc/PID/mem)", Answer: cordon.No, Reason: "fanotify asks about executions"},
	{What: "files in other mount namespaces", Answer: cordon.Unknown, Reason: "only on file systems that are mounted in the agent's, too"},
	{What: "everything while the agent is away", Answer: cordon.No, Reason: "the kernel then lets everything run"},
}

// policy is what executions are judged by. A new one replaces it as a whole.
type policy struct {
	mode cordon.Mode
	set  *cordon.TrustSet
}

// Enforcer is a fanotify group and what serves it. Make one with [Open].
type Enforcer struct {
	scope enforce.Scope
	log   *slog.Logger
	group *group

	policy atomic.Pointer[policy]
	traits atomic.Pointer[map[uint64]trait] // by device; those without one are not in it
	beat   atomic.Uint64

	judged, refused, would, failed, lost atomic.Uint64

	apply    sync.Mutex // one Apply at a time
	watching bool       // guarded by apply

	jobs      chan job      // to the hashers
	learned   chan lesson   // from the hashers
	sightings chan sighting // to the namer
	spots     spots
	refusals  chan enforce.Refusal // from the namer

	stop      int // eventfd; readable once Close was called
	closing   sync.Once
	answering sync.WaitGroup // responder and mount table; they fill jobs
	hashing   sync.WaitGroup // they fill sightings
	naming    sync.WaitGroup
}

// job is a file to hash before its execution is answered.
type job struct {
	fd, pid int32
	id      cordon.FileID
}

// lesson is the identity of a file that was read and found trusted under a policy.
type lesson struct {
	id    cordon.FileID
	under *policy
}

// sighting is a refused execution whose file is still open, to be named.
type sighting struct {
	fd, pid int32
	spot    spot
	reason  string
}

// Bounds. Every waiting event holds a descriptor.
const (
	maxJobs      = 256
	maxSightings = 64
	maxLearned   = 1 << 16 // identities kept beyond the trust set's own
	hashers      = 2
)

// Open makes an enforcer for the scope in mode off. It marks nothing yet.
func Open(scope enforce.Scope, log *slog.Logger) (*Enforcer, error) {
	return open(scope, log, hashers, maxJobs)
}

func open(scope enforce.Scope, log *slog.Logger, hashers, maxJobs int) (*Enforcer, error) {
	g, err := newGroup()
	if err != nil {
		return nil, err
	}
	stop, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return nil, errors.Join(&cordon.Error{Kind: cordon.Unavailable, Message: "fanotify cannot be used", Err: err}, unix.Close(g.fd))
	}
	e := &Enforcer{
		scope: scope, log: log, group: g, stop: stop,
		jobs: make(chan job, maxJobs), learned: make(chan lesson, maxJobs),
		sightings: make(chan sighting, maxSightings), spots: spots{waiting: make(map[spot]uint64, maxSightings)}, refusals: make(chan enforce.Refusal, maxSightings),
	}
	e.policy.Store(&policy{mode: cordon.ModeOff, set: cordon.NewTrustSet(nil, nil)})
	e.traits.Store(&map[uint64]trait{})
	e.answering.Go(e.respond)
	for range hashers {
		e.hashing.Go(e.hash)
	}
	e.naming.Go(e.name)
	if scope.Mount == "" {
		e.answering.Go(e.followMounts)
	}
	return e, nil
}

// Apply puts mode and set in force; see [enforce.Enforcer].
func (e *Enforcer) Apply(mode cordon.Mode, set *cordon.TrustSet) error {
	e.apply.Lock()
	defer e.apply.Unlock()
	if mode != cordon.ModeOff && (set == nil || set.Len() == 0) {
		return cordon.Errorf(cordon.Invalid, "", "the trust set is empty: nothing could run")
	}
	if mode == cordon.ModeOff {
		e.policy.Store(&policy{mode: mode, set: e.policy.Load().set})
		return e.release()
	}
	// The policy first: whatever the marks below catch is judged by it.
	before := e.policy.Swap(&policy{mode: mode, set: set})
	if err := e.watch(); err != nil {
		e.policy.Store(before)
		if before.mode == cordon.ModeOff {
			err = errors.Join(err, e.release())
		}
		return err
	}
	// Spared by the old policy is not spared by the new one. A mark that is being
	// placed at this moment is taken back by who places it: see spare.
	if err := e.group.unwatch(unix.FAN_MARK_INODE); err != nil {
		return &cordon.Error{Kind: cordon.Unavailable, Message: "earlier verdicts could not be forgotten", Err: err}
	}
	return nil
}

// watch is called with apply held.
func (e *Enforcer) watch() error {
	if e.scope.Mount == "" {
		if err := e.watchHost(); err != nil {
			return err
		}
	} else if err := e.watchMount(); err != nil {
		return err
	}
	e.watching = true
	return nil
}

// release is called with apply held.
func (e *Enforcer) release() error {
	if !e.watching {
		return nil
	}
	err := errors.Join(e.group.unwatch(unix.FAN_MARK_MOUNT), e.group.unwatch(unix.FAN_MARK_FILESYSTEM), e.group.unwatch(unix.FAN_MARK_INODE))
	if err != nil {
		return &cordon.Error{Kind: cordon.Unavailable, Message: "the marks could not be taken back; the mode is off all the same", Err: err}
	}
	e.watching = false
	return nil
}

// Stats returns exact counts.
func (e *Enforcer) Stats() enforce.Stats {
	return enforce.Stats{Judged: e.judged.Load(), Refused: e.refused.Load(), WouldRefuse: e.would.Load(), Errors: e.failed.Load(), Lost: e.lost.Load()}
}

// Refusals returns samples of what was refused.
func (e *Enforcer) Refusals() <-chan enforce.Refusal { return e.refusals }

// Beat grows with every round of the answering thread.
func (e *Enforcer) Beat() uint64 { return e.beat.Load() }

// Describe says what this enforcer is and cannot do.
func (e *Enforcer) Describe() enforce.Description {
	return enforce.Description{Name: "fanotify", Scope: e.scope, Limits: limits, Coverage: coverage}
}

// Close lets go. The kernel allows whatever still waits. A second call does nothing.
func (e *Enforcer) Close() error {
	var err error
	e.closing.Do(func() {
		if _, err = unix.Write(e.stop, []byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
			return
		}
		e.answering.Wait()
		close(e.jobs)
		e.hashing.Wait()
		close(e.sightings)
		e.naming.Wait()
		err = errors.Join(unix.Close(e.stop), unix.Close(e.group.fd))
	})
	return err
}

// respond answers until Close.
func (e *Enforcer) respond() {
	// A thread of its own, so that no other goroutine's system call delays it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	r := responder{Enforcer: e, cache: make(map[cordon.FileID]struct{}, 1024)}
	r.loop()
}
