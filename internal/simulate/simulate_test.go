package simulate_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/agentapi"
	"github.com/cordon-project/cordon/internal/hub"
	"github.com/cordon-project/cordon/internal/seal"
	"github.com/cordon-project/cordon/internal/simulate"
	"github.com/cordon-project/cordon/internal/testkit/memstore"
)

const token = "the enrolment token"

var caller = cordon.Caller{ID: "tester", DisplayName: "tester", Permissions: cordon.AllPermissions()}

// world is a server over a store in memory, with the real agents' edge.
type world struct {
	*testing.T
	store   *memstore.Store
	hub     *hub.Hub
	service *cordon.Service
	cfg     simulate.Config
	changes chan struct{}          // holds one wish to look at the store again
	fail    atomic.Pointer[func()] // called, and taken away, when the next report is about to be stored, which then fails
	sealed  atomic.Int64           // orders, each time that they are offered
	forge   atomic.Pointer[ed25519.PrivateKey]
	down    atomic.Bool  // nobody gets in
	ahead   atomic.Int64 // of the real clock, in nanoseconds: the clock of both
}

func newWorld(t *testing.T) *world {
	public, orderKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	jwk, err := seal.MarshalKey(public)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{T: t, hub: new(hub.Hub), changes: make(chan struct{}, 1)}
	w.store = &memstore.Store{Hook: func(method string, done bool) error {
		if done {
			select {
			case w.changes <- struct{}{}:
			default:
			}
		} else if method == "MachineSaid" {
			if f := w.fail.Swap(nil); f != nil {
				(*f)()
				return errors.New("the store is out of order")
			}
		}
		return nil
	}}
	sum := sha256.Sum256([]byte(token))
	if err := w.store.PutSettings(t.Context(), map[string][]byte{cordon.EnrollmentTokenSetting: sum[:]}); err != nil {
		t.Fatal(err)
	}
	now := func() time.Time { return time.Now().Add(time.Duration(w.ahead.Load())) }
	w.service = &cordon.Service{
		Store: w.store, Nudge: w.hub.Nudge, Now: now, NewID: uuid.NewString, TTL: time.Hour,
		Seal: func(o cordon.Order) (string, error) {
			w.sealed.Add(1)
			if forged := w.forge.Load(); forged != nil {
				return seal.Order(o, *forged)
			}
			return seal.Order(o, orderKey)
		},
	}
	mux := http.NewServeMux()
	agentapi.New(agentapi.Config{
		Service: w.service, Hub: w.hub, Tenant: "tenant", OrderJWK: jwk, Log: slog.New(slog.DiscardHandler),
		SignTime: func(s seal.Time) (string, error) { return seal.SignTime(s, orderKey) },
	}).Register(mux)
	srv := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if w.down.Load() {
			http.Error(rw, "down", http.StatusServiceUnavailable)
			return
		}
		mux.ServeHTTP(rw, r)
	}))
	t.Cleanup(func() {
		w.hub.Close()
		srv.Close()
	})
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	w.cfg = simulate.Config{
		Server: srv.URL, Roots: roots, Token: token, Now: now, Log: slog.New(slog.DiscardHandler),
		Facts: func(n int) cordon.Facts {
			return cordon.Facts{DNSName: fmt.Sprintf("sim-%d.example", n), OSPlatform: "Debian", BootID: fmt.Sprint(n)}
		},
	}
	return w
}

// fleet enrols and connects n machines until the test ends.
func (w *world) fleet(n int) *simulate.Fleet {
	w.Helper()
	f, err := simulate.Enrol(w.Context(), w.cfg, n)
	if err != nil {
		w.Fatal(err)
	}
	ctx, cancel := context.WithCancel(w.Context())
	var running sync.WaitGroup
	running.Go(func() { f.Run(ctx) })
	w.Cleanup(func() {
		cancel()
		running.Wait()
	})
	if err := f.Wait(w.Context(), func(s simulate.Stats) bool { return s.Connected == n }); err != nil {
		w.Fatal(err)
	}
	return f
}

func (w *world) request(id cordon.MachineID, t cordon.ActionType) cordon.ActionID {
	w.Helper()
	m, err := w.store.Machine(w.Context(), id)
	if err != nil {
		w.Fatal(err)
	}
	a, err := w.service.Request(w.Context(), caller, m, t, "test")
	if err != nil {
		w.Fatal(err)
	}
	return a.ID
}

// ended waits until the action has ended.
func (w *world) ended(id cordon.ActionID) cordon.Action {
	w.Helper()
	return w.reaches(id, func(a cordon.Action) bool { return a.Status.Terminal() })
}

