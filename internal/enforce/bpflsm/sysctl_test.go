package bpflsm

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon/internal/enforce/mount"

	"github.com/cordon-project/cordon/internal/testkit/vm"
)

const (
	tracing   = "/proc/sys/kernel/ftrace_enabled" // 0: the kernel calls no program of BPF LSM
	lowerDir  = "/sys/fs/cgroup/lower"
	rootGroup = "/sys/fs/cgroup"
)

// TestSwitchOpenBefore has root write to the switch of function tracing by a
// descriptor from before there was an agent, and prepare more than that while
// the machine is not restricted.
func TestSwitchOpenBefore(t *testing.T) {
	eachKernel(t, vm.Config{}, func(t *testing.T) {
		script := furnishAgents(t, t.TempDir())
		early := open(t, tracing, os.O_RDWR)
		if err := os.Mkdir(lowerDir, 0o755); err != nil {
			t.Fatal(err)
		}
		lower, root := open(t, lowerDir, os.O_RDONLY), open(t, rootGroup, os.O_RDONLY)
		overrule := overruling(t)
		attach := link.RawAttachProgramOptions{Program: overrule, Attach: ebpf.AttachCGroupSysctl, Target: int(lower.Fd()), Flags: 1 /* BPF_F_ALLOW_OVERRIDE */}
		allowed(t, "attach a program to a cgroup, before the agent", link.RawAttachProgram(attach))
		attach.Target, attach.Flags = int(root.Fd()), unix.BPF_F_ALLOW_MULTI

		a, err := startAgent(t, "/proc/self/exe", homeDir)
		if err != nil {
			t.Fatal(err)
		}
		holds := func(when string) {
			t.Helper()
			for how, write := range writers(t, early) {
				mustFail(t, when+", "+how, write(), unix.EBUSY)
			}
			if got := strings.TrimSpace(string(read(t, tracing))); got != "1" {
				t.Errorf("%s: the switch is %s", when, got)
			}
			mustFail(t, when+", run something untrusted", run(script), unix.EPERM)
		}
		holds("restricted")
		mustFail(t, "attach a program that has the last word", link.RawAttachProgram(attach), unix.EPERM)
		_, err = link.AttachRawLink(link.RawLinkOptions{Target: int(root.Fd()), Program: overrule, Attach: ebpf.AttachCGroupSysctl})
		mustFail(t, "link a program that has the last word", err, unix.EPERM)
		ours := link.RawDetachProgramOptions{Target: int(root.Fd()), Program: ourSysctls(t), Attach: ebpf.AttachCGroupSysctl}
		mustFail(t, "detach the agent's", link.RawDetachProgram(ours), unix.EPERM)
		for name, spec := range answering {
			spec.AttachTo = name
			_, err := ebpf.NewProgram(spec)
			mustFail(t, "load a program that answers for "+name, err, unix.EPERM)
		}

		a.tell(t, "off")
		if err := a.ready(); err != nil {
			t.Fatal(err)
		}
		allowed(t, "detach the agent's while not restricted", link.RawDetachProgram(ours))
		allowed(t, "attach one that has the last word while not restricted", link.RawAttachProgram(attach))
		allowed(t, "remove the pins while not restricted", os.RemoveAll(pinDir))
		a.tell(t, "on")
		if err := a.ready(); err != nil {
			t.Fatal(err)
		}
		holds("restricted again")
		a.tell(t, "die")
		_ = a.cmd.Wait() // killed
		holds("after the agent's end")
		attackPins(t, a.maps)

		found := watchMaps(t)
		again, err := startAgent(t, "/proc/self/exe", homeDir)
		if err != nil {
			t.Fatal(err)
		}
		if got := found(); len(got) > 0 {
			t.Errorf("maps of an agent that was starting were opened: %v", got)
		}
		again.tell(t, "off")
		if err := again.ready(); err != nil {
			t.Fatal(err)
		}
		again.tell(t, "end")
		if err := again.cmd.Wait(); err != nil {
			t.Error(err)
		}
		_, err = early.WriteAt([]byte("1"), 0)
		allowed(t, "write to the switch without an agent", err)

		if err := unix.Unmount(rootGroup, unix.MNT_DETACH); err != nil {
			t.Fatal(err)
		}
		f, err := mount.Cgroups()
		if err != nil {
			t.Fatalf("without a mount of cgroup2: %v", err)
		}
		allowed(t, "close", f.Close())
	})
}

