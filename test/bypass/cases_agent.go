package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// attack is a case directed at the enforcer: it counts as stopped if an
// untrusted program is refused afterwards, whether the attack itself worked or
// not; without enforcement the attack has to work.
func attack(name string, f func(w *World) error) Case {
	return Case{ID: "B20", Name: name, Attacks: true, Attempt: func(w *World) error {
		var attacked error
		if w.victim != nil { // else there is nobody to attack
			attacked = f(w)
		}
		err := evilRuns(w)
		if attacked != nil {
			return attacked // the marker says what came of it all the same
		}
		return err
	}}
}

// timed says that an attack works only where it takes long enough.
func timed(c Case) Case {
	c.Race = true
	return c
}

// counted is an attack that may count as a refusal itself.
func counted(c Case) Case {
	c.Refusals = anyNumber
	return c
}

// onBPF is an attack on programs, links and maps, which other mechanisms do not have.
func onBPF(name string, f func(w *World) error) Case {
	c := attack(name, f)
	c.Lacks = func(w *World) string {
		if w.victim == nil || !strings.HasPrefix(w.victim.mechanism, bpf) {
			return "it has no BPF programs"
		}
		return ""
	}
	return c
}

// send sends sig and waits until it had its effect, if it was sent.
func send(sig unix.Signal) func(*World) error {
	return func(w *World) error {
		if err := unix.Kill(w.victim.pid(), sig); err != nil {
			return err
		}
		for w.victim.alive() {
			if err := unix.Kill(w.victim.pid(), 0); err != nil {
				return err
			}
		}
		return nil
	}
}

func cgroup(file string) func(*World) error {
	return func(w *World) error {
		if w.victim.mechanism == fapolicyd {
			return errors.New("it is in no cgroup of its own here")
		}
		return os.WriteFile(filepath.Join(w.victim.cgroup, file), []byte("1"), 0)
	}
}

func unpin(names ...string) func(*World) error {
	return func(*World) error {
		dir, err := pins()
		if err != nil {
			return err
		}
		var errs []error
		for _, n := range names {
			errs = append(errs, os.Remove(filepath.Join(dir, n)))
		}
		return errors.Join(errs...)
	}
}

// target is a map that says what is in force, and where it is.
type target struct {
	name string // how its name ends
	pin  string
	pid  int // of a process that has it open
}

// settingsOf is the agent's.
func settingsOf(e *enforcer) (target, error) {
	dir, err := pins()
	return target{"_settings", dir + "/settings", e.pid()}, err
}

// settings is the agent's while it restricts. Others do not find an agent's maps
// before that either, so that what is to be seen to work then has one that nobody guards.
func (w *World) settings() (target, error) {
	if w.victim.enforcing {
		return settingsOf(w.victim)
	}
	of := target{"decoy", "/sys/fs/bpf/decoy", os.Getpid()}
	m, err := ebpf.NewMap(&ebpf.MapSpec{Name: of.name, Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		return of, err
	}
	w.later(func() { _ = errors.Join(m.Unpin(), m.Close()) })
	return of, m.Pin(of.pin)
}

// process is the agent while it restricts. Nobody traces it before that either,
// so that what is to be seen to work then has one that nobody guards.
func (w *World) process() (int, error) {
	if w.victim.enforcing {
		return w.victim.pid(), nil
	}
	cmd := w.command(busybox, "sleep", "60")
	err := cmd.Start()
	if err == nil {
		w.later(func() { _ = errors.Join(cmd.Process.Kill(), cmd.Wait()) })
		return cmd.Process.Pid, nil
	}
	return 0, err
}

// byID finds the map among all that there are.
func (of target) byID() (*ebpf.Map, error) {
	refused := fmt.Errorf("a map with a name like %s: %w", of.name, unix.ENOENT)
	var id ebpf.MapID
	for {
		next, err := ebpf.MapGetNextID(id)
		if errors.Is(err, os.ErrNotExist) {
			return nil, refused
		}
		if err != nil {
			return nil, err
		}
		id = next
		m, err := ebpf.NewMapFromID(id)
		if errors.Is(err, unix.EPERM) {
			refused = err
		}
		if err != nil {
			continue
		}
		if of.is(m) {
			return m, nil
		}
		_ = m.Close() // only looked at
	}
}

func (of target) is(m *ebpf.Map) bool {
	info, err := m.Info()
	return err == nil && strings.HasSuffix(info.Name, of.name)
}

// stolen takes the descriptor from a process that has it.
func (of target) stolen() (*ebpf.Map, error) {
	process, err := unix.PidfdOpen(of.pid, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(process) }() // only names
	for n := 3; n < 256; n++ {
		fd, err := unix.PidfdGetfd(process, n, 0)
		if errors.Is(err, unix.EBADF) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if m, err := ebpf.NewMapFromFD(fd); err == nil {
			if of.is(m) {
				return m, nil
			}
			_ = m.Close() // only looked at
		}
	}
	return nil, errors.New("it has no such descriptor")
}

// enforced is the bit of the first setting that is set while all is refused that is not trusted.
const enforced = 2

// written changes it by a call.
func written(m *ebpf.Map) func() error {
	return func() error {
		var word uint64
		err := m.Lookup(uint32(0), &word)
		return errors.Join(err, m.Put(uint32(0), word^enforced))
	}
}

// programmed changes it by a program, for which it does not matter how it was opened.
func programmed(m *ebpf.Map) (func() error, error) {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SocketFilter, License: "GPL", Instructions: asm.Instructions{
		asm.StoreImm(asm.RFP, -4, 0, asm.Word),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -4),
		asm.LoadMapPtr(asm.R1, m.FD()),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "end"),
		asm.LoadMem(asm.R1, asm.R0, 0, asm.DWord),
		asm.Xor.Imm(asm.R1, enforced),
		asm.StoreMem(asm.R0, 0, asm.R1, asm.DWord),
		asm.Mov.Imm(asm.R0, 0).WithSymbol("end"),
		asm.Return(),
	}})
	return func() error {
		_, err := p.Run(&ebpf.RunOptions{Data: make([]byte, 14)})
		return err
	}, err
}

