package protect

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/enforce"
)

// kernel is an enforcer that remembers what it was told.
type kernel struct {
	enforce.None
	mu     sync.Mutex
	mode   cordon.Mode
	set    *cordon.TrustSet
	refuse error // what Apply fails with

	samples chan enforce.Refusal
}

func (k *kernel) Refusals() <-chan enforce.Refusal { return k.samples }

func (k *kernel) Apply(mode cordon.Mode, set *cordon.TrustSet) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.refuse != nil {
		return k.refuse
	}
	k.mode, k.set = mode, set
	return nil
}

// Mode is what an earlier process left, or what was applied.
func (k *kernel) Mode() cordon.Mode {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.mode
}

func (k *kernel) Stats() enforce.Stats { return enforce.Stats{Refused: 7} }

// Describe covers what comes and goes: a file system in the mode it has.
func (k *kernel) Describe() enforce.Description {
	d := k.None.Describe()
	d.Coverage = []cordon.Coverage{{What: "files in mode " + string(k.Mode()), Answer: cordon.Yes}}
	return d
}

type rig struct {
	*Protection
	kernel *kernel
	test   error    // of the self-test in mode enforce
	sets   chan any // *cordon.TrustSet or error

	mu      sync.Mutex // guards what follows
	missing []string
	checks  int
}

// lacks has every survival check from now on find files missing.
func (r *rig) lacks(files ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.missing = files
}

// fails has every self-test in mode enforce from now on end with err.
func (r *rig) fails(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.test = err
}

// checked counts the survival checks.
func (r *rig) checked() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.checks
}

func set(names ...string) *cordon.TrustSet {
	var entries []cordon.TrustEntry
	for _, n := range names {
		entries = append(entries, cordon.TrustEntry{Digest: sha256.Sum256([]byte(n)), Size: int64(len(n)), Origin: "test"})
	}
	return cordon.NewTrustSet(entries, nil)
}

// start runs the protection until ctx ends, within the bubble of the test.
func (r *rig) start(t *testing.T, ctx context.Context) {
	go func() {
		if err := r.Run(ctx); err != nil {
			t.Errorf("it ended with %v", err)
		}
	}()
}

func newRig(last *cordon.TrustSet) *rig { return newRigIn(cordon.ModeOff, last) }

func newRigIn(mode cordon.Mode, last *cordon.TrustSet) *rig {
	r := &rig{kernel: &kernel{mode: mode}, sets: make(chan any)}
	r.Protection = New(Config{
		Enforcer: r.kernel,
		Test: func(m cordon.Mode) error {
			switch {
			case m != cordon.ModeEnforce:
				return nil
			case r.kernel.Mode() != m:
				return fmt.Errorf("%w: somebody let go", enforce.ErrRan)
			}
			r.mu.Lock()
			defer r.mu.Unlock()
			return r.test
		},
		Own: []cordon.TrustEntry{{Digest: sha256.Sum256([]byte("canary")), Size: 6, Origin: "cordon"}},
		Missing: func(context.Context, *cordon.TrustSet) ([]string, error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.checks++
			return r.missing, nil
		},
		Last: func() *cordon.TrustSet { return last },
		Follow: func(ctx context.Context, each func(*cordon.TrustSet, error)) error {
			for {
				select {
				case <-ctx.Done():
					return nil
				case v := <-r.sets:
					if err, bad := v.(error); bad {
						each(nil, err)
					} else {
						each(v.(*cordon.TrustSet), nil)
					}
				}
			}
		},
		Log: slog.New(slog.DiscardHandler),
	})
	return r
}

func TestSwitch(t *testing.T) {
	broken := errors.New("it does not hold")
	for name, c := range map[string]struct {
		prepare func(*rig)
		want    string // in the error; empty: it succeeds
	}{
		"good":               {func(*rig) {}, ""},
		"self-test fails":    {func(r *rig) { r.test = broken }, "it does not hold"},
		"kernel refuses":     {func(r *rig) { r.kernel.refuse = broken }, "it does not hold"},
		"machine would die":  {func(r *rig) { r.lacks("/usr/sbin/sshd: not in the trust set") }, "/usr/sbin/sshd"},
		"much would be lost": {func(r *rig) { r.lacks(strings.Split("a b c d e f g", " ")...) }, "and 2 more"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(set("a"))
			c.prepare(r)
			err := r.Switch(t.Context(), cordon.ModeEnforce)
			if c.want == "" {
				if err != nil || !r.Observe().Restricted() || r.kernel.mode != cordon.ModeEnforce {
					t.Fatalf("%v, %+v", err, r.Observe())
				}
				if !r.kernel.set.Contains(sha256.Sum256([]byte("canary"))) || r.Observe().Trusted != 2 || r.Observe().Refused != 7 {
					t.Errorf("Cordon's own canary is not trusted: %+v", r.Observe())
				}
				if c := r.Observe().Coverage; len(c) != 1 || c[0].What != "files in mode enforce" {
					t.Errorf("what is covered is not what it is now: %+v", c)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want %q", err, c.want)
			}
			if r.Observe().Restricted() || r.kernel.mode != cordon.ModeOff {
				t.Errorf("after a failed restriction the machine is not as it was: %+v, kernel %s", r.Observe(), r.kernel.mode)
			}
		})
	}
}