// writers are ways to write 0 to f.
func writers(t *testing.T, f *os.File) map[string]func() error {
	t.Helper()
	in := func(attr *syscall.SysProcAttr, before string) func() error {
		return func() error {
			cmd := exec.Command("/bin/sh", "-c", before+"echo 0 >&3")
			cmd.SysProcAttr, cmd.ExtraFiles = attr, []*os.File{f}
			out, err := cmd.CombinedOutput()
			if strings.Contains(string(out), unix.EBUSY.Error()) || strings.Contains(string(out), "Device or resource busy") {
				return unix.EBUSY
			}
			return fmt.Errorf("%w: %s", err, out)
		}
	}
	zero := open(t, put(t, filepath.Join(t.TempDir(), "zero"), []byte("0\n")), os.O_RDONLY)
	lower := open(t, lowerDir, os.O_RDONLY)
	return map[string]func() error{
		"write": func() error {
			_, err := f.WriteAt([]byte("0"), 0)
			return err
		},
		"io_uring": func() error { return ring(t, 23 /* IORING_OP_WRITE */, f, 0, []byte("0")) },
		"sendfile": func() error {
			if _, err := f.Seek(0, 0); err != nil {
				t.Fatal(err)
			}
			_, err := unix.Sendfile(int(f.Fd()), int(zero.Fd()), new(int64), 2)
			return err
		},
		"splice": func() error {
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = errors.Join(r.Close(), w.Close()) }() // the test's own
			if _, err := w.WriteString("0\n"); err != nil {
				t.Fatal(err)
			}
			_, err = unix.Splice(int(r.Fd()), nil, int(f.Fd()), new(int64), 2, 0)
			return err
		},
		"in namespaces":                          in(&syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWCGROUP | unix.CLONE_NEWIPC}, ""),
		"in a cgroup whose own program says yes": in(&syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(lower.Fd())}, ""),
	}
}

// overruling is a program that allows every write to a sysctl, whatever was said before.
func overruling(t *testing.T) *ebpf.Program {
	t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.CGroupSysctl, AttachType: ebpf.AttachCGroupSysctl, License: "GPL", Instructions: asm.Instructions{
		asm.Mov.Imm(asm.R1, 0), asm.FnSetRetval.Call(), asm.Mov.Imm(asm.R0, 1), asm.Return(),
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() }) // the guest ends
	return p
}

// answering are programs that would answer before the agent's are asked, with what
// the kernel takes for a yes, by what they are attached to.
var answering = map[string]*ebpf.ProgramSpec{
	"bpf_map":          {Type: ebpf.LSM, AttachType: ebpf.AttachLSMMac, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()}},
	"security_bpf_map": {Type: ebpf.Tracing, AttachType: ebpf.AttachModifyReturn, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()}},
}

// ourSysctls is the program of an agent.
func ourSysctls(t *testing.T) *ebpf.Program {
	t.Helper()
	var id ebpf.ProgramID
	for {
		next, err := ebpf.ProgramGetNextID(id)
		if err != nil {
			t.Fatalf("find the program %s: %v", sysctls, err)
		}
		id = next
		p, err := ebpf.NewProgramFromID(id)
		if err != nil {
			continue // it is gone
		}
		if info, err := p.Info(); err == nil && info.Name == sysctls {
			t.Cleanup(func() { _ = p.Close() }) // the guest ends
			return p
		}
		_ = p.Close() // only looked at
	}
}

// agentMap matches the names of maps of agents.
var agentMap = regexp.MustCompile("^[A-Z2-7]{6}_")

// watchMaps opens each map that comes, until the result is called, which returns
// those of agents that could be opened.
func watchMaps(t *testing.T) func() []string {
	t.Helper()
	var last ebpf.MapID
	for {
		next, err := ebpf.MapGetNextID(last)
		if err != nil {
			break
		}
		last = next
	}
	stop, opened := make(chan struct{}), make(chan []string)
	go func() {
		// On a thread that yields, as the guest has one slow processor. It is never unlocked, and so ends.
		runtime.LockOSThread()
		if err := unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), 10); err != nil {
			t.Error(err)
		}
		var all []string
		tries := 0
		for {
			select {
			case <-stop:
				t.Logf("%d maps were tried", tries)
				opened <- all
				return
			default:
			}
			next, err := ebpf.MapGetNextID(last)
			if err != nil {
				continue
			}
			last = next
			tries++
			m, err := ebpf.NewMapFromID(next)
			if err != nil {
				continue
			}
			if info, err := m.Info(); err != nil || agentMap.MatchString(info.Name) {
				all = append(all, fmt.Sprint(m, next, err))
			}
			_ = m.Close() // only tried
		}
	}()
	return func() []string {
		close(stop)
		return <-opened
	}
}
