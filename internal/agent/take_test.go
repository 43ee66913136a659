package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/agent/disk"
	"github.com/cordon-project/cordon/internal/seal"
	"github.com/cordon-project/cordon/internal/wire"
)

func TestTakeRestrictsAndReleases(t *testing.T) {
	f := newFixture(t)
	got := f.obey(f.order(1, cordon.RestrictOrder))
	want := cordon.Report{
		Machine: f.id, Action: "a1", Generation: 1, State: cordon.ReportSucceeded,
		Observed: cordon.Observed{Generation: 1, Action: "a1", Order: cordon.RestrictOrder, Mode: cordon.ModeEnforce, InForce: true, Enforcer: "fake", Scope: "host", Trusted: 3, At: noon},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("report (-want +got):\n%s", d)
	}
	got = f.obey(f.order(2, cordon.UnrestrictOrder))
	want.Action, want.Generation = "a2", 2
	want.Observed.Generation, want.Observed.Mode, want.Observed.InForce = 2, cordon.ModeOff, false
	want.Observed.Action, want.Observed.Order = "a2", cordon.UnrestrictOrder
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("report (-want +got):\n%s", d)
	}
	// Each was on disk, and not yet concluded, when it was acted upon.
	begun := []switched{
		{cordon.ModeEnforce, cordon.Standing{Generation: 1, Action: "a1", Type: cordon.RestrictOrder, Mode: cordon.ModeEnforce, Previous: cordon.ModeOff}},
		{cordon.ModeOff, cordon.Standing{Generation: 2, Action: "a2", Type: cordon.UnrestrictOrder, Mode: cordon.ModeOff, Previous: cordon.ModeEnforce}},
	}
	if d := cmp.Diff(begun, f.kernel.calls(), cmp.AllowUnexported(switched{})); d != "" {
		t.Errorf("on disk when switched (-want +got):\n%s", d)
	}
	done := begun[1].standing
	done.Outcome = cordon.ReportSucceeded
	if d := cmp.Diff(done, f.disk()); d != "" {
		t.Errorf("on disk in the end (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]string{"a1 Succeeded", "a2 Succeeded"}, f.outboxStates()); d != "" {
		t.Errorf("outbox (-want +got):\n%s", d)
	}
	f.hear(t.Context(), wire.FromServer{Settled: []cordon.ActionID{"a1", "other"}})
	f.restart()
	if d := cmp.Diff([]string{"a2 Succeeded"}, f.outboxStates()); d != "" {
		t.Errorf("outbox after a restart (-want +got):\n%s", d)
	}
}