// prepared is what root has while the machine is not restricted yet, to change the map with afterwards.
type prepared struct {
	change func() error
	err    error
}

// preparations are made right before the restriction, by the names of cases.
var (
	preparations = map[string]func(of target) (change func() error, err error){}
	ahead        = map[string]prepared{}
)

// prepare makes them.
func prepare(e *enforcer) error {
	of, err := settingsOf(e)
	for name, prepare := range preparations {
		change, refused := prepare(of)
		ahead[name] = prepared{change, refused}
	}
	return err
}

// before is an attack that is prepared while the machine is not restricted.
func before(name string, prepare func(of target) (change func() error, err error)) Case {
	preparations[name] = prepare
	c := onBPF(name, func(w *World) error {
		p := ahead[name]
		if !w.victim.enforcing {
			of, err := w.settings()
			if err != nil {
				return err
			}
			p.change, p.err = prepare(of)
		}
		if p.err != nil {
			return p.err
		}
		w.later(func() { _ = p.change() }) // and back
		return p.change()
	})
	c.Also = []syscall.Errno{unix.ENOENT} // before a restriction, nobody finds it
	return c
}

// early is the switch of function tracing, opened before any agent was started.
var early *os.File

// yes is a program that answers a question of the kernel's with 1: many that ask
// look for an error only, which is below 0.
func yes(kind ebpf.ProgramType, at ebpf.AttachType, function string) *ebpf.ProgramSpec {
	return &ebpf.ProgramSpec{Type: kind, AttachType: at, AttachTo: function, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()}}
}

// attached has it called from now on.
func attached(spec *ebpf.ProgramSpec) (link.Link, error) {
	p, err := ebpf.NewProgram(spec)
	if err != nil {
		return nil, err
	}
	defer func() { _ = p.Close() }() // the link keeps it
	if spec.Type == ebpf.LSM {
		return link.AttachLSM(link.LSMOptions{Program: p})
	}
	return link.AttachTracing(link.TracingOptions{Program: p})
}

// answering has a program answer instead of a function of the kernel.
func answering(function string) (link.Link, error) {
	return attached(yes(ebpf.Tracing, ebpf.AttachModifyReturn, function))
}

// answered changes the map that says what is in force as long as l is there.
func answered(w *World, l link.Link, err error) error {
	if err != nil {
		return err
	}
	of, err := settingsOf(w.victim)
	if err == nil {
		err = changed(of.byID())
	}
	return errors.Join(err, l.Close())
}

// changed says that nothing is enforced.
func changed(m *ebpf.Map, err error) error {
	if err != nil {
		return err
	}
	return errors.Join(m.Put(uint32(0), uint64(0)), m.Close())
}

// firstLSM is for kernels that let such programs answer what they like.
func firstLSM(c Case) Case {
	lacks := c.Lacks
	c.Lacks = func(w *World) string {
		if why := lacks(w); why != "" {
			return why
		}
		p, err := ebpf.NewProgram(yes(ebpf.LSM, ebpf.AttachLSMMac, "bpf_map"))
		if errors.Is(err, unix.EINVAL) {
			return "this kernel takes no program that answers so"
		}
		if err == nil {
			_ = p.Close()
		}
		return ""
	}
	return c
}