// A restriction need not wait for the kernel to take a set.
func TestSetIsHandedOverAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		r := newRig(nil)
		r.start(t, ctx)
		r.sets <- set("a", "b")
		synctest.Wait()
		if r.kernel.mode != cordon.ModeOff || r.kernel.set == nil || r.kernel.set.Len() != 3 {
			t.Errorf("the kernel is in mode %s and has %v", r.kernel.mode, r.kernel.set)
		}
		cancel()
		synctest.Wait()
	})
}

// Whatever goes wrong when a restarted agent restores a restriction that
// outlived the one before: the kernel is not told to let go.
func TestRestoringWhatIsInForceNeverReleases(t *testing.T) {
	r := newRigIn(cordon.ModeEnforce, set("a"))
	if o := r.Observe(); o.Mode != cordon.ModeEnforce || o.Restricted() {
		t.Errorf("before anything was proved it says %+v", o)
	}
	r.test = errors.New("the disk is full")
	if err := r.Switch(t.Context(), cordon.ModeEnforce); err == nil {
		t.Error("the self-test failed and nobody says so")
	}
	if o := r.Observe(); r.kernel.mode != cordon.ModeEnforce || o.Mode != cordon.ModeEnforce || o.Restricted() || o.Problem == "" {
		t.Errorf("the kernel is in mode %s, observed %+v", r.kernel.mode, o)
	}
	r.test = nil
	if err := r.Switch(t.Context(), cordon.ModeEnforce); err != nil || !r.Observe().Restricted() {
		t.Errorf("at the second try: %v, %+v", err, r.Observe())
	}
}

// A restriction waits for the first set, and only then is somebody in a hurry.
func TestWaitsForTheFirstSetOnlyToRestrict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		r := newRig(nil)
		hurried, hurries := 0, 0
		r.cfg.Hurry = func() func() { hurried++; hurries++; return func() { hurries-- } }
		r.start(t, ctx)
		if err := r.Switch(ctx, cordon.ModeOff); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- r.Switch(ctx, cordon.ModeEnforce) }()
		synctest.Wait()
		select {
		case err := <-done:
			t.Fatalf("did not wait: %v", err)
		default:
		}
		if hurries != 1 {
			t.Errorf("%d are in a hurry", hurries)
		}
		r.sets <- set("a")
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := r.Switch(ctx, cordon.ModeEnforce); err != nil {
			t.Error(err)
		}
		if hurried != 2 || hurries != 1 { // who installs packages on a restricted machine waits, too
			t.Errorf("%d were in a hurry, %d still are", hurried, hurries)
		}
		if err := r.Switch(ctx, cordon.ModeOff); err != nil {
			t.Error(err)
		}
		if hurried != 2 || hurries != 0 {
			t.Errorf("after the restriction, %d were in a hurry, %d still are", hurried, hurries)
		}
		cancel()
		synctest.Wait()
	})
}

func TestNoSetAtAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		r := newRig(nil)
		r.start(t, ctx)
		r.sets <- errors.New("no package database")
		if err := r.Switch(ctx, cordon.ModeEnforce); err == nil || !strings.Contains(err.Error(), "no package database") {
			t.Errorf("got %v", err)
		}
		cancel()
		synctest.Wait()
	})
}

// While the machine is restricted a new set is taken over only if it passes
// what the first one had to pass.
func TestRenew(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(*rig)
		next    any
		want    string // problem; empty: taken over
	}{
		"good":              {func(*rig) {}, set("a", "b"), ""},
		"not built":         {func(*rig) {}, errors.New("status file is torn"), "status file is torn"},
		"machine would die": {func(r *rig) { r.lacks("/bin/login: gone") }, set("b"), "/bin/login"},
		"self-test fails":   {func(r *rig) { r.test = errors.New("does not hold") }, set("b"), "does not hold"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				r := newRig(set("a"))
				r.start(t, ctx)
				if err := r.Switch(ctx, cordon.ModeEnforce); err != nil {
					t.Fatal(err)
				}
				before := r.kernel.set
				c.prepare(r)
				r.sets <- c.next
				synctest.Wait()
				o := r.Observe()
				if !strings.Contains(o.Problem, c.want) || c.want == "" && o.Problem != "" {
					t.Errorf("problem %q, want %q", o.Problem, c.want)
				}
				if r.kernel.mode != cordon.ModeEnforce || (r.kernel.set == before) != (c.want != "") {
					t.Errorf("kernel has mode %s and the old set is %v", r.kernel.mode, r.kernel.set == before)
				}
				cancel()
				synctest.Wait()
			})
		})
	}
}

