package bpflsm

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/enforce"
	"github.com/cordon-project/cordon/internal/testkit/vm"
)

// Ways to make code without a file: jitVar says which.
const (
	jitMapped = "mapped"
	jitHeap   = "heap" // it grows where reading implies executing
)

func jitMain(how string) error {
	if how == jitMapped {
		_, err := unix.Mmap(-1, 0, 4096, rx|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
		return err
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	const readImpliesExec = 0x0400000
	if _, _, errno := unix.RawSyscall(unix.SYS_PERSONALITY, readImpliesExec, 0, 0); errno != 0 {
		return errno
	}
	end, _, _ := unix.RawSyscall(unix.SYS_BRK, 0, 0, 0)
	got, _, _ := unix.RawSyscall(unix.SYS_BRK, end+4096, 0, 0)
	if _, _, errno := unix.RawSyscall(unix.SYS_PERSONALITY, 0, 0, 0); errno != 0 {
		return errno
	}
	if got != end+4096 {
		return unix.EPERM // brk(2) tells only that it did not
	}
	return nil
}

// jit has a program make code without a file.
func jit(program, how string) error {
	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), jitVar+"="+how, "GODEBUG=asyncpreemptoff=1") // Go itself would be refused memory meanwhile
	out, err := cmd.CombinedOutput()
	if strings.Contains(string(out), unix.EPERM.Error()) {
		return unix.EPERM
	}
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

func testAnonymous(t *testing.T, allows *guest) {
	for _, how := range []string{jitMapped, jitHeap} {
		allowed(t, "code without a file by default, "+how, jit("/proc/self/exe", how))
	}
	if n := loaded(t, "placed"); n != 0 {
		t.Errorf("the program placed is loaded %d times", n)
	}
	allows.apply(t, cordon.ModeOff)
	t.Cleanup(func() { allows.apply(t, cordon.ModeEnforce) })
	g := openGuestWith(t, Config{DenyAnonymousOf: []string{"rule", "policy"}})
	self := read(t, "/proc/self/exe")
	byRule := append(append([]byte{}, self...), "by a rule"...)
	e := entry(byRule)
	e.Origin = "rule:x:1"
	if err := g.Apply(cordon.ModeEnforce, g.set.With(e)); err != nil {
		t.Fatal(err)
	}
	path := g.write(t, "by-rule", byRule)
	for _, how := range []string{jitMapped, jitHeap} {
		g.refused(t, "by a program that a rule trusts, "+how, func() error { return jit(path, how) })
	}
	path = g.write(t, "by-package", self)
	for _, how := range []string{jitMapped, jitHeap} {
		allowed(t, "by one of another class, "+how, jit(path, how))
	}

	// To all: it takes the same programs.
	g.cfg.DenyAnonymous, g.cfg.DenyAnonymousOf = true, nil
	g.apply(t, cordon.ModeEnforce)
	for _, how := range []string{jitMapped, jitHeap} {
		g.refused(t, how, func() error { return jit("/proc/self/exe", how) })
	}
	g.refused(t, "made code later", func() error {
		m, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Munmap(m) }()
		return unix.Mprotect(m, rx)
	})
	g.refused(t, "a trusted file, to be written over in memory", func() error {
		_, err := mapFile(t, open(t, filepath.Join(g.dir, "program"), os.O_RDONLY), rx|unix.PROT_WRITE, unix.MAP_PRIVATE)
		return err
	})
	g.refused(t, "a program that handles its own faults", func() error {
		fd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC, 0, 0)
		if errno != 0 {
			return errno
		}
		return unix.Close(int(fd))
	})
	allowed(t, "programs", run(g.write(t, "plain", g.program)))
}

// What is loaded, and when: it is a choice for the whole machine.
func TestDeniesAnonymous(t *testing.T) {
	mount := enforce.Scope{Mount: "/srv"}
	for _, c := range []struct {
		cfg  Config
		want bool
	}{
		{Config{}, false},
		{Config{TrustedScripts: true}, false},
		{Config{DenyAnonymous: true}, true},
		{Config{DenyAnonymousOf: []string{"rule"}}, true},
		{Config{DenyAnonymous: true, Scope: mount}, false},
		{Config{DenyAnonymousOf: []string{"rule"}, Scope: mount}, false},
	} {
		if got := c.cfg.deniesAnonymous(); got != c.want {
			t.Errorf("%+v: %v", c.cfg, got)
		}
	}
	s, err := ebpf.LoadCollectionSpec("cordon.bpf.o")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range anonymous {
		if s.Programs[name] == nil {
			t.Errorf("there is no program %s", name)
		}
	}
}

// TestAnonymousChosenAnew: what judges code without a file costs every mapping, so
// it is there only for an agent that refuses that to somebody; and all of it before such an
// agent has taken over, be it from one that does not.
func TestAnonymousChosenAnew(t *testing.T) {
	eachKernel(t, vm.Config{}, func(t *testing.T) {
		furnishAgents(t, t.TempDir())
		start := func(deny bool, found string) *testAgent {
			t.Helper()
			var env []string
			if deny {
				env = append(env, denyVar+"=1")
			}
			a, err := startAgent(t, "/proc/self/exe", homeDir, env...)
			if err != nil {
				t.Fatal(err)
			}
			if a.mode != found {
				t.Errorf("it found mode %s, not %s", a.mode, found)
			}
			dirs, err := os.ReadDir(pinDir)
			if err != nil || len(dirs) != 1 {
				t.Fatalf("there are %d sets of pins, %v", len(dirs), err)
			}
			var pinned []string
			pins, err := os.ReadDir(filepath.Join(pinDir, dirs[0].Name()))
			for _, p := range pins {
				pinned = append(pinned, p.Name())
			}
			for _, name := range append([]string{"exec", "map", "protect"}, anonymous...) {
				if want := deny || !slices.Contains(anonymous, name); err != nil || slices.Contains(pinned, name) != want {
					t.Errorf("pins, where code without a file is denied: %v: %v, %v", deny, pinned, err)
				}
			}
			for _, how := range []string{jitMapped, jitHeap} {
				if err := jit("/proc/self/exe", how); deny {
					mustFail(t, how, err, unix.EPERM)
				} else {
					allowed(t, how, err)
				}
			}
			return a
		}
		die := func(a *testAgent) {
			t.Helper()
			a.tell(t, "die")
			_ = a.cmd.Wait() // killed
		}
		die(start(false, "off"))
		a := start(true, "enforce")

		var tries, ran atomic.Int64
		var looping sync.WaitGroup
		stop := make(chan struct{})
		end := sync.OnceFunc(func() {
			close(stop)
			looping.Wait()
		})
		t.Cleanup(end)
		looping.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				for _, how := range []string{jitMapped, jitHeap} {
					if err := jit("/proc/self/exe", how); !errors.Is(err, unix.EPERM) {
						ran.Add(1)
					}
					tries.Add(1)
				}
			}
		})
		die(a)
		a = start(true, "enforce")
		for n := tries.Load(); tries.Load() < n+4; {
			runtime.Gosched()
		}
		end()
		t.Logf("%d attempts, %d ran", tries.Load(), ran.Load())
		if ran.Load() != 0 {
			t.Errorf("%d of %d attempts to make code without a file were not refused", ran.Load(), tries.Load())
		}
		release(t, a)
		a.tell(t, "end")
		allowed(t, "its end", a.cmd.Wait())
	})
}
