package bpflsm

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/enforce"
	"github.com/cordon-project/cordon/internal/enforce/bpflsm/trusted"

	"github.com/cordon-project/cordon/internal/testkit/vm"
)

const (
	agentVar = "CORDON_BPF_AGENT" // home, set: what of the file "set" is trusted
	denyVar  = "CORDON_BPF_DENY"  // has an agent refuse code without a file
	jitVar   = "CORDON_BPF_JIT"   // has it make code without a file: how
	homeDir  = "/run/agent"
	trustDir = "/run/trusted"
	pinDir   = "/sys/fs/bpf/cordon"

	cgroupDir = "/sys/fs/cgroup/agent"
)

// A test program started with agentVar is an agent for tests: it restricts the
// machine and obeys standard input.
func TestMain(m *testing.M) {
	if at := os.Getenv(fuseVar); at != "" {
		fmt.Println(fuseMain(at)) // ends only so
		os.Exit(1)
	}
	if how := os.Getenv(jitVar); how != "" {
		if err := jitMain(how); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if path := os.Getenv(mapVar); path != "" {
		if err := mapMain(path); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if disk := os.Getenv(commandVar); disk != "" {
		if err := block(disk, false, 0, make([]byte, 512)); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if home := os.Getenv(agentVar); home != "" {
		if err := agentMain(home); err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if len(os.Args) == 2 && os.Args[1] == enforce.GuardianArg {
		if err := enforce.GuardianMain(); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func agentMain(home string) error {
	var entries []cordon.TrustEntry
	files, err := os.ReadDir(trustDir)
	if err != nil {
		return err
	}
	for _, f := range files {
		b, err := os.ReadFile(filepath.Join(trustDir, f.Name()))
		if err != nil {
			return err
		}
		e := entry(b)
		if strings.HasPrefix(f.Name(), "agent") {
			e.Origin = trusted.Self
		}
		entries = append(entries, e)
	}
	left, err := LeftInForce(pinDir)
	if err != nil {
		return err
	}
	fmt.Println("left", left)
	e, err := Open(Config{Log: slog.Default(), Pins: pinDir, Home: home, DenyAnonymous: os.Getenv(denyVar) != ""})
	if err != nil {
		return err
	}
	fmt.Println("found", e.Mode())
	set := cordon.NewTrustSet(entries, nil)
	if err := e.Apply(cordon.ModeEnforce, set); err != nil {
		return err
	}
	for _, m := range e.maps {
		info, err := m.Info()
		if err != nil {
			return err
		}
		id, _ := info.ID()
		fmt.Println("map", id)
	}
	var first uint32
	if err := e.maps["sets"].Lookup(uint32(1), &first); err != nil { // the first set goes into the second slot
		return err
	}
	fmt.Println("map", first)
	fmt.Println("ready")
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		switch what, path, _ := strings.Cut(in.Text(), " "); what {
		case "run":
			if err := exec.Command(path).Run(); err == nil {
				return errors.New("it ran")
			}
			fmt.Println("ready")
		case "die":
			return unix.Kill(os.Getpid(), unix.SIGKILL)
		case "end":
			return e.Close()
		case "off", "on":
			mode := cordon.ModeOff
			if what == "on" {
				mode = cordon.ModeEnforce
			}
			if err := e.Apply(mode, set); err != nil {
				return err
			}
			fmt.Println("ready")
		}
	}
	return nil
}

type testAgent struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Scanner
	mode string
	left bool // what was there before it had its own
	maps []ebpf.MapID
}

func startAgent(t *testing.T, program, home string, env ...string) (*testAgent, error) {
	t.Helper()
	a := &testAgent{cmd: exec.Command(program)}
	a.cmd.Env = append(append(os.Environ(), agentVar+"="+home), env...)
	a.cmd.Stderr = os.Stderr
	cgroup := open(t, cgroupDir, os.O_RDONLY)
	a.cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(cgroup.Fd())}
	out, err := a.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if a.in, err = a.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := a.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	a.out = bufio.NewScanner(out)
	return a, a.ready()
}

// ready reads until the agent is.
func (a *testAgent) ready() error {
	for a.out.Scan() {
		what, rest, _ := strings.Cut(a.out.Text(), " ")
		switch what {
		case "ready":
			return nil
		case "error":
			return errors.Join(errors.New(rest), a.cmd.Wait())
		case "found":
			a.mode = rest
		case "left":
			a.left = rest == "true"
		case "map":
			id, err := strconv.Atoi(rest)
			if err != nil {
				return err
			}
			a.maps = append(a.maps, ebpf.MapID(id))
		}
	}
	return fmt.Errorf("the agent ended: %w", a.cmd.Wait())
}

func (a *testAgent) tell(t *testing.T, what string) {
	t.Helper()
	if _, err := io.WriteString(a.in, what+"\n"); err != nil {
		t.Fatal(err)
	}
}

func put(t *testing.T, path string, b []byte) string {
	t.Helper()
	if err := os.WriteFile(path, b, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// furnishAgents makes what agents of tests need, and returns a script that they do not trust.
func furnishAgents(t *testing.T, dir string) string {
	t.Helper()
	for _, d := range []string{homeDir, trustDir, "/run/other", cgroupDir} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	put(t, trustDir+"/busybox", read(t, "/bin/busybox"))
	put(t, trustDir+"/agent1", read(t, "/proc/self/exe"))
	put(t, homeDir+"/state", []byte("restricted"))
	return put(t, filepath.Join(dir, "evil.sh"), []byte("#!/bin/sh\nexit 0\n"))
}

// TestStaysInForce has root try to get rid of a restriction while agents come
// and go.
func TestStaysInForce(t *testing.T) {
	eachKernel(t, vm.Config{}, func(t *testing.T) {
		dir := t.TempDir()
		script := furnishAgents(t, dir)
		agent2 := put(t, trustDir+"/agent2", append(read(t, "/proc/self/exe"), "an upgrade"...))
		evil := put(t, filepath.Join(dir, "evil"), append(read(t, "/bin/busybox"), "evil"...))
		a, err := startAgent(t, "/proc/self/exe", homeDir)
		if err != nil {
			t.Fatal(err)
		}
		if a.left {
			t.Error("the first agent found a restriction")
		}
		var tries, ran atomic.Int64
		var looping sync.WaitGroup
		stop := make(chan struct{})
		looping.Go(func() {
			// On a thread that yields, as the guest has one slow processor. It is never unlocked, and so ends.
			runtime.LockOSThread()
			if err := unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), 10); err != nil {
				t.Error(err)
			}
			for {
				select {
				case <-stop:
					return
				default:
				}
				for _, p := range []string{script, evil} {
					if err := exec.Command(p, "true").Run(); !errors.Is(err, unix.EPERM) {
						ran.Add(1)
					}
					tries.Add(1)
				}
			}
		})
		attack(t, a, a.maps)
		freeze(t, a, script)
		before := tries.Load()

		a.tell(t, "die")
		_ = a.cmd.Wait() // killed
		for tries.Load() < before+6 {
			_ = exec.Command("/bin/true").Run()
		}
		attackPins(t, a.maps)

		if _, err := startAgent(t, "/proc/self/exe", "/run/other"); err == nil || !strings.Contains(err.Error(), "another data directory") {
			t.Errorf("an agent with another data directory: %v", err)
		}
		again, err := startAgent(t, "/proc/self/exe", homeDir)
		if err != nil {
			t.Fatal(err)
		}
		if again.mode != string(cordon.ModeEnforce) || !again.left {
			t.Errorf("the next agent found mode %s, a restriction %v", again.mode, again.left)
		}
		if dirs, err := os.ReadDir(pinDir); err != nil || len(dirs) != 1 {
			t.Errorf("after the handover there are %d sets of pins, %v", len(dirs), err)
		}
		if n := loaded(t, "map"); n != 2 {
			t.Errorf("after the handover the program map is loaded %d times: who is in it must be able to leave", n)
		}
		for set := a.maps[len(a.maps)-1]; ; runtime.Gosched() { // it goes some time after the last who could look into it has left
			if next, err := ebpf.MapGetNextID(set - 1); next != set {
				t.Logf("the first agent's trust set is gone: %d, %v", next, err)
				break
			}
		}
		attack(t, again, again.maps)
		again.tell(t, "end")
		if err := again.cmd.Wait(); err != nil {
			t.Error(err)
		}
		attackPins(t, again.maps)

		upgraded, err := startAgent(t, agent2, homeDir)
		if err != nil {
			t.Fatal(err)
		}
		attack(t, upgraded, upgraded.maps)
		close(stop)
		looping.Wait()
		t.Logf("%d attempts, %d ran", tries.Load(), ran.Load())
		if ran.Load() != 0 {
			t.Errorf("%d of %d attempts to run something untrusted were not refused", ran.Load(), tries.Load())
		}

		upgraded.tell(t, "off")
		if err := upgraded.ready(); err != nil {
			t.Fatal(err)
		}
		if err := exec.Command(script).Run(); err != nil {
			t.Errorf("after the release: %v", err)
		}
		upgraded.tell(t, "end")
		if err := upgraded.cmd.Wait(); err != nil {
			t.Error(err)
		}
		if dirs, err := os.ReadDir(pinDir); err != nil || len(dirs) != 0 {
			t.Errorf("after the release there are %d sets of pins, %v", len(dirs), err)
		}
		if left, err := LeftInForce(pinDir); left || err != nil {
			t.Errorf("after the release the machine is restricted: %v, %v", left, err)
		}
		if err := unix.Unmount("/sys/fs/bpf", 0); err != nil {
			t.Errorf("after the release, umount: %v", err)
		}
	})
}

// freeze is root moving the agent elsewhere, as no hook says who is moved, and
// freezing it there. Nothing is let go.
func freeze(t *testing.T, a *testAgent, script string) {
	t.Helper()
	const elsewhere = "/sys/fs/cgroup/elsewhere"
	move := func(to string) error {
		return os.WriteFile(filepath.Join(to, "cgroup.procs"), []byte(strconv.Itoa(a.cmd.Process.Pid)), 0)
	}
	frozen := func(how string) error {
		return os.WriteFile(filepath.Join(elsewhere, "cgroup.freeze"), []byte(how), 0)
	}
	if err := errors.Join(os.Mkdir(elsewhere, 0o700), move(elsewhere), frozen("1")); err != nil {
		t.Fatal(err)
	}
	for !strings.Contains(string(read(t, elsewhere+"/cgroup.events")), "frozen 1") {
		runtime.Gosched()
	}
	mustFail(t, "run something untrusted beside a frozen agent", exec.Command(script).Run(), unix.EPERM)
	attackPins(t, a.maps)
	if err := errors.Join(frozen("0"), move(cgroupDir), os.Remove(elsewhere)); err != nil {
		t.Fatal(err)
	}
}

// loaded counts the programs with a name.
func loaded(t *testing.T, name string) (n int) {
	t.Helper()
	var id ebpf.ProgramID
	for {
		next, err := ebpf.ProgramGetNextID(id)
		if errors.Is(err, os.ErrNotExist) {
			return n
		}
		if err != nil {
			t.Fatal(err)
		}
		id = next
		p, err := ebpf.NewProgramFromID(id)
		if err != nil {
			continue // it is gone
		}
		if info, err := p.Info(); err == nil && info.Name == name {
			n++
		}
		_ = p.Close() // only looked at
	}
}

func mustFail(t *testing.T, what string, err error, want ...error) {
	t.Helper()
	for _, w := range want {
		if errors.Is(err, w) {
			return
		}
	}
	t.Errorf("%s: got %v, want %v", what, err, want)
}

// attack is root against a living agent.
func attack(t *testing.T, a *testAgent, maps []ebpf.MapID) {
	t.Helper()
	pid := a.cmd.Process.Pid
	for _, sig := range []syscall.Signal{unix.SIGKILL, unix.SIGSTOP, unix.SIGTERM, unix.SIGABRT} {
		mustFail(t, "signal "+sig.String(), unix.Kill(pid, sig), unix.EPERM)
	}
	mustFail(t, "attach", unix.PtraceAttach(pid), unix.EPERM)
	mustFail(t, "seize", unix.PtraceSeize(pid), unix.EPERM)
	_, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	mustFail(t, "open memory", err, unix.EPERM, unix.EACCES)
	local, remote := []unix.Iovec{{Base: new(byte), Len: 1}}, []unix.RemoteIovec{{Base: 0x400000, Len: 1}}
	_, err = unix.ProcessVMWritev(pid, local, remote, 0)
	mustFail(t, "write memory", err, unix.EPERM)
	mustFail(t, "limit", unix.Prlimit(pid, unix.RLIMIT_CPU, &unix.Rlimit{Cur: 1, Max: 1}, nil), unix.EPERM)
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	_, err = unix.PidfdGetfd(fd, 5, 0)
	mustFail(t, "take a descriptor", err, unix.EPERM)
	mustFail(t, "signal by descriptor", unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0), unix.EPERM)
	for _, file := range []string{"cgroup.freeze", "cgroup.kill"} {
		mustFail(t, file, os.WriteFile(filepath.Join(cgroupDir, file), []byte("1"), 0), unix.EPERM)
	}
	if t.Failed() {
		t.FailNow() // it may be stopped, and who waits for its answer would wait for good
	}
	attackPins(t, maps)
}

// attackPins is root against what keeps a restriction, be there an agent or not.
func attackPins(t *testing.T, maps []ebpf.MapID) {
	t.Helper()
	for _, id := range maps {
		_, err := ebpf.NewMapFromID(id)
		mustFail(t, fmt.Sprintf("open map %d by id", id), err, unix.EPERM)
	}
	dirs, err := os.ReadDir(pinDir)
	if err != nil || len(dirs) == 0 {
		t.Fatalf("no pins: %v", err)
	}
	_, err = LeftInForce(pinDir)
	mustFail(t, "ask what is in force", err, unix.EPERM)
	dir := filepath.Join(pinDir, dirs[0].Name())
	_, err = ebpf.LoadPinnedMap(dir+"/settings", nil)
	mustFail(t, "open map by pin", err, unix.EPERM)
	_, err = ebpf.LoadPinnedMap(dir+"/settings", &ebpf.LoadPinOptions{ReadOnly: true})
	mustFail(t, "open map by pin to read", err, unix.EPERM)
	mustFail(t, "unpin a map", os.Remove(dir+"/settings"), unix.EPERM)
	mustFail(t, "unpin a link", os.Remove(dir+"/exec"), unix.EPERM)
	mustFail(t, "move a pin", os.Rename(dir+"/exec", "/sys/fs/bpf/x"), unix.EPERM)
	mustFail(t, "move a pin over another", os.Rename(dir+"/map", dir+"/exec"), unix.EPERM)
	mustFail(t, "move the pins", os.Rename(pinDir, "/sys/fs/bpf/y"), unix.EPERM)
	mustFail(t, "unmount", unix.Unmount("/sys/fs/bpf", 0), unix.EPERM)
	mustFail(t, "unmount lazily", unix.Unmount("/sys/fs/bpf", unix.MNT_DETACH), unix.EPERM)
	if l, err := link.LoadPinnedLink(dir+"/exec", nil); err == nil {
		if l.Detach() == nil {
			t.Error("a link was detached")
		}
		if l.Update(nil) == nil {
			t.Error("a link was updated")
		}
		_ = l.Close()
	}
	attr := [16]uint64{28} // BPF_PROG_TYPE_EXT
	_, _, errno := unix.Syscall(unix.SYS_BPF, 5, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	mustFail(t, "load a program that replaces another's code", errno, unix.EPERM)
	one := asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()}
	for _, function := range []string{"security_bpf", "security_bpf_map", "security_locked_down", "security_bprm_committed_creds"} {
		_, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.Tracing, AttachType: ebpf.AttachModifyReturn, AttachTo: function, License: "GPL", Instructions: one})
		mustFail(t, "load a program that answers for "+function, err, unix.EPERM)
	}
	_, err = ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.LSM, AttachType: ebpf.AttachLSMMac, AttachTo: "bpf_map", License: "GPL", Instructions: one})
	mustFail(t, "load a program that is asked before ours", err, unix.EPERM)
	mustFail(t, "write an image of the memory back", os.WriteFile("/dev/snapshot", nil, 0), unix.EPERM)
	mustFail(t, "switch function tracing off", os.WriteFile("/proc/sys/kernel/ftrace_enabled", []byte("0"), 0), unix.EBUSY)
	mustFail(t, "change what the kernel measures", os.WriteFile("/sys/kernel/security/ima/policy", []byte("measure func=FILE_CHECK fowner=4242\n"), 0), unix.EPERM)
	mustFail(t, "write to the agent's state", os.WriteFile(homeDir+"/state", []byte("free"), 0), unix.EPERM)
	mustFail(t, "truncate the agent's state", os.Truncate(homeDir+"/state", 0), unix.EPERM)
	mustFail(t, "remove the agent's state", os.Remove(homeDir+"/state"), unix.EPERM)
	mustFail(t, "replace the agent's state", os.Rename("/run/trusted/busybox", homeDir+"/state"), unix.EPERM)
	mustFail(t, "move the agent's directory", os.Rename(homeDir, "/run/elsewhere"), unix.EPERM)
}
