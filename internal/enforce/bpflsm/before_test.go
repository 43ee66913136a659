package bpflsm

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon/internal/testkit/vm"
)

// What comes first knows which process is starting, and has no map that others could change.
func TestFirst(t *testing.T) {
	s, err := ebpf.LoadCollectionSpec("cordon.bpf.o")
	if err != nil {
		t.Fatal(err)
	}
	fillIn(s, "ABCDEF_")
	if name := s.Maps["settings"].Name; name != "ABCDEF_settings" {
		t.Errorf("the map of settings is called %s", name)
	}
	knows := func(p *ebpf.ProgramSpec) (known []int64) {
		for _, i := range p.Instructions {
			if i.IsConstantLoad(asm.DWord) && (i.Constant == int64(os.Getpid()) || i.Constant == 0x5f464544434241) {
				known = append(known, i.Constant)
			}
			if strings.HasPrefix(p.Name, "first") && i.IsLoadFromMap() {
				t.Errorf("%s uses the map %s", p.Name, i.Reference())
			}
		}
		slices.Sort(known)
		return known
	}
	process, names := int64(os.Getpid()), int64(0x5f464544434241)
	first := takeFirst(s)
	for _, c := range []struct {
		p    *ebpf.ProgramSpec
		want []int64
	}{{first[0], []int64{process, names}}, {first[1], []int64{process}}, {s.Programs["mapped"], []int64{names}}} {
		if got := knows(c.p); !slices.Equal(got, c.want) {
			t.Errorf("%s knows %#x, not %#x", c.p.Name, got, c.want)
		}
	}
	if s.Programs["first_mapped"] != nil || s.Programs["first_traced"] != nil {
		t.Error("what comes first is loaded again")
	}
}

// TestBeforeRestriction has root reach for the agent's maps while nothing is
// restricted: who has one could end a restriction afterwards.
func TestBeforeRestriction(t *testing.T) {
	eachKernel(t, vm.Config{Modules: []string{"fuse"}}, func(t *testing.T) {
		script := furnishAgents(t, t.TempDir())
		unknown := put(t, t.TempDir()+"/agent", append(read(t, "/proc/self/exe"), "another"...))
		found := watchMaps(t)
		a, err := startAgent(t, "/proc/self/exe", homeDir)
		if err != nil {
			t.Fatal(err)
		}
		if got := found(); len(got) > 0 {
			t.Errorf("maps of an agent that was starting were opened: %v", got)
		}
		release(t, a)
		reach(t, a)
		reachChild(t, a)

		// One that was killed leaves its pins, and does not know the next one, which starts all the same.
		a.tell(t, "die")
		_ = a.cmd.Wait() // killed
		next, err := startAgent(t, unknown, homeDir)
		if err != nil {
			t.Fatalf("an agent that the one before does not know: %v", err)
		}
		if next.left || next.mode != "off" {
			t.Errorf("it found mode %s, a restriction %v", next.mode, next.left)
		}
		if dirs, err := os.ReadDir(pinDir); err != nil || len(dirs) != 1 {
			t.Errorf("there are %d sets of pins, %v", len(dirs), err)
		}
		mustFail(t, "run something untrusted", run(script), unix.EPERM)
		attackPins(t, next.maps)
		release(t, next)
		reach(t, next)

		startTraced(t, unknown)

		next.tell(t, "die")
		_ = next.cmd.Wait() // killed
		allowed(t, "remove what is left of an agent", os.RemoveAll(pinDir))
	})
}

// TestReplacedWhileItRuns: the one before ends as if nothing was.
func TestReplacedWhileItRuns(t *testing.T) {
	eachKernel(t, vm.Config{}, func(t *testing.T) {
		script := furnishAgents(t, t.TempDir())
		var agents [2]*testAgent
		for i := range agents {
			var err error
			if agents[i], err = startAgent(t, "/proc/self/exe", homeDir); err != nil {
				t.Fatal(err)
			}
		}
		if agents[1].mode != "enforce" {
			t.Errorf("the second found mode %s", agents[1].mode)
		}
		agents[0].tell(t, "end")
		allowed(t, "the end of the one that was replaced", agents[0].cmd.Wait())
		mustFail(t, "run something untrusted", run(script), unix.EPERM)
		attack(t, agents[1], agents[1].maps)
		release(t, agents[1])
		agents[1].tell(t, "end")
		allowed(t, "the end of the other one", agents[1].cmd.Wait())
		allowed(t, "run something untrusted", run(script))
	})
}

func release(t *testing.T, a *testAgent) {
	t.Helper()
	a.tell(t, "off")
	if err := a.ready(); err != nil {
		t.Fatal(err)
	}
}

