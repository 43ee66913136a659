package fanotify

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/enforce"
	"github.com/cordon-project/cordon/internal/fileid"
)

// The tests that enforce run in a process of their own, in a mount namespace of
// their own, on a tmpfs of their own, with a time limit: a mistake in here must
// not freeze the machine that runs it.
const roleVar = "CORDON_TEST_ROLE"

func TestMain(m *testing.M) {
	switch role := os.Getenv(roleVar); {
	case role == "guardian":
		if err := enforce.GuardianMain(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(0)
	case strings.HasPrefix(role, "agent:"):
		os.Exit(agentRole(strings.TrimPrefix(role, "agent:")))
	}
	os.Exit(m.Run())
}

// confined runs body in a child process with a private mount namespace.
func confined(t *testing.T, body func(t *testing.T, scope string)) {
	t.Helper()
	if os.Getenv(roleVar) == "inside" {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Fatal(err)
		}
		scope := t.TempDir()
		if err := unix.Mount("cordon-test", scope, "tmpfs", 0, "mode=0755"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(scope, unix.MNT_DETACH) }) // with the namespace at the latest
		body(t, scope)
		return
	}
	if why := unable(); why != "" {
		t.Skip(why)
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=100s")
	cmd.Env = append(os.Environ(), roleVar+"=inside")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := time.AfterFunc(120*time.Second, func() { _ = cmd.Process.Kill() }) // it may have ended
	defer kill.Stop()
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
}

// unable proves that the machine cannot run these tests.
func unable() string {
	fd, err := unix.FanotifyInit(initFlags, eventFlags)
	switch {
	case err == nil:
		_ = unix.Close(fd) // it watches nothing
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EINVAL): // not root, not built in
		return "fanotify cannot be used: " + err.Error()
	}
	return "" // then the test says what is wrong
}

type rig struct {
	*testing.T
	scope    string
	guardian *enforce.Guardian
	*Enforcer
}

func newRig(t *testing.T, scope string) *rig {
	t.Helper()
	t.Setenv(roleVar, "guardian")
	g, err := enforce.StartGuardian("/proc/self/exe")
	t.Setenv(roleVar, "inside")
	if err != nil {
		t.Fatal(err)
	}
	e, err := Open(enforce.Scope{Mount: scope}, slog.Default())
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = enforce.Watch(g, e.Beat) }() // ends with the guardian
	t.Cleanup(func() {
		if err := errors.Join(e.Close(), g.Close()); err != nil {
			t.Error(err)
		}
	})
	return &rig{t, scope, g, e}
}

// program puts a new canary into the scope.
func (r *rig) program(name string) (path string, c *enforce.Canary) {
	r.Helper()
	c, err := enforce.NewCanary()
	if err != nil {
		r.Fatal(err)
	}
	path = filepath.Join(r.scope, name)
	if err := c.WriteFile(path); err != nil {
		r.Fatal(err)
	}
	return path, c
}

func (r *rig) apply(mode cordon.Mode, trusted ...*enforce.Canary) {
	r.Helper()
	var entries []cordon.TrustEntry
	for _, c := range trusted {
		entries = append(entries, c.Entry())
	}
	if err := r.Apply(mode, cordon.NewTrustSet(entries, nil)); err != nil {
		r.Fatal(err)
	}
}

func (r *rig) run(path string) error {
	r.Helper()
	verdict, err := r.guardian.Run(path)
	if err != nil {
		r.Fatalf("run %s: %v", path, err)
	}
	return verdict
}

func (r *rig) runs(path string) {
	r.Helper()
	if err := r.run(path); err != nil {
		r.Fatalf("%s should run: %v", filepath.Base(path), err)
	}
}

func (r *rig) refused(path string) {
	r.Helper()
	if err := r.run(path); !errors.Is(err, unix.EPERM) {
		r.Fatalf("%s should be refused with EPERM: got %v", filepath.Base(path), err)
	}
}

