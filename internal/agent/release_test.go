package agent

import (
	"strings"
	"testing"
	"time"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/seal"
)

func (f *fixture) release(g uint64, with ...func(*cordon.Release)) string {
	f.t.Helper()
	r := cordon.Release{Machine: f.id, Generation: g, NotBefore: noon, Expires: hours(24), Nonce: [4]byte{byte(g)}}
	for _, w := range with {
		w(&r)
	}
	jws, err := seal.Release(r, f.orderKey)
	if err != nil {
		f.t.Fatal(err)
	}
	return jws
}

func (f *fixture) carry(text string) (cordon.Report, error) {
	f.t.Helper()
	report, err := f.takeCarried(f.t.Context(), text)
	if report == "" {
		return cordon.Report{}, err
	}
	return f.read(report), err
}

func TestBreakGlass(t *testing.T) {
	f := newFixture(t)
	f.obey(f.order(3, cordon.RestrictOrder))
	refused := func(what, text, why string) {
		t.Helper()
		r, err := f.carry(text)
		if err == nil || r.State != "" && r.State != cordon.ReportRefused || !strings.Contains(err.Error(), why) || f.kernel.inMode() != cordon.ModeEnforce {
			t.Errorf("%s: %+v, %v, in mode %s", what, r, err, f.kernel.inMode())
		}
	}
	refused("another machine's", f.release(3, func(r *cordon.Release) { r.Machine = cordon.MachineID(strings.Repeat("0", 40)) }), "is for machine 0000")
	refused("expired", f.release(3, func(r *cordon.Release) { r.Expires = noon }), "expired at")
	refused("too early", f.release(3, func(r *cordon.Release) { r.NotBefore = noon.Add(time.Second) }), "not valid before")
	refused("older", f.release(2), "generation 3 is in force")
	forged, err := seal.Release(cordon.Release{Machine: f.id, Generation: 3, NotBefore: noon, Expires: hours(24)}, seedKey(9))
	if err != nil {
		t.Fatal(err)
	}
	refused("forged", forged, "expected key")
	refused("no code", "0123", "line 1 of the code")
	if report, err := f.takeUp(t.Context(), f.release(3), false, nil); err == nil || f.read(report).State != cordon.ReportRefused || f.kernel.inMode() != cordon.ModeEnforce {
		t.Errorf("over a connection: %v", err)
	}

	good := f.release(3)
	lines, err := seal.ReleaseCode(good)
	if err != nil {
		t.Fatal(err)
	}
	r, err := f.carry(strings.Join(lines, "\n"))
	want := cordon.Release{Machine: f.id, Generation: 3, NotBefore: noon, Expires: hours(24), Nonce: [4]byte{3}}.ID()
	if err != nil || r.State != cordon.ReportSucceeded || r.Type != cordon.BreakGlass || r.Action != want || r.Observed.Order != cordon.BreakGlass || f.kernel.inMode() != cordon.ModeOff {
		t.Fatalf("%+v, %v, in mode %s", r, err, f.kernel.inMode())
	}
	if states := f.outboxStates(); states[len(states)-1] != string(want)+" Succeeded" {
		t.Errorf("the server is not told: %q", states)
	}
	f.restart()
	if err := f.restore(t.Context()); err != nil || f.kernel.inMode() != cordon.ModeOff {
		t.Errorf("after a reboot: %v, in mode %s", err, f.kernel.inMode())
	}
	// An order of that generation or an older one comes too late, a newer one is obeyed.
	if r := f.obey(f.order(2, cordon.RestrictOrder)); r.State != cordon.ReportCancelled {
		t.Errorf("an older order: %+v", r)
	}
	if r := f.obey(f.order(3, cordon.RestrictOrder, func(o *cordon.Order) { o.Action = "b3" })); r.State != cordon.ReportCancelled || !strings.Contains(r.Error, "was already taken up by action "+string(want)) {
		t.Errorf("one of its generation: %+v", r)
	}
	if _, err := f.carry(good); err == nil || !strings.Contains(err.Error(), "used already") {
		t.Errorf("replayed: %v", err)
	}
	if r := f.obey(f.order(4, cordon.RestrictOrder)); r.State != cordon.ReportSucceeded || f.kernel.inMode() != cordon.ModeEnforce {
		t.Errorf("a newer order: %+v", r)
	}
	refused("replayed after a newer order", good, "generation 4 is in force")
}

// A clock that somebody set back does not make an old release good, and is named.
func TestBreakGlassKnowsAWrongClock(t *testing.T) {
	f := newFixture(t)
	f.obey(f.order(3, cordon.RestrictOrder))
	f.mu.Lock()
	f.st.Heard = hours(30)
	f.mu.Unlock()
	f.now = hours(1)
	_, err := f.carry(f.release(3))
	if err == nil || !strings.Contains(err.Error(), "expired at") || !strings.Contains(err.Error(), "this machine's clock is plainly wrong: it says 2026-11-21T13:00:00Z") || f.kernel.inMode() != cordon.ModeEnforce {
		t.Errorf("%v, in mode %s", err, f.kernel.inMode())
	}
}