var agentCases = []Case{
	attack("kill -9", send(unix.SIGKILL)),
	attack("kill -TERM", send(unix.SIGTERM)),
	attack("kill -STOP", send(unix.SIGSTOP)),
	attack("cgroup.kill", cgroup("cgroup.kill")),
	attack("cgroup.freeze", cgroup("cgroup.freeze")),
	attack("ptrace", func(w *World) error {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		pid, err := w.process()
		if err == nil {
			err = unix.PtraceSeize(pid)
		}
		if err != nil {
			return err
		}
		// It is let go of again, as a traced process waits at each of its signals.
		var st unix.WaitStatus
		err = unix.PtraceInterrupt(pid)
		if err == nil {
			_, err = unix.Wait4(pid, &st, unix.WALL, nil)
		}
		return errors.Join(err, unix.PtraceDetach(pid))
	}),
	timed(attack("limit of processor time", func(w *World) error {
		pid := w.victim.pid()
		var before unix.Rlimit
		err := unix.Prlimit(pid, unix.RLIMIT_CPU, &unix.Rlimit{Cur: 1, Max: 1}, &before)
		w.later(func() { _ = unix.Prlimit(pid, unix.RLIMIT_CPU, &before, nil) }) // what comes next needs it alive
		return err
	})),
	counted(attack("its memory opened for writing", func(w *World) error {
		pid, err := w.process()
		if err != nil {
			return err
		}
		f, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
		if err != nil {
			return err
		}
		return f.Close()
	})),
	attack("a descriptor of it taken (pidfd_getfd)", func(w *World) error {
		pid, err := w.process()
		if err != nil {
			return err
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(fd) }()
		got, err := unix.PidfdGetfd(fd, 0, 0)
		if err != nil {
			return err
		}
		return unix.Close(got)
	}),
	onBPF("map changed, by its id", func(w *World) error {
		of, err := w.settings()
		if err != nil {
			return err
		}
		return changed(of.byID())
	}),
	onBPF("map changed, by its id, where another BPF program answers first (fmod_ret)", func(w *World) error {
		l, err := answering("security_bpf_map")
		err = answered(w, l, err)
		if errors.Is(err, unix.EPERM) && !w.victim.enforcing { // nobody may before a restriction, either
			return nil
		}
		return err
	}),
	firstLSM(onBPF("map changed, by its id, where another BPF program answers first (LSM)", func(w *World) error {
		l, err := attached(yes(ebpf.LSM, ebpf.AttachLSMMac, "bpf_map"))
		return answered(w, l, err)
	})),
	onBPF("map changed, by its pin", func(w *World) error {
		of, err := w.settings()
		if err != nil {
			return err
		}
		return changed(ebpf.LoadPinnedMap(of.pin, nil))
	}),
	onBPF("program that replaces another's code (BPF_PROG_TYPE_EXT)", func(*World) error {
		attr := [16]uint64{28}
		if _, _, errno := unix.Syscall(unix.SYS_BPF, 5, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr)); errno == unix.EPERM {
			return errno
		}
		return nil // it was looked at: what is wrong with it does not matter
	}),
	onBPF("tracing of functions switched off (kernel.ftrace_enabled)", func(w *World) error {
		_ = w.set("/proc/sys/kernel/ftrace_enabled", "0") // what follows tells
		return nil
	}),
	onBPF("tracing of functions switched off by who had the switch open before the agent was started", func(w *World) error {
		w.later(func() { _, _ = early.WriteAt([]byte("1"), 0) })
		_, _ = early.WriteAt([]byte("0"), 0) // what follows tells
		return nil
	}),
	before("map changed by who had opened it before the restriction", func(of target) (func() error, error) {
		m, err := of.byID()
		return written(m), err
	}),
	before("map changed by who had opened it by its pin before the restriction", func(of target) (func() error, error) {
		m, err := ebpf.LoadPinnedMap(of.pin, nil)
		return written(m), err
	}),
	before("map changed by a program that was loaded before the restriction, with the map opened for reading", func(of target) (func() error, error) {
		m, err := ebpf.LoadPinnedMap(of.pin, &ebpf.LoadPinOptions{ReadOnly: true})
		if err != nil {
			return nil, err
		}
		return programmed(m)
	}),
	before("map changed by a descriptor that was taken from the agent before the restriction (pidfd_getfd)", func(of target) (func() error, error) {
		m, err := of.stolen()
		return written(m), err
	}),
	onBPF("link detached", func(w *World) error {
		dir, err := pins()
		if err != nil {
			return err
		}
		l, err := link.LoadPinnedLink(dir+"/exec", nil)
		if err != nil {
			return err
		}
		_ = l.Detach() // the kernel has no such thing for these links; what follows tells
		return l.Close()
	}),
	onBPF("map moved away by a mount over the pins", func(w *World) error {
		if err := unix.Mount("t", "/sys/fs/bpf", "tmpfs", 0, ""); err != nil {
			return err
		}
		w.later(func() { _ = unix.Unmount("/sys/fs/bpf", unix.MNT_DETACH) })
		return nil
	}),
	onBPF("pins removed and agent killed", func(w *World) error {
		return errors.Join(unpin("exec", "map", "protect", "settings")(w), send(unix.SIGKILL)(w))
	}),
	onBPF("pins unmounted and agent killed", func(w *World) error {
		err := unix.Unmount("/sys/fs/bpf", unix.MNT_DETACH)
		if err == nil {
			w.later(func() { _ = unix.Mount("bpf", "/sys/fs/bpf", "bpf", 0, "mode=700") })
		}
		return errors.Join(err, send(unix.SIGKILL)(w))
	}),
	onBPF("agent's state removed", func(w *World) error {
		state := agentHome + "/state"
		if _, err := os.Stat(state); err != nil {
			return fmt.Errorf("before: %s", err)
		}
		return os.Remove(state)
	}),
}