// What does not verify, or is not for this machine, is refused in a signed
// report, and changes nothing in memory, on disk or in the kernel.
func TestTakeRefuses(t *testing.T) {
	f := newFixture(t)
	f.obey(f.order(1, cordon.RestrictOrder))
	stranger := func(o cordon.Order) string {
		jws, err := seal.Order(o, seedKey(9))
		if err != nil {
			t.Fatal(err)
		}
		return jws
	}
	signed := f.sign(f.order(2, cordon.UnrestrictOrder))
	head, rest, _ := strings.Cut(signed, ".")
	payload, signature, _ := strings.Cut(rest, ".")
	_, otherRest, _ := strings.Cut(f.sign(f.order(3, cordon.UnrestrictOrder)), ".")
	otherPayload, _, _ := strings.Cut(otherRest, ".")
	asReport, err := seal.Report(cordon.Report{Machine: f.id, Action: "a2", Generation: 2}, f.orderKey)
	if err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(filepath.Join(f.dir, disk.StateFile))
	if err != nil {
		t.Fatal(err)
	}
	outbox := f.outboxStates()
	for name, c := range map[string]struct {
		jws    string
		action cordon.ActionID // that the report names
		why    string
	}{
		"signed by somebody else":   {stranger(f.order(2, cordon.UnrestrictOrder)), "a2", "the signature was not made with the expected key"},
		"a known one, not verified": {stranger(f.order(1, cordon.UnrestrictOrder)), "a1", "the signature was not made with the expected key"},
		"content exchanged":         {head + "." + otherPayload + "." + signature, "a3", "the signature was not made with the expected key"},
		"signature cut off":         {head + "." + payload + ".", "a2", "the signature was not made with the expected key"},
		"not an order":              {asReport, "", "it is a cordon-report+jws, not a cordon-order+jws"},
		"nothing":                   {"", "", "it is not a compact JWS signed with EdDSA"},
		"noise":                     {"\x00\xff{}", "", "it is not a compact JWS signed with EdDSA"},
		"too long":                  {strings.Repeat("a", seal.MaxSize+1), "", "it is longer than"},
		"another machine's":         {f.sign(f.order(2, cordon.UnrestrictOrder, func(o *cordon.Order) { o.Machine = "m2" })), "a2", "the order is for machine m2, this is " + string(f.id)},
		"no action":                 {f.sign(f.order(2, cordon.UnrestrictOrder, func(o *cordon.Order) { o.Action = "" })), "", "the order names no generation or no action"},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := f.take(c.jws)
			if err == nil {
				t.Error("no error for the log")
			}
			if r.State != cordon.ReportRefused || r.Action != c.action || !strings.Contains(r.Error, c.why) {
				t.Errorf("report %s of %q: %s", r.State, r.Action, r.Error)
			}
			if r.Observed.Generation != 1 || !r.Observed.Restricted() {
				t.Errorf("observed: %+v", r.Observed)
			}
			after, err := os.ReadFile(filepath.Join(f.dir, disk.StateFile))
			if err != nil || string(after) != string(before) {
				t.Errorf("the state on disk changed (%v): %s", err, after)
			}
			if d := cmp.Diff(outbox, f.outboxStates()); d != "" {
				t.Errorf("outbox (-want +got):\n%s", d)
			}
		})
	}
	if n := len(f.kernel.calls()); n != 1 || f.kernel.inMode() != cordon.ModeEnforce {
		t.Errorf("%d switches, mode %s", n, f.kernel.inMode())
	}
}

