// Package bpflsm enforces with BPF programs on the kernel's security hooks (BPF
// LSM): the kernel decides by itself, from a set of digests that it was given.
//
// # How it decides
//
// Whatever is to become code is judged by the SHA-256 of its content: programs,
// interpreters, scripts that are executed, libraries, every other executable
// mapping, kernel modules, kernels for kexec. The kernel computes the digest
// when it meets a file and remembers the verdict with the inode in memory for
// as long as nobody could have changed the file. No path, device or inode
// number is ever compared with anything that user space said.
//
// A trust set is a map of its own. A new one is filled while the old one is in
// force; then one number changes that says which one counts, and with it every
// remembered verdict is void. The mode is in the same number, so that
// restricting a machine is one write.
//
// # What it owns
//
// The maps and programs, and one goroutine that reads samples of refusals. The
// agent's process is not part of any verdict.
package bpflsm

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/enforce"
	"github.com/cordon-project/cordon/internal/enforce/bpflsm/sample"
)

// Config is what an enforcer needs.
type Config struct {
	Scope enforce.Scope // a mount stands for its whole file system
	Log   *slog.Logger
	// DenyAnonymous refuses executable memory without a file: no JIT runs then.
	// It holds for the whole machine only.
	DenyAnonymous bool
	// DenyAnonymousOf refuses it to programs that are trusted because of these:
	// first words of [cordon.TrustEntry.Origin], like dpkg, rpm, rule or policy. A
	// program that was started before it could be judged is not among them.
	DenyAnonymousOf []string
	// TrustedScripts has interpreters run only what is trusted. It holds for the
	// whole machine only, and for files that were shown: see [Enforcer.Learn].
	TrustedScripts bool
	// Pins is a directory in a BPF file system, [Pins] as a rule, where the
	// programs are kept beyond this process; empty: a restriction ends with it.
	Pins string
	Home string // with pins: the agent's data directory, which is guarded
	Kin  []int  // with pins: processes that are as well guarded as this one
}

// Enforcer is the programs and maps in the kernel. Make one with [Open].
type Enforcer struct {
	cfg     Config
	without []string
	kernel  abilities
	called  enforce.Finding // whether the kernel calls the programs
	progs   map[string]*ebpf.Program
	maps    map[string]*ebpf.Map
	names   string // how those of the maps begin
	links   map[string]link.Link
	home    [2]uint64 // device and inode of Home, as the kernel has them
	self    cordon.Digest
	base    enforce.Stats         // what the canaries of Prove counted
	proven  atomic.Int64          // when Prove ended (CLOCK_MONOTONIC, in ns); while it runs, the end of time
	pinned  string                // directory of our own pins, if any
	loose   atomic.Pointer[error] // why the restriction may end with this process; see hold

	asking  sync.Mutex // one question at a time
	apply   sync.Mutex // one Apply at a time
	version cordon.Digest
	elders  []elder

	final    atomic.Pointer[enforce.Stats] // what was counted when it was closed
	reader   *ringbuf.Reader
	refusals chan enforce.Refusal
	reading  sync.WaitGroup
}

// Open loads and attaches everything in mode off.
func Open(cfg Config) (*Enforcer, error) {
	e := &Enforcer{cfg: cfg, refusals: make(chan enforce.Refusal, 64)}
	e.called = enforce.Finding{Answer: cordon.Unknown, Reason: "attached, and not tried yet"}
	if err := e.open(); err != nil {
		return nil, &cordon.Error{Kind: cordon.Unavailable, Message: "BPF LSM cannot be used", Err: errors.Join(err, e.Close())}
	}
	return e, nil
}

func (e *Enforcer) open() (err error) {
	s, without, err := spec(&e.cfg)
	if err != nil {
		return err
	}
	e.without = without
	e.names = newNames()
	fillIn(s, e.names)
	first := takeFirst(s)
	if e.cfg.Pins != "" {
		release, err := alone(first)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, release()) }()
	}
	c, kernel, err := load(s, nil)
	if err != nil {
		return err
	}
	e.kernel = kernel
	e.progs, e.maps = c.Programs, c.Maps
	e.links = make(map[string]link.Link)
	for _, name := range attached(s) {
		if e.links[name], err = link.AttachLSM(link.LSMOptions{Program: e.progs[name]}); err != nil {
			delete(e.links, name)
			return fmt.Errorf("attach %s: %w", name, err)
		}
	}
	if err := e.setScope(); err != nil {
		return err
	}
	if e.cfg.Pins != "" {
		if err := e.stay(); err != nil {
			return err
		}
	}
	if e.reader, err = ringbuf.NewReader(e.maps["events"]); err != nil {
		return fmt.Errorf("read events: %w", err)
	}
	e.reading.Go(e.read)
	return nil
}