// The survival check is done ahead, so that an order does not wait for it, but
// never believed when it is old.
func TestSurvivalCheckIsFresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		r := newRig(set("a"))
		r.start(t, ctx)
		r.sets <- set("a", "b")
		synctest.Wait()
		n := r.checked()
		r.sets <- set("a", "b", "c")
		synctest.Wait()
		if r.checked() != n {
			t.Error("checked again, although more may run than before")
		}
		r.sets <- set("a", "c")
		synctest.Wait()
		if n++; r.checked() != n {
			t.Errorf("checked %d times although less may run than before", r.checked()-n+1)
		}
		if err := r.Switch(ctx, cordon.ModeEnforce); err != nil || r.checked() != n {
			t.Errorf("%v; checked %d times although it was done ahead", err, r.checked()-n)
		}
		r.lacks("/usr/sbin/sshd: not in the trust set")
		time.Sleep(2 * stale) // synctest's clock
		if err := r.Switch(ctx, cordon.ModeEnforce); err == nil {
			t.Error("an old survival check was believed")
		}
		cancel()
		synctest.Wait()
	})
}

// What was refused just before a stop is told all the same.
func TestRest(t *testing.T) {
	r := newRig(set("a"))
	r.kernel.samples = make(chan enforce.Refusal, 3)
	var seen []uint64
	r.cfg.Seen = func(s enforce.Refusal) bool {
		seen = append(seen, s.Count)
		return true
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Run(ctx); err != nil {
		t.Fatal(err)
	}
	r.kernel.samples <- enforce.Refusal{Path: "/evil", Count: 4}
	r.kernel.samples <- enforce.Refusal{Path: "/evil"}
	r.Rest(ctx) // it may have closed its channel, or not
	close(r.kernel.samples)
	r.Rest(ctx)
	if !slices.Equal(seen, []uint64{4, 1}) {
		t.Errorf("told of %v executions, want 4 and 1", seen)
	}
}

// A restriction that something else ended is noticed, told, and put in force again.
func TestRetest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		r := newRig(set("a"))
		r.start(t, ctx)
		if err := r.Switch(ctx, cordon.ModeEnforce); err != nil {
			t.Fatal(err)
		}
		see := func(when string, inForce bool, problem string) {
			t.Helper()
			time.Sleep(testEvery)
			synctest.Wait()
			if o := r.Observe(); o.InForce != inForce || !strings.Contains(o.Problem, problem) || problem == "" && o.Problem != "" {
				t.Errorf("%s: in force %v, problem %q", when, o.InForce, o.Problem)
			}
		}
		see("all is well", true, "")
		r.fails(errors.New("the disk is full"))
		see("it cannot be tested", true, "the disk is full")
		r.fails(enforce.ErrRan)
		see("it is lost", false, "ran all the same")
		see("it is still lost", false, "ran all the same")
		r.fails(nil)
		see("it is in force again", true, "ran all the same")
		if err := r.kernel.Apply(cordon.ModeOff, nil); err != nil {
			t.Fatal(err)
		}
		see("it was put in force again", true, "somebody let go")
		if r.kernel.Mode() != cordon.ModeEnforce {
			t.Error("it was not put in force again")
		}
		if err := r.Switch(ctx, cordon.ModeOff); err != nil {
			t.Fatal(err)
		}
		r.fails(errors.New("nobody asks"))
		see("after the release", true, "")
		cancel()
		synctest.Wait()
	})
}

// An order need not wait for the test of what is in force, nor does what the test
// then finds concern what the order has put in force.
func TestOrderDuringRetest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		r := newRig(set("a"))
		goOn, test := make(chan struct{}), r.cfg.Test
		var armed, testing atomic.Bool
		r.cfg.Test = func(m cordon.Mode) error {
			if armed.Swap(false) {
				testing.Store(true)
				<-goOn
			}
			return test(m)
		}
		r.start(t, ctx)
		if err := r.Switch(ctx, cordon.ModeEnforce); err != nil {
			t.Fatal(err)
		}
		armed.Store(true)
		time.Sleep(testEvery)
		synctest.Wait()
		if !testing.Load() {
			t.Error("the restriction is not tested")
		}
		if r.mu.TryLock() {
			r.mu.Unlock()
			if err := r.Switch(ctx, cordon.ModeOff); err != nil {
				t.Error(err)
			}
		} else {
			t.Error("an order would wait for the test")
		}
		close(goOn) // a program that is not trusted runs, as the machine is released
		synctest.Wait()
		if o := r.Observe(); o.Mode != cordon.ModeOff || !o.InForce || o.Problem != "" || r.kernel.Mode() != cordon.ModeOff {
			t.Errorf("after the release: %+v, the kernel is in mode %s", o, r.kernel.Mode())
		}
		cancel()
		synctest.Wait()
	})
}

func TestNothingToEnforceWith(t *testing.T) {
	r := New(Config{
		Enforcer: enforce.None{Reason: "the agent runs with --enforcer none"},
		Last:     func() *cordon.TrustSet { return nil }, Log: slog.New(slog.DiscardHandler),
	})
	if err := r.Switch(t.Context(), cordon.ModeEnforce); err == nil || !strings.Contains(err.Error(), "--enforcer none") {
		t.Errorf("got %v", err)
	}
	if err := r.Switch(t.Context(), cordon.ModeOff); err != nil {
		t.Error(err)
	}
	if r.Observe().Restricted() {
		t.Error("claims to be restricted")
	}
}