// Each order gets one answer, whatever comes between and however often it is asked.
func TestTakeAnswers(t *testing.T) {
	expired := func(o *cordon.Order) { o.Expires = noon }
	type step struct {
		order cordon.Order
		state cordon.ReportState
		why   string
	}
	f := newFixture(t)
	steps := []step{
		{f.order(5, cordon.RestrictOrder), cordon.ReportSucceeded, ""},
		{f.order(5, cordon.RestrictOrder), cordon.ReportSucceeded, ""},
		{f.order(5, cordon.CancelOrder), cordon.ReportSucceeded, ""},
		{f.order(5, cordon.RestrictOrder, expired), cordon.ReportSucceeded, ""},
		{f.order(4, cordon.UnrestrictOrder), cordon.ReportCancelled, "generation 5 is in force, which is newer than the order's 4"},
		{f.order(5, cordon.UnrestrictOrder, func(o *cordon.Order) { o.Action = "b5" }), cordon.ReportCancelled, "generation 5 was already taken up by action a5"},
		{f.order(6, cordon.UnrestrictOrder, expired), cordon.ReportFailed, "the order expired at 2026-11-21T12:00:00Z, it is 2026-11-21T12:00:00Z"},
		{f.order(6, cordon.UnrestrictOrder), cordon.ReportFailed, "the order expired at 2026-11-21T12:00:00Z, it is 2026-11-21T12:00:00Z"},
		{f.order(7, "Isolate"), cordon.ReportFailed, `the order type "Isolate" is not known to this agent`},
		{f.order(8, cordon.CancelOrder), cordon.ReportCancelled, "cancelled before the machine began: why"},
		{f.order(8, cordon.UnrestrictOrder), cordon.ReportCancelled, "cancelled before the machine began: why"},
		{f.order(7, cordon.UnrestrictOrder, func(o *cordon.Order) { o.Action = "b7" }), cordon.ReportCancelled, "generation 8 is in force, which is newer than the order's 7"},
	}
	for range 2 { // the second time after a restart
		for i, s := range steps {
			r := f.obey(s.order)
			if r.State != s.state || r.Error != s.why || r.Action != s.order.Action || r.Generation != s.order.Generation {
				t.Errorf("step %d: %s of %s, generation %d: %q", i, r.State, r.Action, r.Generation, r.Error)
			}
		}
		want := cordon.Standing{
			Generation: 8, Action: "a8", Type: cordon.CancelOrder, Mode: cordon.ModeEnforce, Previous: cordon.ModeOff,
			Outcome: cordon.ReportCancelled, Error: "cancelled before the machine began: why",
		}
		if d := cmp.Diff(want, f.disk()); d != "" {
			t.Errorf("on disk (-want +got):\n%s", d)
		}
		if len(f.kernel.calls()) != 1 || f.kernel.inMode() != cordon.ModeEnforce {
			t.Errorf("switched %v", f.kernel.calls())
		}
		f.restart()
		if err := f.restore(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFailureLeavesThePreviousMode(t *testing.T) {
	f := newFixture(t)
	f.obey(f.order(1, cordon.RestrictOrder))
	f.kernel.failOn(cordon.ModeOff, errors.New("the mark could not be removed"))
	r := f.obey(f.order(2, cordon.UnrestrictOrder))
	if r.State != cordon.ReportFailed || r.Error != "the mark could not be removed" {
		t.Errorf("%s: %s", r.State, r.Error)
	}
	want := cordon.Standing{
		Generation: 2, Action: "a2", Type: cordon.UnrestrictOrder, Mode: cordon.ModeEnforce, Previous: cordon.ModeEnforce,
		Outcome: cordon.ReportFailed, Error: "the mark could not be removed",
	}
	if d := cmp.Diff(want, f.disk()); d != "" {
		t.Errorf("on disk (-want +got):\n%s", d)
	}
	f.restart()
	if err := f.restore(t.Context()); err != nil || f.kernel.inMode() != cordon.ModeEnforce {
		t.Errorf("after a restart in mode %s, %v", f.kernel.inMode(), err)
	}
	if r := f.obey(f.order(2, cordon.UnrestrictOrder)); r.State != cordon.ReportFailed {
		t.Errorf("asked again: %s", r.State)
	}
}

func TestLongReasonIsClipped(t *testing.T) {
	f := newFixture(t)
	f.kernel.failOn(cordon.ModeEnforce, errors.New(strings.Repeat("\x01é", 200_000)))
	r := f.obey(f.order(1, cordon.RestrictOrder))
	if n := len([]rune(r.Error)); r.State != cordon.ReportFailed || n != cordon.MaxComment {
		t.Errorf("%s with a reason of %d characters", r.State, n)
	}
}

// An order that a stop interrupts is neither done nor failed: the next start
// finishes it and reports.
func TestStopInTheMiddle(t *testing.T) {
	for name, fail := range map[string]error{"then it succeeds": nil, "then it fails": errors.New("the canary ran")} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.obey(f.order(1, cordon.RestrictOrder))
			release := f.kernel.holdNext()
			ctx, stop := context.WithCancel(t.Context())
			done := make(chan string, 1)
			go func() {
				report, err := f.takeUp(ctx, f.sign(f.order(2, cordon.UnrestrictOrder)), false, nil)
				done <- report + err.Error()
			}()
			f.kernel.awaitCalls(2)
			stop()
			if got := <-done; got != "order interrupted, to be finished at the next start: context canceled" {
				t.Error(got)
			}
			release()
			if s := f.disk(); s.Generation != 2 || s.Outcome != "" || s.Mode != cordon.ModeOff || s.Previous != cordon.ModeEnforce {
				t.Errorf("on disk: %+v", s)
			}
			if d := cmp.Diff([]string{"a1 Succeeded"}, f.outboxStates()); d != "" {
				t.Errorf("outbox (-want +got):\n%s", d)
			}

			f.restart()
			f.kernel.failOn(cordon.ModeOff, fail)
			if !f.Status().Applying {
				t.Error("status does not say that an order is under way")
			}
			if err := f.restore(t.Context()); err != nil {
				t.Fatal(err)
			}
			want, mode := "a2 Succeeded", cordon.ModeOff
			if fail != nil {
				want, mode = "a2 Failed", cordon.ModeEnforce
			}
			if d := cmp.Diff([]string{"a1 Succeeded", want}, f.outboxStates()); d != "" {
				t.Errorf("outbox (-want +got):\n%s", d)
			}
			if f.kernel.inMode() != mode || f.disk().Mode != mode || f.Status().Applying {
				t.Errorf("in mode %s, on disk %+v", f.kernel.inMode(), f.disk())
			}
		})
	}
}