// stay makes what is attached outlive this process, and guards it.
func (e *Enforcer) stay() (err error) {
	if e.self, err = ownDigest(); err != nil {
		return err
	}
	if err := e.guard(); err != nil { // from here on the maps are this process's alone
		return err
	}
	if err := e.guardPlaces(); err != nil {
		return err
	}
	if err := e.findElders(); err != nil {
		return err
	}
	if err := e.pin(); err != nil {
		return err
	}
	if p := e.progs[sysctls]; p != nil {
		if err := e.guardSysctls(); err != nil { // whoever opens the one that matters from now on is refused by another program
			e.cfg.Log.Warn("writes to sysctls are not judged", "err", errors.Join(err, p.Unpin(), p.Close()))
			e.without = append(e.without, sysctls)
			delete(e.progs, sysctls)
		}
	}
	return nil
}

// ownDigest is the SHA-256 of this process's program.
func ownDigest() (d cordon.Digest, err error) {
	f, err := os.Open("/proc/self/exe")
	if err != nil {
		return d, fmt.Errorf("read own program: %w", err)
	}
	defer func() { _ = f.Close() }() // only read
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return d, fmt.Errorf("read own program: %w", err)
	}
	return cordon.Digest(h.Sum(nil)), nil
}

// ask opens path in a way that the programs notice, and returns what the
// kernel calls its file system, which is not always what stat(2) says, and its inode.
func (e *Enforcer) ask(path string) (dev, file uint64, err error) {
	answers, err := e.question(path, settingAsked, settingAskedFile)
	return answers[0], answers[1], err
}

// askGround returns the reason, as in package sample, why the kernel could trust
// nothing where path lies; 0: it could.
func (e *Enforcer) askGround(path string) (uint8, error) {
	answers, err := e.question(path, settingAsked, settingAskedGround)
	return uint8(answers[1]), err
}

