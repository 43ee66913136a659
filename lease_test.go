package cordon_test

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/seal"
)

func TestCheckLease(t *testing.T) {
	for d, good := range map[time.Duration]bool{
		0: true, cordon.MinLease: true, cordon.MaxLease: true, 24 * time.Hour: true,
		-1: false, -time.Hour: false, cordon.MinLease - 1: false, cordon.MaxLease + time.Second: false, 90*time.Second + 1: false,
	} {
		if err := cordon.CheckLease(d); (err == nil) != good || err != nil && cordon.KindOf(err) != cordon.Invalid {
			t.Errorf("%s: %v", d, err)
		}
	}
}

func TestSilenceUntil(t *testing.T) {
	at := func(boot string, at time.Duration) cordon.BootTime { return cordon.BootTime{Boot: boot, At: at} }
	for name, c := range map[string]struct {
		s    cordon.Silence
		now  cordon.BootTime
		want time.Duration
	}{
		"time passed":         {cordon.Silence{Length: 5, Read: at("a", 100)}, at("a", 130), 35},
		"no time":             {cordon.Silence{Length: 5, Read: at("a", 100)}, at("a", 100), 5},
		"the clock went back": {cordon.Silence{Length: 5, Read: at("a", 100)}, at("a", 30), 5},
		"another boot counts from its start, however long the machine was off": {cordon.Silence{Length: 5, Read: at("a", 100)}, at("b", 30), 35},
		"never read":         {cordon.Silence{}, at("a", 30), 30},
		"as long as it gets": {cordon.Silence{Length: 1 << 62, Read: at("a", 0)}, at("a", 1<<62), 1 << 62},
	} {
		if got := c.s.Until(c.now); got.Length != c.want {
			t.Errorf("%s: %d, want %d", name, got.Length, c.want)
		}
	}
}

func TestJudgeLease(t *testing.T) {
	lease := cordon.Lease{Action: "a", Seconds: 60}
	lapsed := lease
	lapsed.Lapsed = true
	held := cordon.Standing{Generation: 1, Action: "a", Type: cordon.RestrictOrder, Mode: cordon.ModeEnforce, Outcome: cordon.ReportSucceeded, Lease: lease}
	fallen := held
	fallen.Mode, fallen.Lease = cordon.ModeAudit, lapsed
	with := func(s cordon.Standing, change func(*cordon.Standing)) cordon.Standing { change(&s); return s }
	for name, c := range map[string]struct {
		s      cordon.Standing
		silent time.Duration
		want   cordon.LeaseVerdict
	}{
		"heard":                        {held, 0, cordon.LeaseHolds},
		"just in time":                 {held, time.Minute - 1, cordon.LeaseHolds},
		"over":                         {held, time.Minute, cordon.LeaseEnds},
		"long over":                    {held, 1 << 60, cordon.LeaseEnds},
		"no lease":                     {with(held, func(s *cordon.Standing) { s.Lease = cordon.Lease{} }), 1 << 60, cordon.LeaseHolds},
		"a lease below zero":           {with(held, func(s *cordon.Standing) { s.Lease.Seconds = -1 }), 1 << 60, cordon.LeaseHolds},
		"an order is being applied":    {with(held, func(s *cordon.Standing) { s.Outcome = "" }), time.Hour, cordon.LeaseHolds},
		"not restricted":               {with(held, func(s *cordon.Standing) { s.Mode = cordon.ModeOff }), time.Hour, cordon.LeaseHolds},
		"a later order was cancelled":  {with(held, func(s *cordon.Standing) { s.Outcome, s.Type = cordon.ReportCancelled, cordon.CancelOrder }), time.Hour, cordon.LeaseEnds},
		"lapsed and silent":            {fallen, time.Hour, cordon.LeaseHolds},
		"lapsed and heard":             {fallen, 0, cordon.LeaseAgain},
		"lapsed, heard some time ago":  {fallen, time.Minute - 1, cordon.LeaseAgain},
		"never told anything":          {cordon.Standing{}, 1 << 60, cordon.LeaseHolds},
		"lapsed, and an order is open": {with(fallen, func(s *cordon.Standing) { s.Outcome = "" }), 0, cordon.LeaseHolds},
	} {
		if got := cordon.JudgeLease(c.s, cordon.Silence{Length: c.silent}); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

// Whatever a machine goes through (it runs, sleeps, is switched off, loses what it
// had not stored), its restriction does not lapse before it has run for the time of
// the lease without hearing its server, and does when it has and nothing was lost.
func TestLeaseNeverEndsEarly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		lease := rapid.Int64Range(1, 1000).Draw(t, "lease")
		s := cordon.Standing{Mode: cordon.ModeEnforce, Outcome: cordon.ReportSucceeded, Lease: cordon.Lease{Seconds: lease}}
		now := cordon.BootTime{Boot: "0", At: time.Duration(rapid.Int64Range(0, 1e12).Draw(t, "start"))}
		mem := cordon.Silence{Read: now}
		disk, ran, lost := mem, time.Duration(0), false
		boots := 0
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			switch rapid.IntRange(0, 4).Draw(t, "step") {
			case 0, 1: // it runs, asleep or awake
				d := time.Duration(rapid.Int64Range(0, 2*lease).Draw(t, "seconds")) * time.Second
				now.At += d
				ran += d
			case 2:
				disk = mem.Until(now)
				mem = disk
			case 3: // it starts anew: nobody knows for how long it was off
				boots++
				lost = lost || mem.Until(now) != disk
				now = cordon.BootTime{Boot: string(rune('0' + boots)), At: 0}
				mem = disk
			case 4:
				if rapid.IntRange(0, 3).Draw(t, "heard") == 0 {
					mem, ran, lost = cordon.Silence{Read: now}, 0, false
					disk = mem
				}
			}
			silence, term := mem.Until(now), time.Duration(lease)*time.Second
			ends := cordon.JudgeLease(s, silence) == cordon.LeaseEnds
			if silence.Length > ran || ends && ran < term {
				t.Fatalf("after %s of %s it counts %s", ran, term, silence.Length)
			}
			if !lost && ran >= term && !ends {
				t.Fatalf("after %s of %s it goes on", ran, term)
			}
		}
	})
}