// Without a Restore in between, the next order finishes the interrupted one first.
func TestNextOrderFinishesTheInterruptedOne(t *testing.T) {
	f := newFixture(t)
	ctx, stop := context.WithCancel(t.Context())
	stop()
	f.kernel.holdNext()
	if report, err := f.takeUp(ctx, f.sign(f.order(1, cordon.RestrictOrder)), false, nil); report != "" || err == nil {
		t.Fatalf("%s, %v", report, err)
	}
	f.kernel.mu.Lock()
	f.kernel.hold = nil
	f.kernel.mu.Unlock()
	if r := f.obey(f.order(1, cordon.RestrictOrder)); r.State != cordon.ReportSucceeded {
		t.Errorf("%s: %s", r.State, r.Error)
	}
	if d := cmp.Diff([]string{"a1 Succeeded"}, f.outboxStates()); d != "" {
		t.Errorf("outbox (-want +got):\n%s", d)
	}
}

func TestRestoreOfWhatWasNeverTold(t *testing.T) {
	f := newFixture(t)
	if err := f.restore(t.Context()); err != nil || len(f.kernel.calls()) != 0 {
		t.Errorf("switched %v, %v", f.kernel.calls(), err)
	}
	// A machine whose first order was cancelled was told nothing to do either.
	f.obey(f.order(1, cordon.CancelOrder))
	f.restart()
	if err := f.restore(t.Context()); err != nil || f.kernel.inMode() != cordon.ModeOff || f.disk().Mode != cordon.ModeOff {
		t.Errorf("in mode %q, on disk %+v, %v", f.kernel.inMode(), f.disk(), err)
	}
}

func TestKeepRestored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.obey(f.order(1, cordon.RestrictOrder))
		f.restart()
		f.kernel.failOn(cordon.ModeEnforce, errors.New("no trust set yet"))
		var runs int
		f.KeepRestored(t.Context(), func(run func()) { runs++; go run() })
		time.Sleep(3*restoreAgain + time.Second)
		if n := len(f.kernel.calls()); runs != 1 || n != 4 {
			t.Errorf("%d loops, %d tries", runs, n)
		}
		// A cancelled order changes the generation, not what has to be restored.
		f.obey(f.order(2, cordon.CancelOrder))
		f.kernel.failOn(cordon.ModeEnforce, nil)
		time.Sleep(restoreAgain)
		synctest.Wait()
		if f.kernel.inMode() != cordon.ModeEnforce {
			t.Errorf("in mode %s", f.kernel.inMode())
		}
		time.Sleep(10 * restoreAgain)
		if n := len(f.kernel.calls()); n != 5 {
			t.Errorf("%d tries in all", n)
		}
	})
}

// What cannot be stored is not done.
func TestDiskFullBefore(t *testing.T) {
	f := newFixture(t)
	f.obey(f.order(1, cordon.RestrictOrder))
	for _, o := range []cordon.Order{
		f.order(2, cordon.UnrestrictOrder), f.order(2, cordon.CancelOrder), f.order(1, cordon.UnrestrictOrder, func(o *cordon.Order) { o.Action = "b1" }),
		f.order(2, cordon.UnrestrictOrder, func(o *cordon.Order) { o.Expires = noon }),
	} {
		before := f.disk()
		breakDisk(t, f.dir, true)
		r, err := f.take(f.sign(o))
		if err == nil || r.State != cordon.ReportRefused || !strings.Contains(r.Error, "could not be stored: save state.json: ") {
			t.Errorf("%s %s: %s, %v", o.Type, o.Action, r.Error, err)
		}
		if r.Observed.Generation != 1 || f.Status().Standing != before {
			t.Errorf("%s %s: stands at %+v", o.Type, o.Action, f.Status().Standing)
		}
		breakDisk(t, f.dir, false)
		if d := cmp.Diff(before, f.disk()); d != "" {
			t.Errorf("on disk (-want +got):\n%s", d)
		}
	}
	if len(f.kernel.calls()) != 1 || f.kernel.inMode() != cordon.ModeEnforce {
		t.Errorf("switched %v", f.kernel.calls())
	}
	if r := f.obey(f.order(2, cordon.UnrestrictOrder)); r.State != cordon.ReportSucceeded {
		t.Errorf("after the disk was mended: %s", r.State)
	}
}

