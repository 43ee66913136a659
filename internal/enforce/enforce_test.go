package enforce

import (
	"bytes"
	"debug/elf"
	"errors"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon"
)

func TestScope(t *testing.T) {
	for in, want := range map[string]Scope{"host": {}, "mount:/srv": {"/srv"}, "mount:/srv/": {"/srv"}, "mount:/": {"/"}} {
		got, err := ParseScope(in)
		if err != nil || got != want {
			t.Errorf("%q: %v, %v", in, got, err)
		}
		if again, err := ParseScope(got.String()); err != nil || again != got {
			t.Errorf("%q does not survive its own String: %v, %v", in, again, err)
		}
	}
	for _, in := range []string{"", "Host", "mount:", "mount:srv", "/srv", "cgroup:/x"} {
		if got, err := ParseScope(in); err == nil {
			t.Errorf("%q was taken for %v", in, got)
		}
	}
}

func TestCanaryIsAProgram(t *testing.T) {
	if _, ok := code[runtime.GOARCH]; !ok {
		t.Skip("there is no canary for this processor, and the agent says so")
	}
	a, err := NewCanary()
	if err != nil {
		t.Fatal(err)
	}
	b, err := NewCanary()
	if err != nil {
		t.Fatal(err)
	}
	if a.Entry() == b.Entry() {
		t.Error("two canaries are the same program")
	}
	f, err := elf.NewFile(bytes.NewReader(a.image))
	if err != nil {
		t.Fatal(err)
	}
	if f.Type != elf.ET_EXEC || len(f.Progs) != 1 || f.Progs[0].Flags != elf.PF_R|elf.PF_X {
		t.Errorf("got %+v", f.FileHeader)
	}
	if set := cordon.NewTrustSet([]cordon.TrustEntry{a.Entry()}, nil); !set.MayHaveSize(int64(len(a.image))) || set.Len() != 1 {
		t.Error("its entry does not describe it")
	}
}

// Its refusal may be named before or after it was removed.
func TestTesterKnowsItsCanaries(t *testing.T) {
	tester := &Tester{untold: map[string]bool{"/a/untrusted": true, "/b/untrusted": true}}
	for _, c := range []struct {
		path string
		own  bool
	}{
		{"/a/untrusted", true}, {"/a/untrusted", false}, {"/b/untrusted (deleted)", true}, {"/b/untrusted", false}, {"/c/untrusted", false},
	} {
		if own := tester.Own(Refusal{Path: c.path, Count: 1}); own != c.own {
			t.Errorf("%s: %v", c.path, own)
		}
	}
}

func TestNoneSaysSo(t *testing.T) {
	n := None{Reason: "no reason"}
	if err := n.Apply(cordon.ModeOff, nil); err != nil {
		t.Error(err)
	}
	for _, m := range []cordon.Mode{cordon.ModeAudit, cordon.ModeEnforce} {
		if err := n.Apply(m, nil); cordon.KindOf(err) != cordon.Unavailable {
			t.Errorf("%s: %v", m, err)
		}
	}
}

// watched runs guard on one end of a pipe. killed tells how often the agent was ended.
func watched(execute func(string) (uint32, uint32)) (agent *Guardian, result <-chan error, killed *atomic.Int32) {
	ours, theirs := net.Pipe()
	killed = new(atomic.Int32)
	done := make(chan error, 1)
	go func() {
		done <- guard(theirs, func() error { killed.Add(1); return nil }, execute)
		_ = theirs.Close() // a pipe in memory
	}()
	return &Guardian{conn: ours}, done, killed
}

func TestGuardianRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		agent, done, killed := watched(func(path string) (uint32, uint32) {
			switch path {
			case "/refused":
				return uint32(unix.EPERM), 0
			case "/odd":
				return 0, 0x700
			}
			return 0, 0
		})
		if verdict, err := agent.Run("/good"); verdict != nil || err != nil {
			t.Errorf("good: %v, %v", verdict, err)
		}
		if verdict, err := agent.Run("/refused"); !errors.Is(verdict, unix.EPERM) || err != nil {
			t.Errorf("refused: %v, %v", verdict, err)
		}
		if verdict, err := agent.Run("/odd"); verdict != nil || err == nil {
			t.Errorf("odd: %v, %v", verdict, err)
		}
		if err := agent.conn.Close(); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil || killed.Load() != 0 {
			t.Errorf("after the agent's end: %v, killed %d times", err, killed.Load())
		}
		if _, err := agent.Run("/good"); err == nil {
			t.Error("ran something without a guardian")
		}
	})
}

// The answer about a canary that took too long is not taken for that about the
// next one.
func TestGuardianLateAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		agent, done, killed := watched(func(path string) (uint32, uint32) {
			if path == "/slow" {
				<-release
				return uint32(unix.ENOENT), 0
			}
			return 0, 0
		})
		var living sync.WaitGroup
		defer living.Wait()
		living.Go(func() {
			for agent.Alive() == nil {
				time.Sleep(time.Second)
			}
		})
		if _, err := agent.Run("/slow"); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("slow: %v", err)
		}
		close(release)
		if verdict, err := agent.Run("/good"); verdict != nil || err != nil {
			t.Errorf("good: %v, %v", verdict, err)
		}
		if err := agent.conn.Close(); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil || killed.Load() != 0 {
			t.Errorf("after the agent's end: %v, killed %d times", err, killed.Load())
		}
	})
}

func TestGuardianKillsTheSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		agent, done, killed := watched(nil)
		var beat atomic.Uint64
		stop := make(chan struct{})
		go func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(500 * time.Millisecond):
					beat.Add(1)
				}
			}
		}()
		watching := make(chan error, 1)
		go func() { watching <- Watch(agent, beat.Load) }()
		time.Sleep(10 * Patience) // synctest's clock
		if killed.Load() != 0 {
			t.Fatal("an agent that answers was killed")
		}
		close(stop) // its answering thread hangs from here on
		if err := <-done; err == nil || killed.Load() != 1 {
			t.Errorf("%v, killed %d times", err, killed.Load())
		}
		beat.Add(1)
		if err := <-watching; err == nil {
			t.Error("the agent did not notice that its guardian is gone")
		}
	})
}

// An agent that takes long to load its programs into the kernel is not killed:
// nobody waits for it yet.
func TestGuardianWaitsForTheFirstSign(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		agent, done, killed := watched(func(string) (uint32, uint32) { return 0, 0 })
		if verdict, err := agent.Run("/good"); verdict != nil || err != nil { // a probe
			t.Errorf("good: %v, %v", verdict, err)
		}
		time.Sleep(10 * Patience) // synctest's clock
		if killed.Load() != 0 {
			t.Error("killed before its first sign of life")
		}
		if err := agent.Alive(); err != nil {
			t.Error(err)
		}
		if err := <-done; err == nil || killed.Load() != 1 {
			t.Errorf("silent after its first sign: %v, killed %d times", err, killed.Load())
		}
	})
}

// The watch goes on while a canary waits for its verdict for ever.
func TestGuardianWatchesWhileACanaryHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		agent, done, killed := watched(func(string) (uint32, uint32) { <-release; return 0, 0 })
		if err := agent.Alive(); err != nil {
			t.Error(err)
		}
		if _, err := agent.Run("/hangs"); err == nil {
			t.Error("got a verdict")
		}
		if err := <-done; err == nil || killed.Load() != 1 {
			t.Errorf("%v, killed %d times", err, killed.Load())
		}
		close(release)
	})
}
