package agent

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/seal"
	"github.com/cordon-project/cordon/test/lab"
)

// kernel is an [Enforcement] that does as it is told.
type kernel struct {
	dir string // whose state it looks at on every Switch

	mu       sync.Mutex
	mode     cordon.Mode
	switched []switched
	trusted  []cordon.TrustEntry
	fail     map[cordon.Mode]error
	lost     string        // why what was switched to is not in force any more
	hold     chan struct{} // if set, Switch waits until it is closed, or its context ends
	bell     lab.Bell      // rings whenever Switch is called or returns
	t        testing.TB
}

// switched is one call of Switch: the mode that was asked for and what was on
// disk at that time.
type switched struct {
	mode     cordon.Mode
	standing cordon.Standing
}

func (k *kernel) Switch(ctx context.Context, mode cordon.Mode) error {
	defer k.bell.Ring()
	k.mu.Lock()
	k.switched = append(k.switched, switched{mode, readStanding(k.t, k.dir)})
	hold := k.hold
	k.mu.Unlock()
	k.bell.Ring()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.fail[mode]; err != nil {
		return err
	}
	k.mode = mode
	return nil
}

func (k *kernel) Trust(_ context.Context, entries []cordon.TrustEntry) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.trusted = entries
	return nil
}

func (k *kernel) Observe() cordon.Observed {
	k.mu.Lock()
	defer k.mu.Unlock()
	return cordon.Observed{Mode: k.mode, InForce: k.mode == cordon.ModeEnforce && k.lost == "", Problem: k.lost, Enforcer: "fake", Scope: "host", Trusted: 3}
}

func (k *kernel) calls() []switched {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.switched)
}

func (k *kernel) inMode() cordon.Mode {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.mode
}

func (k *kernel) failOn(mode cordon.Mode, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.fail = map[cordon.Mode]error{mode: err}
}

// lose has the mode that was switched to not be in force any more.
func (k *kernel) lose(why string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.lost = why
}

// holdNext makes Switch wait from now on, until the result is called.
func (k *kernel) holdNext() (release func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.hold = make(chan struct{})
	return sync.OnceFunc(func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		close(k.hold)
		k.hold = nil
	})
}

// awaitCalls waits until Switch was called n times.
func (k *kernel) awaitCalls(n int) {
	k.t.Helper()
	k.bell.Await(k.t, fmt.Sprintf("Switch is called %d times", n), func() bool { return len(k.calls()) >= n })
}

// fixture is an agent that was enrolled without a server.
type fixture struct {
	*Agent
	t        testing.TB
	kernel   *kernel
	dir      string
	key      ed25519.PrivateKey
	id       cordon.MachineID
	orderKey ed25519.PrivateKey
	now      time.Time // the machine's clock
	boot     cordon.BootTime
	changed  []bool // what [Config.Changed] was told
}

var (
	noon  = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	hours = func(n int) time.Time { return noon.Add(time.Duration(n) * time.Hour) }
)

func newFixture(t testing.TB) *fixture {
	t.Helper()
	f := &fixture{t: t, dir: t.TempDir(), key: seedKey(1), orderKey: seedKey(2), now: noon, boot: cordon.BootTime{Boot: "b1", At: time.Hour}}
	f.id = cordon.IDOfKey(f.key.Public().(ed25519.PublicKey))
	f.kernel = &kernel{t: t, dir: f.dir, mode: cordon.ModeOff}
	writeIdentity(t, f.dir, f.key, f.orderKey.Public().(ed25519.PublicKey))
	f.open()
	t.Cleanup(func() { _ = f.Close() }) // it may be closed already
	return f
}

func seedKey(n byte) ed25519.PrivateKey {
	seed := make([]byte, ed25519.SeedSize)
	seed[0] = n
	return ed25519.NewKeyFromSeed(seed)
}

func (f *fixture) open() {
	f.t.Helper()
	a, err := Open(Config{
		DataDir: f.dir, Log: lab.Logger(f.t), Now: func() time.Time { return f.now }, Boot: func() cordon.BootTime { return f.boot },
		Facts:   func() (cordon.Facts, error) { return cordon.Facts{DNSName: "web", OSPlatform: "Debian"}, nil },
		Changed: func(restricted bool) { f.changed = append(f.changed, restricted) },
	})
	if err != nil {
		f.t.Fatal(err)
	}
	a.Use(f.kernel)
	f.Agent = a
}

// restart is what a reboot does: the kernel lets go, and the agent starts again.
func (f *fixture) restart() {
	f.t.Helper()
	if err := f.Close(); err != nil {
		f.t.Fatal(err)
	}
	f.kernel.mu.Lock()
	f.kernel.mode, f.kernel.switched = cordon.ModeOff, nil
	f.kernel.mu.Unlock()
	f.open()
}

// order makes an order for this machine, generation g of action "a<g>", that
// expires in three days.
func (f *fixture) order(g uint64, typ cordon.OrderType, with ...func(*cordon.Order)) cordon.Order {
	o := cordon.Order{
		Machine: f.id, Action: cordon.ActionID(fmt.Sprintf("a%d", g)), Generation: g, Type: typ, Comment: "why",
		Issued: noon, Expires: noon.Add(72 * time.Hour),
	}
	for _, w := range with {
		w(&o)
	}
	return o
}

func (f *fixture) sign(o cordon.Order) string {
	f.t.Helper()
	jws, err := seal.Order(o, f.orderKey)
	if err != nil {
		f.t.Fatal(err)
	}
	return jws
}

// take hands over an order and returns the report that answers it.
func (f *fixture) take(jws string) (cordon.Report, error) {
	f.t.Helper()
	report, err := f.takeUp(f.t.Context(), jws, false, nil)
	return f.read(report), err
}

// obey takes an order that must be taken up.
func (f *fixture) obey(o cordon.Order) cordon.Report {
	f.t.Helper()
	r, err := f.take(f.sign(o))
	if err != nil {
		f.t.Fatal(err)
	}
	return r
}

// read verifies a report.
func (f *fixture) read(jws string) cordon.Report {
	f.t.Helper()
	r, err := seal.OpenReport(jws, f.key.Public().(ed25519.PublicKey))
	if err != nil {
		f.t.Fatal(err)
	}
	if r.Machine != f.id {
		f.t.Fatalf("the report is about machine %s", r.Machine)
	}
	return r
}

// disk returns the standing that is on disk.
func (f *fixture) disk() cordon.Standing { return readStanding(f.t, f.dir) }

// outboxStates lists what is in the outbox as "action state".
func (f *fixture) outboxStates() []string {
	var all []string
	for _, jws := range f.outbox() {
		r := f.read(jws)
		all = append(all, fmt.Sprintf("%s %s", r.Action, r.State))
	}
	return all
}

func decode(r io.Reader, v any) error { return json.NewDecoder(r).Decode(v) }