// cramped finds no room on the disk for as long as there is the reserve.
type cramped struct{ *kernel }

func (c cramped) Switch(ctx context.Context, mode cordon.Mode) error {
	if _, err := os.Stat(filepath.Join(c.dir, disk.ReserveFile)); err == nil {
		return fmt.Errorf("self-test: %w", unix.ENOSPC)
	}
	return c.kernel.Switch(ctx, mode)
}

// What is done about an order may use the room that is kept for orders, and a
// restart keeps what is left.
func TestDiskFullWhileSwitching(t *testing.T) {
	f := newFixture(t)
	f.Use(cramped{f.kernel})
	for i, typ := range []cordon.OrderType{cordon.RestrictOrder, cordon.UnrestrictOrder} {
		if r := f.obey(f.order(uint64(i+1), typ)); r.State != cordon.ReportSucceeded {
			t.Errorf("%s: %s, %s", typ, r.State, r.Error)
		}
	}
	f.restart()
	f.Use(cramped{f.kernel})
	if err := f.restore(t.Context()); err != nil {
		t.Errorf("restored: %v", err)
	}
}

// breaker breaks the disk while it switches.
type breaker struct {
	*kernel
	err error
}

func (b breaker) Switch(context.Context, cordon.Mode) error {
	breakDisk(b.t, b.dir, true)
	return b.err
}

// A success that cannot be stored is said, because it is true; a failure is not,
// because after a crash the order would be tried again.
func TestDiskFullAfter(t *testing.T) {
	f := newFixture(t)
	f.Use(breaker{f.kernel, nil})
	if r := f.obey(f.order(1, cordon.RestrictOrder)); r.State != cordon.ReportSucceeded {
		t.Errorf("%s: %s", r.State, r.Error)
	}
	if r := f.obey(f.order(1, cordon.RestrictOrder)); !strings.Contains(r.Observed.Problem, "the last outcome could not be stored and may be forgotten at the next start") {
		t.Errorf("problem: %q", r.Observed.Problem)
	}
	if s := f.disk(); s.Outcome != "" {
		t.Errorf("on disk: %+v", s)
	}
	breakDisk(t, f.dir, false)

	f = newFixture(t)
	f.Use(breaker{f.kernel, errors.New("the canary ran")})
	if report, err := f.takeUp(t.Context(), f.sign(f.order(1, cordon.RestrictOrder)), false, nil); report != "" || err == nil {
		t.Errorf("%s, %v", report, err)
	}
	breakDisk(t, f.dir, false)
	f.Use(f.kernel)
	if r := f.obey(f.order(1, cordon.RestrictOrder)); r.State != cordon.ReportSucceeded {
		t.Errorf("tried again: %s, %s", r.State, r.Error)
	}
}

