package agent

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/seal"
	"github.com/cordon-project/cordon/internal/testkit/memnet"
	"github.com/cordon-project/cordon/internal/wire"
	"github.com/cordon-project/cordon/test/lab"
)

func lease(d time.Duration) func(*cordon.Order) {
	return func(o *cordon.Order) { o.Policy.LeaseSeconds = int64(d / time.Second) }
}

// pass lets the machine run, and looks at the lease.
func (f *fixture) pass(d time.Duration) {
	f.boot.At += d
	f.tendLease(f.t.Context())
}

// hearFrom is a contact: the server answers the last question with these orders.
func (f *fixture) hearFrom(orders ...string) {
	f.t.Helper()
	nonce := f.ask().Nonce
	jws, err := seal.SignTime(seal.Time{Machine: f.id, Nonce: nonce, Now: f.now}, f.orderKey)
	if err != nil {
		f.t.Fatal(err)
	}
	f.hear(f.t.Context(), wire.FromServer{Time: jws, Orders: orders})
	for _, o := range orders {
		if _, err := f.takeUp(f.t.Context(), o, false, nil); err != nil {
			f.t.Fatal(err)
		}
	}
	f.renew(f.t.Context())
	f.tendLease(f.t.Context())
}

func (f *fixture) mustBe(what string, mode cordon.Mode) {
	f.t.Helper()
	if got, disk := f.kernel.inMode(), f.disk().Mode; got != mode || disk != mode {
		f.t.Fatalf("%s: the machine is in mode %s, the disk says %s, want %s", what, got, disk, mode)
	}
}

// told lists the reports on leases that are in the outbox.
func (f *fixture) told() (types []cordon.OrderType) {
	for _, jws := range f.outbox() {
		if r := f.read(jws); r.Type != "" {
			types = append(types, r.Type)
		}
	}
	return types
}