// question returns two of the settings that the programs answer in.
func (e *Enforcer) question(path string, first, second uint32) (answers [2]uint64, err error) {
	e.asking.Lock()
	defer e.asking.Unlock()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	settings := e.maps["settings"]
	err = errors.Join(settings.Put(settingAsked, uint64(0)), settings.Put(settingAsker, uint64(unix.Gettid())))
	if err != nil {
		return answers, err
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err == nil {
		err = unix.Close(fd)
	}
	err = errors.Join(err, settings.Put(settingAsker, uint64(0)))
	if err == nil {
		err = errors.Join(settings.Lookup(first, &answers[0]), settings.Lookup(second, &answers[1]))
	}
	if err == nil && answers[0] == 0 {
		err = errors.New("the kernel attached the programs, but does not call them (is bpf in /sys/kernel/security/lsm? If not, boot with lsm=…,bpf)")
	}
	return answers, err
}

func (e *Enforcer) setScope() error {
	var dev uint64
	if e.cfg.Scope.Mount != "" {
		var err error
		if dev, _, err = e.ask(e.cfg.Scope.Mount); err != nil {
			return fmt.Errorf("find the file system of the scope %s: %w", e.cfg.Scope, err)
		}
	}
	return e.maps["settings"].Put(settingScope, dev)
}

func (e *Enforcer) word() (w word, err error) {
	err = e.maps["settings"].Lookup(settingWord, (*uint64)(&w))
	return w, err
}

// Apply puts mode and set in force; see [enforce.Enforcer].
func (e *Enforcer) Apply(mode cordon.Mode, set *cordon.TrustSet) error {
	e.apply.Lock()
	defer e.apply.Unlock()
	if mode != cordon.ModeOff && e.cfg.Scope.Mount == "" {
		w, err := e.word()
		known, bad := e.inheritDisks()
		if err = errors.Join(err, bad); err == nil && !known && w.mode() != cordon.ModeEnforce {
			err = e.closeDisks()
		}
		if err != nil {
			return &cordon.Error{Kind: cordon.Unavailable, Message: "the disks beneath programs could not be closed to writers", Err: err}
		}
	}
	if mode == cordon.ModeEnforce && e.cfg.Scope.Mount == "" {
		if err := e.grounded(); err != nil {
			return err
		}
	}
	before, err := e.word()
	if err == nil {
		err = e.put(mode, set)
	}
	if err != nil {
		return err
	}
	if mode == cordon.ModeEnforce && before.mode() != cordon.ModeEnforce && e.pinned != "" {
		loose := e.hold()
		if loose != nil { // better than no restriction
			e.cfg.Log.Error("what keeps a restriction could not be made anew", "err", loose)
		}
		e.loose.Store(&loose)
	}
	// What an earlier process left was in force until now, and is not needed any more.
	if err := e.dismiss(); err != nil {
		return &cordon.Error{Kind: cordon.Unavailable, Message: "what an earlier agent put in force could not be taken back", Err: err}
	}
	return nil
}

// put is called with apply held, or before anybody else has the enforcer.
func (e *Enforcer) put(mode cordon.Mode, set *cordon.TrustSet) error {
	some := set != nil && set.Len() > 0
	if mode != cordon.ModeOff && !some {
		return cordon.Errorf(cordon.Invalid, "", "the trust set is empty: nothing could run")
	}
	w, err := e.word()
	if err == nil && some && (set.Version() != e.version || w.policy() == 0) {
		w, err = e.fill(w, set)
	}
	if w &^= wordAnonDeny; e.cfg.DenyAnonymous {
		w |= wordAnonDeny
	}
	if w &^= wordScripts; e.cfg.TrustedScripts {
		w |= wordScripts
	}
	if err == nil {
		err = e.maps["settings"].Put(settingWord, uint64(w.withMode(mode)))
	}
	if err != nil {
		return &cordon.Error{Kind: cordon.Unavailable, Message: "the kernel did not take the trust set", Err: err}
	}
	if some {
		e.version = set.Version()
	}
	return nil
}

// Mode returns what is in force now, be it by an earlier process.
func (e *Enforcer) Mode() cordon.Mode {
	e.apply.Lock()
	defer e.apply.Unlock()
	if slices.ContainsFunc(e.elders, func(old elder) bool { return old.enforcing }) {
		return cordon.ModeEnforce
	}
	w, err := e.word()
	if err != nil {
		return cordon.ModeOff // the map is ours: it can be read
	}
	return w.mode()
}

// fill puts the set into the slot that is not in use and returns the word that
// makes it count.
func (e *Enforcer) fill(w word, set *cordon.TrustSet) (word, error) {
	m, anySize, err := newSet(e.names+"set", set, e.self, e.cfg.DenyAnonymousOf)
	if err != nil {
		return 0, err
	}
	next := w ^ wordSlot
	err = e.maps["sets"].Put(next.slot(), uint32(m.FD()))
	// The slot keeps it; nobody needs the descriptor any more.
	if err = errors.Join(err, m.Close()); err != nil {
		return 0, err
	}
	next &^= wordAnySize
	if anySize {
		next |= wordAnySize
	}
	return next&(1<<32-1) | word(max(1, w.policy()+1))<<32, nil
}

func (e *Enforcer) counters() (enforce.Stats, error) {
	var n [counters]uint64
	for i := range n {
		var each []uint64
		if err := e.maps["counters"].Lookup(uint32(i), &each); err != nil {
			return enforce.Stats{}, fmt.Errorf("read counters: %w", err)
		}
		for _, v := range each {
			n[i] += v
		}
	}
	s := enforce.Stats{Judged: n[countJudged], Refused: n[countRefused], WouldRefuse: n[countWould], Errors: n[countUnknown]}
	for name, p := range e.progs {
		// Kernels before 6.2 (and 6.1.54) do not call a program that was interrupted on the same processor.
		each, err := p.Stats()
		if err != nil {
			return enforce.Stats{}, fmt.Errorf("read counters of %s: %w", name, err)
		}
		s.Lost += each.RecursionMisses
	}
	return s, nil
}

// Stats returns exact counts: the kernel counts by itself, whoever listens.
func (e *Enforcer) Stats() enforce.Stats {
	var s enforce.Stats
	if f := e.final.Load(); f != nil {
		s = *f
	} else {
		s, _ = e.counters() // the map is ours: it can be read
	}
	s.Judged -= e.base.Judged
	s.Refused -= e.base.Refused
	s.Errors -= e.base.Errors
	return s
}

// Refusals returns samples of what was refused.
func (e *Enforcer) Refusals() <-chan enforce.Refusal { return e.refusals }

// Beat is the clock: the kernel answers by itself, whatever becomes of the agent.
func (e *Enforcer) Beat() uint64 { return uint64(time.Now().UnixNano()) }

// limits are what [Enforcer.Describe] says on every kernel.
var limits = []string{
	"What was running before the restriction keeps running.",
	"Files on network and FUSE file systems, on loop and network block devices, and on an overlay over an overlay, are always refused.",
	"A file that runs as a program, a library or an interpreter's text, or ran since it was last read from disk, cannot be written to in place while restricted; replacing it works.",
	"No process may trace another or change its memory: debuggers and strace do not work while restricted, and what traced another before goes on.",
	"The disk that programs came from is not written to but through its file systems (boot loaders and LVM excepted); what the disk itself, or a device mapper table beneath a volume, changes is not seen.",
}

// Describe says what this enforcer is and cannot do.
func (e *Enforcer) Describe() enforce.Description {
	d := enforce.Description{Name: "bpf", Scope: e.cfg.Scope, Limits: slices.Clone(limits), Mappings: true, Interpreters: cordon.OpenInterpreters}
	switch {
	case e.cfg.DenyAnonymous:
	case len(e.cfg.DenyAnonymousOf) > 0:
		d.Limits = append(d.Limits, "Code that a running program makes in memory by itself (JIT, and shellcode) is allowed to programs whose trust comes from elsewhere than "+strings.Join(e.cfg.DenyAnonymousOf, ", ")+".")
	default:
		d.Limits = append(d.Limits, "Code that a running program makes in memory by itself (JIT, and shellcode) is allowed; --anonymous-code deny refuses it.")
	}
	if e.cfg.TrustedScripts && e.cfg.Scope.Mount == "" {
		d.Interpreters = cordon.TrustedScripts
		d.Limits = append(d.Limits, interpreterLimits...)
	} else {
		d.Limits = append(d.Limits, "Scripts are judged when they are executed by name, not when a trusted interpreter is told to read them (sh FILE, python FILE, -c, standard input); --interpreters trusted-scripts refuses most of that.")
	}
	for _, name := range e.without {
		if missing := optional[name]; missing != "" {
			d.Limits = append(d.Limits, missing)
		}
	}
	d.Coverage = e.coverage()
	return d
}

// read turns events into refusals until Close, and what there is then.
func (e *Enforcer) read() {
	defer close(e.refusals)
	var rec ringbuf.Record
	for {
		if err := e.reader.ReadInto(&rec); err != nil {
			if !errors.Is(err, ringbuf.ErrFlushed) && !errors.Is(err, ringbuf.ErrClosed) {
				e.cfg.Log.Error("refusals are counted but not told any more", "err", err)
			}
			return
		}
		r, at, err := sample.Parse(rec.RawSample)
		if err != nil {
			continue // not of our making
		}
		if at < e.proven.Load() {
			continue // a canary of Prove, as nothing else was judged
		}
		select {
		case e.refusals <- r:
		default: // nobody listens; the counters have it
		}
	}
}

// Close lets go of this process's part. With pins, a restriction stays in force:
// only Apply lifts it.
func (e *Enforcer) Close() error {
	errs := []error{e.forget()}
	if e.pinned != "" {
		if w, err := e.word(); err != nil || w.mode() != cordon.ModeEnforce {
			errs = append(errs, err, e.unpin())
		}
	}
	if e.reader != nil {
		errs = append(errs, e.reader.Flush())
		flood := time.AfterFunc(time.Second, func() { _ = e.reader.Close() }) // it is read to no end then; closed for good below
		e.reading.Wait()
		flood.Stop()
		if s, err := e.counters(); err == nil { // they were all there when it was opened
			e.final.Store(&s)
		}
		errs = append(errs, e.reader.Close())
	}
	for _, l := range e.links {
		errs = append(errs, l.Close())
	}
	for _, p := range e.progs {
		errs = append(errs, p.Close())
	}
	for _, m := range e.maps {
		errs = append(errs, m.Close())
	}
	return errors.Join(errs...)
}