func TestInProgressOnlyWhenSlow(t *testing.T) {
	for name, c := range map[string]struct {
		takes time.Duration
		want  []cordon.ReportState
	}{
		"fast": {noticeable - time.Millisecond, nil},
		"slow": {time.Hour, []cordon.ReportState{cordon.ReportInProgress}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t)
				release := f.kernel.holdNext()
				time.AfterFunc(c.takes, release)
				var said []cordon.ReportState
				report, err := f.takeUp(t.Context(), f.sign(f.order(1, cordon.RestrictOrder)), false, func(jws string) {
					r := f.read(jws)
					if r.Action != "a1" || r.Generation != 1 || r.Observed.Restricted() {
						t.Errorf("%+v", r)
					}
					said = append(said, r.State)
				})
				if err != nil || f.read(report).State != cordon.ReportSucceeded {
					t.Errorf("%s, %v", report, err)
				}
				if d := cmp.Diff(c.want, said); d != "" {
					t.Errorf("said meanwhile (-want +got):\n%s", d)
				}
				if d := cmp.Diff([]string{"a1 Succeeded"}, f.outboxStates()); d != "" {
					t.Errorf("outbox (-want +got):\n%s", d)
				}
			})
		})
	}
}

// While one order is being applied the agent still says how it stands and
// hears what is settled; another order waits.
func TestNothingElseWaitsForAnOrder(t *testing.T) {
	f := newFixture(t)
	f.obey(f.order(1, cordon.RestrictOrder))
	release := f.kernel.holdNext()
	states := make(chan cordon.ReportState, 2)
	for _, o := range []cordon.Order{f.order(2, cordon.UnrestrictOrder), f.order(3, cordon.RestrictOrder)} {
		go func() {
			report, _ := f.takeUp(t.Context(), f.sign(o), false, nil)
			states <- f.read(report).State
		}()
		f.kernel.awaitCalls(2)
	}
	if s := f.Status(); !s.Applying || s.Standing.Generation != 2 {
		t.Errorf("status: %+v", s)
	}
	if m := f.ask(); m.Observed.Generation != 2 {
		t.Errorf("asks: %+v", m)
	}
	f.hear(t.Context(), wire.FromServer{Settled: []cordon.ActionID{"a1"}})
	if f.Status().Unsettled != 0 {
		t.Error("not settled")
	}
	if n := len(f.kernel.calls()); n != 2 {
		t.Errorf("%d orders are being applied at once", n-1)
	}
	release()
	for range 2 {
		if s := <-states; s != cordon.ReportSucceeded {
			t.Error(s)
		}
	}
	if s := f.disk(); s.Generation != 3 || f.kernel.inMode() != cordon.ModeEnforce {
		t.Errorf("on disk %+v, in mode %s", s, f.kernel.inMode())
	}
}

// Expiry is judged by the server's clock where it is known, by this machine's
// own for a carried order.
func TestWhoseClockJudges(t *testing.T) {
	for name, c := range map[string]struct {
		server  time.Time // its clock; zero: not heard
		own     time.Time
		carried bool
		want    cordon.ReportState
	}{
		"both right":                    {noon, noon, false, cordon.ReportSucceeded},
		"own clock days ahead":          {noon, hours(100), false, cordon.ReportSucceeded},
		"own clock days behind":         {hours(100), noon, false, cordon.ReportFailed},
		"own clock years behind":        {noon, time.Unix(0, 0), false, cordon.ReportSucceeded},
		"never heard, in time":          {time.Time{}, noon, false, cordon.ReportSucceeded},
		"never heard, late":             {time.Time{}, hours(72), false, cordon.ReportFailed},
		"carried, server's clock ahead": {hours(100), noon, true, cordon.ReportSucceeded},
		"carried, late":                 {noon, hours(72), true, cordon.ReportFailed},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.now = c.own
			if !c.server.IsZero() {
				m := f.ask()
				f.hear(t.Context(), wire.FromServer{Time: f.signTime(seal.Time{Machine: f.id, Nonce: m.Nonce, Now: c.server})})
			}
			report, err := f.takeUp(t.Context(), f.sign(f.order(1, cordon.RestrictOrder)), c.carried, nil)
			if err != nil {
				t.Fatal(err)
			}
			r := f.read(report)
			if r.State != c.want {
				t.Errorf("%s: %s", r.State, r.Error)
			}
			want := int64(0)
			if !c.server.IsZero() {
				want = c.server.Sub(c.own).Milliseconds()
			}
			if r.Observed.ClockOffset != want {
				t.Errorf("clock offset %d ms, want %d", r.Observed.ClockOffset, want)
			}
		})
	}
}