func TestLeaseReportID(t *testing.T) {
	ids := make(map[cordon.ActionID]bool)
	for _, m := range []cordon.MachineID{"m", "n"} {
		for _, a := range []cordon.ActionID{"a", "b"} {
			for _, typ := range []cordon.OrderType{cordon.LeaseLapsed, cordon.LeaseRenewed} {
				for _, at := range []cordon.BootTime{{Boot: "x", At: 1}, {Boot: "x", At: 2}, {Boot: "y", At: 1}} {
					id := cordon.LeaseReportID(m, a, typ, at)
					if len(id) != 36 || id[14] != '8' || ids[id] {
						t.Errorf("id %s", id)
					}
					ids[id] = true
				}
			}
		}
	}
}

// The lease is said in the action, in the audit log, and in the order; and what
// the machine says of it goes to the log of its action, once.
func TestLeaseInTheService(t *testing.T) {
	w := newWorld(t)
	m, err := w.Find(t.Context(), soar, cordon.RestrictAction, string(web))
	if err != nil {
		t.Fatal(err)
	}
	w.DefaultLease = time.Hour
	a, err := w.Request(t.Context(), soar, m, cordon.RestrictCodeExecution, "why")
	if err != nil || a.Lease != time.Hour || a.Comment != "why" {
		t.Fatalf("%+v, %v", a, err)
	}
	if o := a.Order(w.now); o.Policy.LeaseSeconds != 3600 {
		t.Errorf("%+v", o)
	}
	cancelled := a
	cancelled.Cancel = &cordon.Cancellation{}
	if o := cancelled.Order(w.now); o.Policy != (cordon.Policy{}) {
		t.Errorf("a cancellation carries a lease: %+v", o)
	}
	entries, err := w.Evidence(t.Context(), soar, a.ID)
	if err != nil || entries[0].Detail != "why (with a lease of 1h0m0s)" {
		t.Errorf("%+v, %v", entries, err)
	}
	release, err := w.Request(t.Context(), soar, m, cordon.UnrestrictCodeExecution, "why")
	if err != nil || release.Lease != 0 {
		t.Errorf("%+v, %v", release, err)
	}
	second, err := w.Find(t.Context(), soar, cordon.RestrictAction, string(db))
	if err != nil {
		t.Fatal(err)
	}
	other, err := w.Restrict(t.Context(), soar, second, "why", 0)
	if err != nil || other.Lease != 0 {
		t.Errorf("%+v, %v", other, err)
	}
	if _, err := w.Restrict(t.Context(), soar, m, "why", time.Second); cordon.KindOf(err) != cordon.Invalid {
		t.Errorf("a second: %v", err)
	}

	r := cordon.Report{Machine: m.ID, Action: "00000000-0000-8000-8000-000000000001", Generation: 1, Type: cordon.LeaseLapsed, State: cordon.ReportSucceeded,
		Observed: cordon.Observed{Generation: 1, Mode: cordon.ModeAudit, InForce: true, Lease: cordon.LeaseState{Action: a.ID, Seconds: 1 << 62, Silent: 3600, Lapsed: true}}} // the log says what was granted
	for range 2 {
		if _, err := w.Report(t.Context(), m.ID, r, "lapsed"); err != nil {
			t.Fatal(err)
		}
	}
	renewed := r
	renewed.Type, renewed.Observed.Mode, renewed.Observed.Lease.Lapsed = cordon.LeaseRenewed, cordon.ModeEnforce, false
	renewed.Observed.Lease.Seconds = 3600
	if _, err := w.Report(t.Context(), m.ID, renewed, "renewed"); err != nil {
		t.Fatal(err)
	}
	entries, err = w.Evidence(t.Context(), soar, a.ID)
	var said []string
	for _, e := range entries {
		if e.Kind == cordon.AuditLease {
			said = append(said, e.Evidence+": "+e.Detail[:30])
		}
	}
	if want := "lapsed: the lease of 1h0m0s lapsed: th, renewed: the machine heard the server a"; err != nil || strings.Join(said, ", ") != want {
		t.Errorf("%q, %v", said, err)
	}
	if m, err := w.Store.Machine(t.Context(), m.ID); err != nil || m.Observed.Lease.Seconds != 3600 || m.Observed.Lease.Lapsed {
		t.Errorf("%+v, %v", m.Observed, err)
	}
	for name, change := range map[string]func(*cordon.Report){
		"another machine's action":  func(r *cordon.Report) { r.Observed.Lease.Action = other.ID },
		"an action without a lease": func(r *cordon.Report) { r.Observed.Lease.Action = release.ID },
		"no action":                 func(r *cordon.Report) { r.Observed.Lease.Action = "x" },
	} {
		bad := r
		change(&bad)
		if _, err := w.Report(t.Context(), m.ID, bad, name); cordon.KindOf(err) != cordon.Forbidden {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A machine that does not know leases reads the order as one without.
func TestOrderWithALeaseOnTheWire(t *testing.T) {
	jws, err := seal.Order(cordon.Order{Policy: cordon.Policy{LeaseSeconds: 60}}, make([]byte, 64))
	if err != nil {
		t.Fatal(err)
	}
	if o, ok := seal.ClaimedOrder(jws); !ok || o.Policy.LeaseSeconds != 60 {
		t.Errorf("%+v", o)
	}
}