func TestLease(t *testing.T) {
	f := newFixture(t)
	f.obey(f.order(1, cordon.RestrictOrder, lease(time.Hour)))
	f.pass(40 * time.Minute)
	f.hearFrom()
	f.pass(59 * time.Minute)
	f.mustBe("heard in time", cordon.ModeEnforce)

	// Setting the clock, forward or back, counts for nothing.
	f.now = f.now.AddDate(10, 0, 0)
	f.pass(0)
	f.now = f.now.AddDate(-30, 0, 0)
	f.pass(0)
	f.mustBe("the clock was set", cordon.ModeEnforce)

	// Nor does a word that is not signed, or not for this machine, or not an answer.
	for _, say := range []seal.Time{
		{Machine: f.id, Nonce: "old", Now: f.now},
		{Machine: "somebody", Nonce: f.ask().Nonce, Now: f.now},
	} {
		jws, err := seal.SignTime(say, f.orderKey)
		if err != nil {
			t.Fatal(err)
		}
		f.hear(t.Context(), wire.FromServer{Time: jws})
	}
	f.hear(t.Context(), wire.FromServer{})

	f.pass(time.Minute)
	f.mustBe("silent for an hour", cordon.ModeAudit)
	if calls := f.kernel.calls(); !calls[len(calls)-1].standing.Lease.Lapsed {
		t.Errorf("it acted before it was on disk: %+v", calls)
	}
	if told := f.told(); !slices.Equal(told, []cordon.OrderType{cordon.LeaseLapsed}) {
		t.Errorf("told %q", told)
	}
	r := f.read(f.outbox()[1])
	want := cordon.LeaseState{Action: "a1", Seconds: 3600, Silent: 3600, Lapsed: true}
	if r.State != cordon.ReportSucceeded || r.Observed.Mode != cordon.ModeAudit || r.Observed.Lease != want || r.Generation != 1 || r.Action == "a1" {
		t.Errorf("%+v", r)
	}
	if s := f.Status(); s.Observed.Lease != want {
		t.Errorf("status: %+v", s.Observed)
	}
	f.restart()
	if err := f.restore(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.boot = cordon.BootTime{Boot: "b2"}
	f.pass(time.Second)
	f.mustBe("after a reboot", cordon.ModeAudit)

	// The server is back, and what it wants still stands.
	f.hearFrom()
	f.mustBe("heard again", cordon.ModeEnforce)
	f.pass(59 * time.Minute)
	f.mustBe("with a fresh lease", cordon.ModeEnforce)
	if told := f.told(); !slices.Equal(told, []cordon.OrderType{cordon.LeaseLapsed, cordon.LeaseRenewed}) {
		t.Errorf("told %q", told)
	}
	f.obey(f.order(2, cordon.UnrestrictOrder))
	f.pass(2 * time.Hour)
	f.mustBe("unrestricted", cordon.ModeOff)
}

// The count survives restarts, and a machine that is switched off counts nothing.
func TestLeaseSurvivesReboots(t *testing.T) {
	f := newFixture(t)
	f.obey(f.order(1, cordon.RestrictOrder, lease(time.Hour)))
	for i := range 3 {
		f.pass(15 * time.Minute)
		f.restart()
		f.boot = cordon.BootTime{Boot: string(rune('c' + i)), At: 5 * time.Minute} // so long does the start take
		f.now = f.now.AddDate(1, 0, 0)
		if err := f.restore(t.Context()); err != nil {
			t.Fatal(err)
		}
		if i < 2 {
			f.pass(0)
			f.mustBe("it ran for less than an hour", cordon.ModeEnforce)
		}
	}
	f.pass(0)
	f.mustBe("it ran for an hour", cordon.ModeAudit)
}

// A contact that brings the order to unrestrict does not restrict for a moment.
func TestLapsedLeaseWaitsForOrders(t *testing.T) {
	f := newFixture(t)
	f.obey(f.order(1, cordon.RestrictOrder, lease(time.Minute)))
	f.pass(time.Hour)
	f.mustBe("lapsed", cordon.ModeAudit)
	n := len(f.kernel.calls())
	f.hearFrom(f.sign(f.order(2, cordon.UnrestrictOrder)))
	f.mustBe("unrestricted", cordon.ModeOff)
	for _, c := range f.kernel.calls()[n:] {
		if c.mode == cordon.ModeEnforce {
			t.Error("it was restricted in between")
		}
	}
}

// A restriction that fails leaves the one before with its lease, and no lease
// comes out of nowhere.
func TestLeaseOfTheRestrictionBefore(t *testing.T) {
	f := newFixture(t)
	f.obey(f.order(1, cordon.RestrictOrder, lease(time.Hour)))
	f.kernel.failOn(cordon.ModeEnforce, errors.New("no"))
	f.obey(f.order(2, cordon.RestrictOrder))
	if s := f.disk(); s.Outcome != cordon.ReportFailed || s.Lease.Seconds != 3600 || s.Lease.Action != "a1" {
		t.Fatalf("%+v", s)
	}
	f.kernel.failOn("", nil)
	f.pass(time.Hour)
	f.mustBe("the first one's lease", cordon.ModeAudit)
	f.obey(f.order(3, cordon.RestrictOrder))
	f.pass(1000 * time.Hour)
	f.mustBe("without a lease", cordon.ModeEnforce)
}

// What cannot be made true is said, and tried again; after a crash too.
func TestLeaseThatCannotChange(t *testing.T) {
	f := newFixture(t)
	f.obey(f.order(1, cordon.RestrictOrder, lease(time.Minute)))
	f.kernel.failOn(cordon.ModeAudit, errors.New("no audit today"))
	f.pass(time.Minute)
	if o := f.Observe(); f.kernel.inMode() != cordon.ModeEnforce || o.Problem == "" || len(f.told()) != 0 {
		t.Errorf("in mode %s, told %q, problem %q", f.kernel.inMode(), f.told(), o.Problem)
	}
	f.restart()
	f.kernel.failOn("", nil)
	if err := f.restore(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.pass(0)
	f.mustBe("after a restart", cordon.ModeAudit)
	if told := f.told(); !slices.Equal(told, []cordon.OrderType{cordon.LeaseLapsed}) {
		t.Errorf("told %q", told)
	}
	f.pass(0)
	if len(f.told()) != 1 {
		t.Errorf("told twice: %q", f.told())
	}
}

// What could not be made true is no problem any more once another order is.
func TestLeaseThatCannotChangeIsOvertaken(t *testing.T) {
	f := newFixture(t)
	f.obey(f.order(1, cordon.RestrictOrder, lease(time.Minute)))
	f.kernel.failOn(cordon.ModeAudit, errors.New("no audit today"))
	f.pass(time.Minute)
	f.obey(f.order(2, cordon.UnrestrictOrder))
	f.pass(time.Minute)
	f.mustBe("unrestricted", cordon.ModeOff)
	if o := f.Observe(); o.Problem != "" {
		t.Errorf("problem %q", o.Problem)
	}
}

// Observe is what the agent says of itself.
func (f *fixture) Observe() cordon.Observed {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.observe()
}

// Over a real connection the lease is renewed as long as there is a server,
// lapses without one, and holds again when there is one.
func TestLeaseEndToEnd(t *testing.T) {
	inBubble(t, lab.Options{}, func(t *testing.T, network *memnet.Network, server *lab.Server) {
		o := connect(t, server)
		o.kernel.bell.Patience = 24 * time.Hour
		o.enrolled()
		server.Service.DefaultLease = time.Minute
		o.does(cordon.RestrictCodeExecution)
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if mode := o.kernel.inMode(); mode != cordon.ModeEnforce {
			t.Fatalf("in mode %s while there is a server", mode)
		}
		network.Down(true)
		o.kernel.bell.Await(t, "the lease lapses", func() bool { return o.kernel.inMode() == cordon.ModeAudit })
		network.Down(false)
		o.kernel.bell.Await(t, "the restriction is in force again", func() bool { return o.kernel.inMode() == cordon.ModeEnforce })
		server.Bell.Await(t, "the server knows both", func() bool {
			entries, err := server.Store.AuditOf(t.Context(), o.Status().Standing.Action)
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			for _, e := range entries {
				if e.Kind == cordon.AuditLease {
					n++
				}
			}
			return n == 2
		})
	})
}