// reach is root against an agent that restricts nothing.
func reach(t *testing.T, a *testAgent) {
	t.Helper()
	for _, id := range a.maps {
		_, err := ebpf.NewMapFromID(id)
		mustFail(t, fmt.Sprintf("open map %d by id", id), err, unix.ENOENT)
	}
	dirs, err := os.ReadDir(pinDir)
	if err != nil || len(dirs) != 1 {
		t.Fatalf("pins: %d, %v", len(dirs), err)
	}
	for name := range pinnedMaps {
		for _, readOnly := range []bool{false, true} {
			_, err := ebpf.LoadPinnedMap(filepath.Join(pinDir, dirs[0].Name(), pinnedMaps[name]), &ebpf.LoadPinOptions{ReadOnly: readOnly})
			mustFail(t, "open "+name+" by its pin", err, unix.ENOENT)
		}
	}
	if left, err := LeftInForce(pinDir); left || err != nil {
		t.Errorf("the machine is restricted: %v, %v", left, err)
	}
	// Who lists all maps does not stumble over the agent's.
	other, err := ebpf.NewMap(&ebpf.MapSpec{Name: "other", Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close() }() // the test's own
	var listed []string
	for id, err := ebpf.MapGetNextID(0); err == nil; id, err = ebpf.MapGetNextID(id) {
		m, err := ebpf.NewMapFromID(id)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			t.Fatalf("list map %d: %v", id, err)
		}
		info, err := m.Info()
		allowed(t, "look at a map", errors.Join(err, m.Close()))
		listed = append(listed, info.Name)
	}
	if !slices.Contains(listed, "other") {
		t.Errorf("maps: %v", listed)
	}
	pid := a.cmd.Process.Pid
	mustFail(t, "take a descriptor", stealFrom(t, pid), unix.EPERM)
	mustFail(t, "attach", unix.PtraceAttach(pid), unix.EPERM)
	mustFail(t, "seize", unix.PtraceSeize(pid), unix.EPERM)
	_, err = os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	mustFail(t, "open memory", err, unix.EPERM, unix.EACCES)
	_, err = os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	allowed(t, "look at its descriptors", err)
	allowed(t, "signal", unix.Kill(pid, unix.SIGCONT))
}

// stealFrom takes a descriptor from a process.
func stealFrom(t *testing.T, pid int) error {
	t.Helper()
	process, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.PidfdGetfd(process, 0, 0)
	if err == nil {
		err = unix.Close(fd)
	}
	return errors.Join(err, unix.Close(process))
}

// reachChild is root against a process that the agent has forked, and that has not executed anything yet.
func reachChild(t *testing.T, a *testAgent) {
	t.Helper()
	at := t.TempDir()
	silent, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0) // nobody answers: who opens a file there waits
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = silent.Close() // already, if nothing failed; else who removes the directory would wait, too
		allowed(t, "let go of it", unix.Unmount(at, unix.MNT_DETACH))
	})
	if err := unix.Mount("test", at, "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", silent.Fd())); err != nil {
		t.Fatal(err)
	}
	a.tell(t, "run "+at+"/program")
	child := 0
	for child == 0 {
		runtime.Gosched()
		child = waitingChild(t, a.cmd.Process.Pid)
	}
	mustFail(t, "take a descriptor of what it has forked", stealFrom(t, child), unix.EPERM)
	allowed(t, "end its waiting", silent.Close())
	if err := a.ready(); err != nil {
		t.Fatal(err)
	}
}

// waitingChild returns a process that another one has forked and that waits for
// something, 0 if there is none. Go's own runtime forks, too, to see what the kernel
// can do; that process ends at once.
func waitingChild(t *testing.T, parent int) int {
	t.Helper()
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", parent))
	if err != nil {
		t.Fatal(err)
	}
	for _, list := range lists {
		text, _ := os.ReadFile(list) // the thread may have ended
		for _, child := range strings.Fields(string(text)) {
			stat, _ := os.ReadFile("/proc/" + child + "/stat") // or the child
			_, state, _ := strings.Cut(string(stat), ") ")
			if strings.HasPrefix(state, "S") || strings.HasPrefix(state, "D") {
				pid, err := strconv.Atoi(child)
				if err != nil {
					t.Fatal(err)
				}
				return pid
			}
		}
	}
	return 0
}

// startTraced starts an agent under a debugger, which would be the agent then.
func startTraced(t *testing.T, program string) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), agentVar+"="+homeDir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout = w
	if err := errors.Join(cmd.Start(), w.Close()); err != nil {
		t.Fatal(err)
	}
	said := make(chan string)
	go func() {
		var all []string
		for out := bufio.NewScanner(r); out.Scan(); {
			all = append(all, out.Text())
		}
		said <- strings.Join(all, "\n")
	}()
	for {
		var st unix.WaitStatus
		if _, err := unix.Wait4(cmd.Process.Pid, &st, unix.WALL, nil); err != nil {
			t.Fatal(err)
		}
		if !st.Stopped() {
			break
		}
		signal := int(st.StopSignal())
		if signal == int(unix.SIGTRAP) {
			signal = 0
		}
		if err := unix.PtraceCont(cmd.Process.Pid, signal); err != nil {
			t.Fatal(err)
		}
	}
	if all := <-said; !strings.Contains(all, fmt.Sprintf("process %d traces it", unix.Gettid())) {
		t.Errorf("an agent with a debugger said %q", all)
	}
}
