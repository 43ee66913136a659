package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
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

// settingsMap finds the map that says what is in force.
func settingsMap() (*ebpf.Map, error) {
	var id ebpf.MapID
	var refused error
	for {
		next, err := ebpf.MapGetNextID(id)
		if errors.Is(err, os.ErrNotExist) {
			return nil, errors.Join(errors.New("not found"), refused)
		}
		if err != nil {
			return nil, err
		}
		id = next
		m, err := ebpf.NewMapFromID(id)
		if err != nil {
			refused = err
			continue
		}
		if info, err := m.Info(); err == nil && info.Name == "settings" {
			return m, nil
		}
		_ = m.Close()
	}
}

// What root may have opened ahead: the switch of function tracing before any
// agent was started, the settings of one that had not restricted anything yet.
var (
	early *os.File
	ahead *ebpf.Map
)

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
func answered(l link.Link, err error) error {
	if err != nil {
		return err
	}
	m, err := settingsMap()
	if err == nil {
		err = errors.Join(m.Put(uint32(0), uint64(0)), m.Close())
	}
	return errors.Join(err, l.Close())
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
		pid := w.victim.pid()
		if err := unix.PtraceSeize(pid); err != nil {
			return err
		}
		// It is let go of again, as a traced process waits at each of its signals.
		var st unix.WaitStatus
		err := unix.PtraceInterrupt(pid)
		if err == nil {
			_, err = unix.Wait4(pid, &st, unix.WALL, nil)
		}
		return errors.Join(err, unix.PtraceDetach(pid))
	}),
	attack("limit of processor time", func(w *World) error {
		pid := w.victim.pid()
		var before unix.Rlimit
		err := unix.Prlimit(pid, unix.RLIMIT_CPU, &unix.Rlimit{Cur: 1, Max: 1}, &before)
		w.later(func() { _ = unix.Prlimit(pid, unix.RLIMIT_CPU, &before, nil) }) // what comes next needs it alive
		return err
	}),
	counted(attack("its memory opened for writing", func(w *World) error {
		f, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", w.victim.pid()), os.O_RDWR, 0)
		if err != nil {
			return err
		}
		return f.Close()
	})),
	attack("a descriptor of it taken (pidfd_getfd)", func(w *World) error {
		fd, err := unix.PidfdOpen(w.victim.pid(), 0)
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
	onBPF("map changed, by its id", func(*World) error {
		m, err := settingsMap()
		if err != nil {
			return err
		}
		defer func() { _ = m.Close() }()
		return m.Put(uint32(0), uint64(0))
	}),
	onBPF("map changed, by its id, where another BPF program answers first (fmod_ret)", func(w *World) error {
		err := answered(answering("security_bpf_map"))
		if errors.Is(err, unix.EPERM) && !w.victim.enforcing { // nobody may before a restriction, either
			return nil
		}
		return err
	}),
	firstLSM(onBPF("map changed, by its id, where another BPF program answers first (LSM)", func(*World) error {
		return answered(attached(yes(ebpf.LSM, ebpf.AttachLSMMac, "bpf_map")))
	})),
	onBPF("map changed, by its pin", func(*World) error {
		dir, err := pins()
		if err != nil {
			return err
		}
		m, err := ebpf.LoadPinnedMap(dir+"/settings", nil)
		if err != nil {
			return err
		}
		defer func() { _ = m.Close() }()
		return m.Put(uint32(0), uint64(0))
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
	onBPF("map changed by who had opened it before the restriction", func(w *World) error {
		if ahead == nil { // not restricted yet
			return nil
		}
		var before uint64
		if err := ahead.Lookup(uint32(0), &before); err != nil {
			return err
		}
		w.later(func() { _ = ahead.Put(uint32(0), before) })
		return ahead.Put(uint32(0), uint64(0))
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