func (f *fixture) signTime(st seal.Time) string {
	f.t.Helper()
	jws, err := seal.SignTime(st, f.orderKey)
	if err != nil {
		f.t.Fatal(err)
	}
	return jws
}

// Only the server's answer to the last question tells the time.
func TestTimeIsNotBelieved(t *testing.T) {
	f := newFixture(t)
	nonce := f.ask().Nonce
	old := f.signTime(seal.Time{Machine: f.id, Nonce: nonce, Now: hours(1)})
	nonce = f.ask().Nonce
	wrongKey, err := seal.SignTime(seal.Time{Machine: f.id, Nonce: nonce, Now: hours(1)}, seedKey(9))
	if err != nil {
		t.Fatal(err)
	}
	for name, jws := range map[string]string{
		"an old one":        old,
		"another machine's": f.signTime(seal.Time{Machine: "m2", Nonce: nonce, Now: hours(1)}),
		"no nonce":          f.signTime(seal.Time{Machine: f.id, Now: hours(1)}),
		"the wrong key":     wrongKey,
		"an order":          f.sign(f.order(1, cordon.RestrictOrder)),
		"noise":             "x",
	} {
		f.hear(t.Context(), wire.FromServer{Time: jws})
		if got := f.Status().Observed.ClockOffset; got != 0 {
			t.Errorf("%s: offset %d ms", name, got)
		}
	}
	f.hear(t.Context(), wire.FromServer{Time: f.signTime(seal.Time{Machine: f.id, Nonce: nonce, Now: hours(1)})})
	if got := f.Status().Observed.ClockOffset; got != time.Hour.Milliseconds() {
		t.Errorf("the right one: offset %d ms", got)
	}
}

// An answer that a long poll held back counts from when it was asked for.
func TestTimeThatCameLate(t *testing.T) {
	f := newFixture(t)
	jws := f.signTime(seal.Time{Machine: f.id, Nonce: f.ask().Nonce, Now: noon})
	f.now = noon.Add(wire.MaxWait)
	f.hear(t.Context(), wire.FromServer{Time: jws})
	if got := f.Status().Observed.ClockOffset; got != 0 {
		t.Errorf("offset %d ms", got)
	}
}

func TestNotEnrolled(t *testing.T) {
	f := newFixture(t)
	f.dir = t.TempDir()
	f.restart()
	if report, err := f.takeUp(t.Context(), f.sign(f.order(1, cordon.RestrictOrder)), true, nil); report != "" || err == nil {
		t.Errorf("%q, %v", report, err)
	}
	if len(f.kernel.calls()) != 0 {
		t.Error("obeyed nobody")
	}
}

// Nothing that a server, or whoever plays it, can say moves the machine without
// the order key.
func FuzzMessage(f *testing.F) {
	fx := newFixture(f)
	fx.obey(fx.order(1, cordon.RestrictOrder))
	stranger, err := seal.Order(fx.order(2, cordon.UnrestrictOrder), seedKey(9))
	if err != nil {
		f.Fatal(err)
	}
	before := fx.disk()
	f.Add(`{}`)
	f.Add(`{"capability":1,"time":"x","orders":["","a.b.c"],"settled":["a1"],"now":"2026-11-21T12:00:00Z"}`)
	f.Add(`{"orders":["` + stranger + `"]}`)
	f.Add(`{"orders":null,"settled":[""]}`)
	f.Fuzz(func(t *testing.T, text string) {
		fx.t, fx.kernel.t = t, t
		var m wire.FromServer
		if json.Unmarshal([]byte(text), &m) != nil {
			return
		}
		fx.hear(t.Context(), m)
		reports, _ := fx.takeAll(t.Context(), m.Orders, nil)
		for _, jws := range reports {
			if r := fx.read(jws); r.State != cordon.ReportRefused {
				t.Errorf("answered with %s", r.State)
			}
		}
		if len(fx.kernel.calls()) != 1 || fx.disk() != before {
			t.Errorf("switched %v, on disk %+v", fx.kernel.calls(), fx.disk())
		}
	})
}