// soonRefused is refused, but gives the answering thread the moment that it
// needs to hear of a writer's last close.
func (r *rig) soonRefused(path string) {
	r.Helper()
	for range 1000 {
		if err := r.run(path); errors.Is(err, unix.EPERM) {
			return
		}
	}
	r.refused(path)
}

// settle waits until the files' change times are old enough for verdicts on
// them to be kept.
func (r *rig) settle(paths ...string) {
	r.Helper()
	for _, p := range paths {
		for {
			var st unix.Stat_t
			if err := unix.Stat(p, &st); err != nil {
				r.Fatal(err)
			}
			if fileid.Settled(fileid.FromStat(&st), time.Now()) {
				break
			}
			runtime.Gosched()
		}
	}
}

func TestTrustedRunsUntrustedDoesNot(t *testing.T) {
	confined(t, func(t *testing.T, scope string) {
		r := newRig(t, scope)
		good, c := r.program("good")
		evil, _ := r.program("evil")
		script := filepath.Join(scope, "script")
		if err := os.WriteFile(script, []byte("#!/bin/true\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		for _, p := range []string{good, evil, script} {
			r.runs(p)
		}
		r.apply(cordon.ModeEnforce, c)
		r.runs(good)
		r.refused(evil)
		r.refused(script)
		if s := r.Stats(); s.Judged != 3 || s.Refused != 2 || s.Errors != 0 || s.Lost != 0 {
			t.Errorf("counted %+v", s)
		}
		for range 2 {
			if got := <-r.Refusals(); got.Path != evil && got.Path != script || got.PID == 0 || got.Mode != cordon.ModeEnforce || got.Reason == "" {
				t.Errorf("sample %+v", got)
			}
		}
		r.apply(cordon.ModeOff)
		r.runs(evil)
	})
}

func TestSparedUntilChanged(t *testing.T) {
	confined(t, func(t *testing.T, scope string) {
		r := newRig(t, scope)
		names := []string{"write", "truncate", "mapped", "renamed", "held"}
		var paths []string
		var trusted []*enforce.Canary
		for _, n := range names {
			p, c := r.program(n)
			paths, trusted = append(paths, p), append(trusted, c)
		}
		held, err := os.OpenFile(paths[4], os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		r.settle(paths...)
		r.apply(cordon.ModeEnforce, trusted...)
		for _, p := range paths[:4] {
			for range 100 {
				r.runs(p)
			}
		}
		if s := r.Stats(); s.Judged != 4 {
			t.Errorf("400 executions of 4 programs raised %d events, want 4", s.Judged)
		}
		// The kernel itself refuses to execute a file that is open for writing; it must not be trusted either.
		r.refused(paths[4])
		if err := held.Close(); err != nil {
			t.Fatal(err)
		}

		change := func(path string, how func(f *os.File) error) {
			t.Helper()
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(how(f), f.Close()); err != nil {
				t.Fatal(err)
			}
		}
		last := func(f *os.File) int64 {
			st, err := f.Stat()
			if err != nil {
				t.Fatal(err)
			}
			return st.Size() - 1
		}
		change(paths[0], func(f *os.File) error {
			b := make([]byte, 1) // a random one, see NewCanary
			_, err := f.ReadAt(b, last(f))
			if err == nil {
				_, err = f.WriteAt([]byte{b[0] ^ 0xff}, last(f))
			}
			return err
		})
		change(paths[1], func(f *os.File) error { return f.Truncate(last(f)) })
		change(paths[2], func(f *os.File) error {
			m, err := unix.Mmap(int(f.Fd()), 0, int(last(f))+1, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			if err != nil {
				return err
			}
			m[len(m)-1] ^= 0xff
			return unix.Munmap(m)
		})
		evil, _ := r.program("evil")
		if err := os.Rename(evil, paths[3]); err != nil {
			t.Fatal(err)
		}
		for _, p := range paths[:4] {
			r.soonRefused(p)
		}
		if n := r.Stats().Lost; n != 0 {
			t.Errorf("%d events were lost", n)
		}
	})
}

func TestNothingIsRememberedAcrossApply(t *testing.T) {
	confined(t, func(t *testing.T, scope string) {
		r := newRig(t, scope)
		a, ca := r.program("a")
		b, cb := r.program("b")
		r.settle(a, b)
		for range 20 {
			r.apply(cordon.ModeEnforce, ca)
			r.runs(a)
			r.refused(b)
			r.apply(cordon.ModeEnforce, cb)
			r.refused(a)
			r.runs(b)
		}
		// Changes and executions at the same time: whenever Apply has returned, the
		// new set holds.
		for range 200 {
			done := make(chan struct{})
			go func() { defer close(done); _, _ = r.guardian.Run(a) }() // either is right meanwhile
			r.apply(cordon.ModeEnforce, cb)
			<-done
			r.refused(a)
			r.apply(cordon.ModeEnforce, ca)
		}
	})
}

func TestAuditCountsAndAllows(t *testing.T) {
	confined(t, func(t *testing.T, scope string) {
		r := newRig(t, scope)
		good, c := r.program("good")
		evil, _ := r.program("evil")
		r.apply(cordon.ModeAudit, c)
		r.runs(good)
		for range 3 {
			r.runs(evil)
		}
		if s := r.Stats(); s.WouldRefuse != 3 || s.Refused != 0 {
			t.Errorf("counted %+v", s)
		}
	})
}

// A file that somebody keeps replacing and rewriting while it is executed must
// never run with a content that is not trusted.
func TestReplacedWhileExamined(t *testing.T) {
	confined(t, func(t *testing.T, scope string) {
		r := newRig(t, scope)
		target, c := r.program("target")
		good, err := os.ReadFile(target)
		if err != nil {
			t.Fatal(err)
		}
		// The same program, but with exit status 7: it shows that it ran.
		evil := bytes.Clone(good)
		if i := bytes.Index(evil, []byte{0x31, 0xff}); i >= 0 {
			copy(evil[i:], []byte{0x6a, 0x07}) // push 7 in place of xor edi,edi
		} else if runtime.GOARCH != "amd64" {
			t.Skip("this test knows how to change the code of amd64 only, and this is " + runtime.GOARCH)
		} else {
			t.Fatal("the canary's code is not the one that this test knows how to change")
		}
		r.apply(cordon.ModeEnforce, c)
		var stop atomic.Bool
		var writers sync.WaitGroup
		rewrite := func(path string, content []byte) {
			// Fails with ETXTBSY while the program runs, which is as good.
			if f, err := os.OpenFile(path, os.O_WRONLY, 0o700); err == nil {
				_, _ = f.WriteAt(content, 0) // who does not get to write
				_ = f.Close()                // has not attacked
			}
		}
		writers.Go(func() {
			for !stop.Load() {
				rewrite(target, evil)
				rewrite(target, good)
			}
		})
		writers.Go(func() {
			for i := 0; !stop.Load(); i++ {
				next := filepath.Join(scope, "next")
				_ = os.WriteFile(next, [][]byte{good, evil}[i%2], 0o700) // as above
				_ = os.Rename(next, target)
			}
		})
		ran, denied := 0, 0
		for range 1500 {
			verdict, err := r.guardian.Run(target)
			switch {
			case err != nil:
				stop.Store(true)
				t.Fatalf("the untrusted content ran: %v", err)
			case verdict == nil:
				ran++
			default:
				denied++
			}
		}
		stop.Store(true)
		writers.Wait()
		t.Logf("ran %d, refused %d, counted %+v", ran, denied, r.Stats())
		if ran+denied != 1500 || denied == 0 {
			t.Errorf("ran %d and refused %d of 1500", ran, denied)
		}
	})
}

func TestOverloadIsRefused(t *testing.T) {
	confined(t, func(t *testing.T, scope string) {
		r := newRig(t, scope)
		e, err := open(enforce.Scope{Mount: scope}, slog.Default(), 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		good, c := r.program("good")
		if err := e.Apply(cordon.ModeEnforce, cordon.NewTrustSet([]cordon.TrustEntry{c.Entry()}, nil)); err != nil {
			t.Fatal(err)
		}
		r.refused(good)
		if s := e.Stats(); s.Errors != 1 || s.Refused != 1 {
			t.Errorf("counted %+v", s)
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		if told, ok := <-e.Refusals(); !ok || told.Path != good || told.Count != 1 {
			t.Errorf("what was refused last: %+v", told)
		}
		r.runs(good)
	})
}

func TestBadScopesAndSets(t *testing.T) {
	confined(t, func(t *testing.T, scope string) {
		r := newRig(t, scope)
		_, c := r.program("good")
		set := cordon.NewTrustSet([]cordon.TrustEntry{c.Entry()}, nil)
		if err := r.Apply(cordon.ModeEnforce, cordon.NewTrustSet(nil, nil)); cordon.KindOf(err) != cordon.Invalid {
			t.Errorf("empty set: %v", err)
		}
		if err := r.Apply(cordon.ModeEnforce, nil); cordon.KindOf(err) != cordon.Invalid {
			t.Errorf("no set: %v", err)
		}
		e, err := Open(enforce.Scope{Mount: filepath.Join(scope, "no-mount-point")}, slog.Default())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = e.Close() }() // it watches nothing
		if err := e.Apply(cordon.ModeEnforce, set); err == nil || !strings.Contains(err.Error(), "not mounted") {
			t.Errorf("no mount point: %v", err)
		}
		if err := unix.Unmount(scope, unix.MNT_DETACH); err != nil {
			t.Fatal(err)
		}
		if err := r.Apply(cordon.ModeEnforce, set); err == nil || !strings.Contains(err.Error(), "not mounted") {
			t.Errorf("unmounted scope: %v", err)
		}
	})
}

func TestSelfTest(t *testing.T) {
	confined(t, func(t *testing.T, scope string) {
		r := newRig(t, scope)
		canary, err := enforce.NewCanary()
		if err != nil {
			t.Fatal(err)
		}
		tester := &enforce.Tester{Guardian: r.guardian, Dir: scope, Trusted: canary}
		if err := tester.Test(cordon.ModeOff); err != nil {
			t.Errorf("off: %v", err)
		}
		if err := tester.Test(cordon.ModeEnforce); err == nil || !strings.Contains(err.Error(), "ran all the same") {
			t.Errorf("not in force, but: %v", err)
		}
		r.apply(cordon.ModeEnforce, canary)
		if err := tester.Test(cordon.ModeEnforce); err != nil {
			t.Errorf("in force, but: %v", err)
		}
		if err := tester.Test(cordon.ModeOff); err == nil {
			t.Error("off was confirmed while a program is refused")
		}
		_, other := r.program("other")
		r.apply(cordon.ModeEnforce, other)
		if err := tester.Test(cordon.ModeEnforce); err == nil || !strings.Contains(err.Error(), "a trusted program was refused") {
			t.Errorf("nothing trusted runs, but: %v", err)
		}
		r.apply(cordon.ModeOff)
		if err := unix.Mount("", scope, "", unix.MS_REMOUNT|unix.MS_NOEXEC, ""); err != nil {
			t.Fatal(err)
		}
		if err := tester.Test(cordon.ModeOff); err == nil || !strings.Contains(err.Error(), "noexec") {
			t.Errorf("noexec: %v", err)
		}
		left, err := filepath.Glob(filepath.Join(scope, ".cordon-*"))
		if err != nil || len(left) > 0 {
			t.Errorf("the self-test left %v behind (%v)", left, err)
		}
	})
}

func TestProbe(t *testing.T) {
	confined(t, func(t *testing.T, scope string) {
		r := newRig(t, scope)
		if f := Probe(r.guardian, scope); f.Answer != cordon.Yes {
			t.Errorf("got %+v", f)
		}
		if f := Probe(r.guardian, filepath.Join(scope, "missing")); f.Answer != cordon.Unknown {
			t.Errorf("got %+v", f)
		}
	})
}

// The garbage collector stops the answering thread again and again while
// others start programs. Nobody may wait for ever.
func TestGarbageCollectionDoesNotDeadlock(t *testing.T) {
	confined(t, func(t *testing.T, scope string) {
		r := newRig(t, scope)
		canary, err := enforce.NewCanary()
		if err != nil {
			t.Fatal(err)
		}
		r.apply(cordon.ModeEnforce, canary)
		tester := &enforce.Tester{Guardian: r.guardian, Dir: scope, Trusted: canary}
		var stop atomic.Bool
		var others sync.WaitGroup
		others.Go(func() {
			for !stop.Load() {
				runtime.GC()
			}
		})
		for range 150 {
			if err := tester.Test(cordon.ModeEnforce); err != nil {
				t.Fatal(err)
			}
		}
		stop.Store(true)
		others.Wait()
	})
}

// agentRole is a small agent in a process of its own: it enforces on scope and
// gives its guardian signs of life until it is ended.
func agentRole(scope string) int {
	if err := os.Setenv(roleVar, "guardian"); err != nil {
		return 1
	}
	g, err := enforce.StartGuardian("/proc/self/exe")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	if err := g.Alive(); err != nil { // as the agent does before it opens the enforcer
		fmt.Println(err)
		return 1
	}
	e, err := Open(enforce.Scope{Mount: scope}, slog.Default())
	if err != nil {
		fmt.Println(err)
		return 1
	}
	c, err := enforce.NewCanary()
	if err != nil {
		return 1
	}
	if err := e.Apply(cordon.ModeEnforce, cordon.NewTrustSet([]cordon.TrustEntry{c.Entry()}, nil)); err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("enforcing")
	fmt.Println(enforce.Watch(g, e.Beat))
	return 0
}

func startAgent(t *testing.T, scope string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleVar+"=agent:"+scope)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, len("enforcing\n"))
	if n, err := out.Read(line); err != nil || string(line[:n]) != "enforcing\n" {
		t.Fatalf("the agent said %q (%v)", line[:n], err)
	}
	return cmd
}

// A killed agent lets go: a limit of fanotify that the documentation tells.
func TestKilledAgentLetsGo(t *testing.T) {
	confined(t, func(t *testing.T, scope string) {
		r := newRig(t, scope)
		evil, _ := r.program("evil")
		agent := startAgent(t, scope)
		r.refused(evil)
		if err := agent.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = agent.Wait() // it was killed
		r.runs(evil)
	})
}

// A stopped agent would hold everybody who starts a program for ever.
func TestStoppedAgentIsKilledByItsGuardian(t *testing.T) {
	confined(t, func(t *testing.T, scope string) {
		r := newRig(t, scope)
		evil, _ := r.program("evil")
		agent := startAgent(t, scope)
		if err := agent.Process.Signal(unix.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		// Until all its threads have stopped it may still answer.
		if _, err := unix.Wait4(agent.Process.Pid, nil, unix.WUNTRACED, nil); err != nil {
			t.Fatal(err)
		}
		ran := make(chan error, 1)
		go func() {
			cmd := exec.Command(evil) // this process enforces nothing on the scope, so it may start programs
			ran <- cmd.Run()
		}()
		_ = agent.Wait() // it was killed
		if err := <-ran; err != nil {
			t.Errorf("the program that waited did not go on: %v", err)
		}
	})
}