// reaches waits until the action is as it should be.
func (w *world) reaches(id cordon.ActionID, is func(cordon.Action) bool) cordon.Action {
	w.Helper()
	for {
		a, err := w.store.Action(w.Context(), id)
		if err != nil {
			w.Fatal(err)
		}
		if is(a) {
			return a
		}
		select {
		case <-w.changes:
		case <-time.After(30 * time.Second):
			w.Fatalf("action %s is still %s", id, a.Status)
		}
	}
}

func TestMachinesAreThemselves(t *testing.T) {
	w := newWorld(t)
	const n = 40 // more than connect at once
	f := w.fleet(n)
	ids := f.Machines()
	for i, id := range ids {
		m, err := w.store.Machine(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf("sim-%d.example", i); m.Facts.DNSName != want || cordon.IDOfKey(m.Key) != id || m.Observed.Enforcer != "simulated" {
			t.Errorf("machine %d is stored as %+v", i, m)
		}
	}
	slices.Sort(ids)
	if len(slices.Compact(ids)) != n || w.hub.Len() != n || f.Stats().Connected != n {
		t.Errorf("%d machines, %d connected, want %d", len(ids), w.hub.Len(), n)
	}
}

func TestAnswersAsTold(t *testing.T) {
	w := newWorld(t)
	w.cfg.Answer = func(_ context.Context, o simulate.Task) (cordon.ReportState, string) {
		if o.Type == cordon.RestrictOrder {
			return cordon.ReportSucceeded, ""
		}
		return cordon.ReportFailed, "told to"
	}
	f := w.fleet(8)
	for round := range 3 {
		for _, id := range f.Machines() {
			up, down := w.request(id, cordon.RestrictCodeExecution), w.request(id, cordon.UnrestrictCodeExecution)
			if a := w.ended(up); a.Status != cordon.Succeeded {
				t.Errorf("round %d: restriction ended %s: %s", round, a.Status, a.Reason)
			}
			if a := w.ended(down); a.Status != cordon.Failed || a.Reason != "told to" {
				t.Errorf("round %d: release ended %s: %s", round, a.Status, a.Reason)
			}
			m, err := w.store.Machine(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			if m.Observed.Mode != cordon.ModeEnforce {
				t.Errorf("a failed release left the machine in mode %q", m.Observed.Mode)
			}
		}
	}
	if s := f.Stats(); s.Orders != 48 {
		t.Errorf("48 orders were taken up %d times", s.Orders)
	}
}

func TestSilentMachine(t *testing.T) {
	w := newWorld(t)
	w.cfg.Answer = func(_ context.Context, o simulate.Task) (cordon.ReportState, string) {
		if o.Type == cordon.RestrictOrder {
			return "", ""
		}
		return cordon.ReportSucceeded, ""
	}
	f := w.fleet(1)
	silent := w.request(f.Machines()[0], cordon.RestrictCodeExecution)
	w.ended(w.request(f.Machines()[0], cordon.UnrestrictCodeExecution)) // whatever was said before has been heard now
	a, err := w.store.Action(t.Context(), silent)
	if err != nil || a.Delivered == nil || a.Status != cordon.Pending {
		t.Errorf("the action is %+v, %v", a, err)
	}
	for _, e := range w.store.AuditLog() {
		if e.Kind == cordon.AuditReport && e.Action == silent {
			t.Errorf("it said something: %+v", e)
		}
	}
}

// While a machine thinks it is offered what is open again and again. It takes
// each up once, and says the same of it every time.
func TestOfferedAgain(t *testing.T) {
	w := newWorld(t)
	thinking, proceed := make(chan struct{}, 2), make(chan struct{})
	w.cfg.Answer = func(context.Context, simulate.Task) (cordon.ReportState, string) {
		thinking <- struct{}{}
		<-proceed
		return cordon.ReportSucceeded, ""
	}
	f := w.fleet(1)
	m := f.Machines()[0]
	up := w.request(m, cordon.RestrictCodeExecution)
	<-thinking
	down := w.request(m, cordon.UnrestrictCodeExecution)
	for w.sealed.Load() < 3 { // 1 in the first list, 2 in the second
		runtime.Gosched()
	}
	w.hub.Nudge(m)
	for w.sealed.Load() < 5 {
		runtime.Gosched()
	}
	close(proceed)
	if a, b := w.ended(up), w.ended(down); a.Status != cordon.Succeeded || b.Status != cordon.Succeeded {
		t.Errorf("ended %s and %s", a.Status, b.Status)
	}
	if err := f.Wait(t.Context(), func(s simulate.Stats) bool { return s.Reports == 2 }); err != nil {
		t.Fatal(err)
	}
	w.ended(w.request(m, cordon.RestrictCodeExecution)) // whatever was said before has been heard now
	if s := f.Stats(); s.Orders != 3 {
		t.Errorf("3 orders were taken up %d times", s.Orders)
	}
	for _, e := range w.store.AuditLog() {
		if strings.Contains(e.Detail, "after the end") {
			t.Errorf("it said something else the second time: %+v", e)
		}
	}
}

// A report that the server could not take in comes again over the next
// connection, and the order is not taken up a second time.
func TestReportSurvivesItsConnection(t *testing.T) {
	w := newWorld(t)
	f := w.fleet(3)
	failed := make(chan struct{})
	broken := func() { close(failed) }
	w.fail.Store(&broken)
	for _, id := range f.Machines() {
		if a := w.ended(w.request(id, cordon.RestrictCodeExecution)); a.Status != cordon.Succeeded {
			t.Errorf("ended %s: %s", a.Status, a.Reason)
		}
	}
	<-failed
	if err := f.Wait(t.Context(), func(s simulate.Stats) bool { return s.Connected == 3 && s.Reports >= 3 }); err != nil {
		t.Fatal(err)
	}
	if s := f.Stats(); s.Orders != 3 || s.Reports != 3 {
		t.Errorf("3 orders: %+v", s)
	}
}

func TestComesBack(t *testing.T) {
	w := newWorld(t)
	f := w.fleet(5)
	w.hub.Sweep(time.Now().Add(time.Hour)) // ends all connections
	for _, id := range f.Machines() {
		if a := w.ended(w.request(id, cordon.RestrictCodeExecution)); a.Status != cordon.Succeeded {
			t.Errorf("ended %s: %s", a.Status, a.Reason)
		}
	}
}

func TestObeysNobodyElse(t *testing.T) {
	w := newWorld(t)
	f := w.fleet(1)
	_, foreign, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	w.forge.Store(&foreign)
	id := w.request(f.Machines()[0], cordon.RestrictCodeExecution)
	for len(w.refusals()) == 0 {
		<-w.changes
	}
	a, err := w.store.Action(t.Context(), id)
	if err != nil || a.Status != cordon.Pending || f.Stats().Orders != 0 {
		t.Errorf("a forged order left the action %s and was taken up %d times (%v)", a.Status, f.Stats().Orders, err)
	}
}

func (w *world) refusals() (found []cordon.AuditEntry) {
	for _, e := range w.store.AuditLog() {
		if e.Kind == cordon.AuditReport && strings.HasPrefix(e.Detail, "refused: ") {
			found = append(found, e)
		}
	}
	return found
}

func TestEnrolmentRefused(t *testing.T) {
	w := newWorld(t)
	w.cfg.Token = "another token"
	if _, err := simulate.Enrol(t.Context(), w.cfg, 3); err == nil || !strings.Contains(err.Error(), "enrolment token") {
		t.Errorf("a wrong token: %v", err)
	}
}

// What a machine says before the end is seen, and that it does not begin leaves
// time for a cancellation.
func TestUnderWayAndUnread(t *testing.T) {
	w := newWorld(t)
	finish := make(chan struct{})
	w.cfg.Answer = func(_ context.Context, o simulate.Task) (cordon.ReportState, string) {
		if o.Number == 1 {
			return simulate.Unread, ""
		}
		o.Begun()
		<-finish
		return cordon.ReportSucceeded, ""
	}
	f := w.fleet(2)
	slow := w.request(f.Machines()[0], cordon.RestrictCodeExecution)
	w.reaches(slow, func(a cordon.Action) bool { return a.Status == cordon.InProgress })
	close(finish)
	if a := w.ended(slow); a.Status != cordon.Succeeded {
		t.Errorf("ended %s: %s", a.Status, a.Reason)
	}
	unread := w.request(f.Machines()[1], cordon.RestrictCodeExecution)
	w.reaches(unread, func(a cordon.Action) bool { return a.Delivered != nil })
	if a, err := w.service.Cancel(t.Context(), caller, unread, "no"); err != nil || a.Status != cordon.Pending {
		t.Errorf("cancelled: %s, %v", a.Status, err)
	}
	if a := w.ended(unread); a.Status != cordon.Cancelled || !strings.Contains(a.Reason, "before the machine began") {
		t.Errorf("ended %s: %s", a.Status, a.Reason)
	}
}

func TestAwayAndKeys(t *testing.T) {
	w := newWorld(t)
	p := simulate.Plan{Seed: 7}
	w.cfg.Key, w.cfg.Away = p.Key, func(n int) bool { return n == 1 }
	f, err := simulate.Enrol(t.Context(), w.cfg, 3)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { f.Run(ctx) })
	defer running.Wait()
	defer cancel()
	for i, id := range f.Machines() {
		if id != cordon.IDOfKey(p.Key(i).Public().(ed25519.PublicKey)) {
			t.Errorf("machine %d has another key", i)
		}
	}
	if err := f.Wait(t.Context(), func(s simulate.Stats) bool { return s.Connected == 2 }); err != nil {
		t.Fatal(err)
	}
	away := w.request(f.Machines()[1], cordon.RestrictCodeExecution)
	for _, i := range []int{0, 2} {
		w.ended(w.request(f.Machines()[i], cordon.RestrictCodeExecution))
	}
	if a, err := w.service.Cancel(t.Context(), caller, away, "no"); err != nil || a.Status != cordon.Cancelled {
		t.Errorf("an order to a machine that is away: %+v, %v", a, err)
	}
}

// A restriction with a lease lapses while the server is away for so long, and
// holds again when it is back; a shorter absence, a release meanwhile and no lease
// change nothing of that kind.
func TestLease(t *testing.T) {
	w := newWorld(t)
	f := w.fleet(3)
	leased, released, forever := f.Machines()[0], f.Machines()[1], f.Machines()[2]
	observed := func(id cordon.MachineID) cordon.Observed {
		t.Helper()
		m, err := w.store.Machine(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		return m.Observed
	}
	restrict := func(id cordon.MachineID, lease time.Duration) cordon.ActionID {
		t.Helper()
		m, err := w.store.Machine(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		a, err := w.service.Restrict(t.Context(), caller, m, "test", lease)
		if err != nil {
			t.Fatal(err)
		}
		if a := w.ended(a.ID); a.Status != cordon.Succeeded {
			t.Fatalf("%+v", a)
		}
		return a.ID
	}
	reports := 0
	away := func(silence time.Duration, meanwhile func(), more int) {
		t.Helper()
		w.down.Store(true)
		w.hub.Sweep(time.Now().Add(1000 * time.Hour)) // all of them are cut off
		if err := f.Wait(t.Context(), func(s simulate.Stats) bool { return s.Connected == 0 }); err != nil {
			t.Fatal(err)
		}
		w.ahead.Add(int64(silence))
		meanwhile()
		w.down.Store(false)
		reports += more
		if err := f.Wait(t.Context(), func(s simulate.Stats) bool { return s.Connected == 3 && s.Reports == reports }); err != nil {
			t.Fatal(err)
		}
	}
	log := func(id cordon.ActionID) (log []string) {
		for _, e := range w.store.AuditLog() {
			if e.Kind == cordon.AuditLease && e.Action == id {
				log = append(log, strings.Fields(e.Detail)[1])
			}
		}
		return log
	}
	action, other := restrict(leased, time.Minute), restrict(released, time.Minute)
	restrict(forever, 0)
	reports += 3
	if l := observed(leased).Lease; l.Action != action || l.Seconds != 60 || l.Lapsed {
		t.Errorf("%+v", l)
	}
	away(20*time.Second, func() {}, 0) // by the clock of both, which goes on by itself
	if o := observed(leased); !o.Restricted() || len(log(action)) != 0 {
		t.Errorf("after a short silence: %+v, %q", o, log(action))
	}
	var release cordon.ActionID
	away(2*time.Minute, func() { release = w.request(released, cordon.UnrestrictCodeExecution) }, 2+1+1) // lapsed and renewed, lapsed and released
	if a := w.ended(release); a.Status != cordon.Succeeded {
		t.Errorf("%+v", a)
	}
	if got := log(action); !slices.Equal(got, []string{"lease", "machine"}) || !observed(leased).Restricted() || observed(leased).Lease.Lapsed {
		t.Errorf("%q, %+v", got, observed(leased))
	}
	if got := log(other); !slices.Equal(got, []string{"lease"}) || observed(released).Mode != cordon.ModeOff || observed(released).Lease.Seconds != 0 {
		t.Errorf("%q, %+v", got, observed(released))
	}
	if o := observed(forever); !o.Restricted() || o.Lease.Seconds != 0 {
		t.Errorf("without a lease: %+v", o)
	}
	away(2*time.Minute, func() {}, 2)
	if got := log(action); !slices.Equal(got, []string{"lease", "machine", "lease", "machine"}) {
		t.Errorf("%q", got)
	}
}
