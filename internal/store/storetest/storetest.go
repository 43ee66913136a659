// Package storetest is what every [cordon.Store] must pass. It owns nothing and
// asks for nothing but the interface: [Run] holds what the comments of the
// interface promise, [RunQueries] that a query finds what [cordon.Holds] and
// [cordon.CompareRows] say, and [RunPages] that pages stay whole. What survives a crash cannot be seen through the
// interface; each engine has a test of its own for that.
package storetest

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/uuid"

	"github.com/cordon-project/cordon"
)

// Noon is the time that the suite is set in. The clock of a store under test
// shows it.
var Noon = time.Date(2026, 11, 21, 12, 0, 0, 1234567*100, time.UTC)

// Open makes a new, empty store, whose clock stands at [Noon], and closes it
// when the test ends.
type Open func(t *testing.T) cordon.Store

// Run holds a store to its contract, but for the meaning of queries.
func Run(t *testing.T, open Open) {
	tests := []struct {
		name string
		run  func(*world)
	}{
		{"CreateAction", testCreate},
		{"CreateActionUnknownMachine", testCreateUnknownMachine},
		{"CreateActionDuplicate", testDuplicate},
		{"CreateActionContended", testCreateContended},
		{"Generations", testGenerations},
		{"GenerationFloor", testGenerationFloor},
		{"ChangeAction", testChange},
		{"ChangeActionRefused", testChangeRefused},
		{"ChangeActionContended", testChangeContended},
		{"OpenActions", testOpenActions},
		{"ExpiredActions", testExpired},
		{"GivenUp", testGivenUp},
		{"Texts", testTexts},
		{"Times", testTimes},
		{"EnrolMachine", testEnrol},
		{"MachinesByName", testMachinesByName},
		{"MachineSaid", testMachineSaid},
		{"TouchMachines", testTouch},
		{"ChangeLabels", testLabels},
		{"MachinesByAddress", testAddresses},
		{"AddressesRandom", testAddressesRandom},
		{"Findings", testFindings},
		{"Trust", testTrust},
		{"TrustContended", testTrustContended},
		{"Groups", testGroups},
		{"GroupsOfMachines", testGroupsOfMachines},
		{"GroupsContended", testGroupsContended},
		{"Audit", testAudit},
		{"AuditEntries", testAuditEntries},
		{"Applications", testApplications},
		{"ChangeApplication", testChangeApplication},
		{"ChangeApplicationContended", testLastApplication},
		{"Settings", testSettings},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { tt.run(newWorld(t, open)) })
	}
}

// world is a store with a machine in it.
type world struct {
	*testing.T
	cordon.Store
	machine cordon.Machine
}

func newWorld(t *testing.T, open Open) *world {
	w := &world{T: t, Store: open(t)}
	w.machine = w.enrol("Host1.Example.org")
	return w
}

// Machine returns a machine that nobody has enrolled yet. Machines of different
// seeds have different keys.
func Machine(seed, dnsName string) cordon.Machine {
	sum := sha256.Sum256([]byte(seed))
	key := ed25519.NewKeyFromSeed(sum[:]).Public().(ed25519.PublicKey)
	return cordon.Machine{
		ID: cordon.IDOfKey(key), DeviceID: cordon.DeviceIDOfKey(key), Key: key, FirstSeen: Noon, LastSeen: Noon,
		Labels: cordon.Labels{Value: cordon.NormalValue},
		Facts: cordon.Facts{
			DNSName: dnsName, OSPlatform: "Debian", OSVersion: "12", OSBuild: 19045, Kernel: "6.1.0", Processor: "x64", Architecture: "64-bit",
			AgentVersion: "1.2.3", BootID: "0a1b", LastIP: "10.1.2.3",
			Interfaces: []cordon.Interface{{IP: "10.1.2.3", MAC: "0242AC110002", Type: "Ethernet", Status: "Up"}, {IP: "127.0.0.1", Type: "SoftwareLoopback", Status: "Up"}},
		},
	}
}

func (w *world) enrol(dnsName string) cordon.Machine {
	w.Helper()
	m := Machine(w.Name()+dnsName, dnsName)
	if _, err := w.EnrolMachine(w.Context(), m); err != nil {
		w.Fatal(err)
	}
	return m
}

// Draft is an action that can be created on a machine.
func Draft(m cordon.MachineID, t cordon.ActionType) cordon.ActionDraft {
	return cordon.ActionDraft{
		ID: cordon.ActionID(uuid.NewString()), Type: t, Machine: m, Requestor: "SOAR", RequestorID: "5f2b1a0e-8a1c-4b62-9d0e-1f6f6a1f2c3d",
		Comment: "ticket 4711", Source: "PublicApi", Lease: time.Hour, Created: Noon, Expires: Noon.Add(cordon.DefaultTTL),
	}
}

func (w *world) create(m cordon.MachineID, t cordon.ActionType) cordon.Action {
	w.Helper()
	return w.createDraft(Draft(m, t))
}

func (w *world) createDraft(d cordon.ActionDraft) cordon.Action {
	w.Helper()
	a, err := w.CreateAction(w.Context(), d)
	if err != nil {
		w.Fatal(err)
	}
	return a
}

// set is a change that gives an action a status.
func set(s cordon.Status) cordon.ActionChange {
	return func(a cordon.Action) (cordon.Action, []cordon.AuditEntry, error) {
		a.Status, a.Updated = s, Noon.Add(time.Minute)
		return a, nil, nil
	}
}

func (w *world) change(id cordon.ActionID, change cordon.ActionChange) cordon.Action {
	w.Helper()
	a, err := w.ChangeAction(w.Context(), id, change)
	if err != nil {
		w.Fatal(err)
	}
	return a
}

func (w *world) action(id cordon.ActionID) cordon.Action {
	w.Helper()
	a, err := w.Action(w.Context(), id)
	if err != nil {
		w.Fatal(err)
	}
	return a
}

func (w *world) machineNow(id cordon.MachineID) cordon.Machine {
	w.Helper()
	m, err := w.Store.Machine(w.Context(), id)
	if err != nil {
		w.Fatal(err)
	}
	return m
}

func (w *world) auditOf(id cordon.ActionID) []cordon.AuditEntry {
	w.Helper()
	entries, err := w.AuditOf(w.Context(), id)
	if err != nil {
		w.Fatal(err)
	}
	for i, e := range entries {
		if e.Seq <= 0 || i > 0 && e.Seq <= entries[i-1].Seq {
			w.Errorf("audit entries out of order: %+v", entries)
		}
	}
	return entries
}

func (w *world) allActions() []cordon.Action {
	w.Helper()
	all, _, err := w.Actions(w.Context(), cordon.Query{})
	if err != nil {
		w.Fatal(err)
	}
	return all
}

func (w *world) diff(what string, want, got any, opts ...cmp.Option) {
	w.Helper()
	if d := cmp.Diff(want, got, append(opts, cmpopts.EquateEmpty())...); d != "" {
		w.Errorf("%s (-want +got):\n%s", what, d)
	}
}

// wantError holds that err is of a kind and says something.
func (w *world) wantError(what string, err error, kind cordon.Kind, code cordon.Code) {
	w.Helper()
	var e *cordon.Error
	if !errors.As(err, &e) || e.Kind != kind || e.Code != code || e.Message == "" {
		w.Errorf("%s: error %#v, want one of kind %s with code %q and a message", what, err, kind, code)
	}
}

func testCreate(w *world) {
	d := Draft(w.machine.ID, cordon.RestrictCodeExecution)
	want := d.Open(1, "Host1.Example.org")
	w.diff("created", want, w.createDraft(d))
	w.diff("read back", want, w.action(d.ID))
	entries := w.auditOf(d.ID)
	if len(entries) != 1 {
		w.Fatalf("audit: %+v", entries)
	}
	entries[0].Seq = 0
	w.diff("audit", []cordon.AuditEntry{{At: Noon, Kind: cordon.AuditCreated, Machine: d.Machine, Action: d.ID, Actor: d.RequestorID, Status: cordon.Pending, Detail: d.Open(1, "").Asked()}}, entries)

	if a := w.create(w.machine.ID, cordon.UnrestrictCodeExecution); a.Generation != 2 {
		w.Errorf("second action has generation %d", a.Generation)
	}
	if m := w.machineNow(w.machine.ID); m.Generation != 2 {
		w.Errorf("machine has generation %d", m.Generation)
	}

	renamed := w.machine
	renamed.Facts.DNSName = "other.example.org"
	if _, err := w.EnrolMachine(w.Context(), renamed); err != nil {
		w.Fatal(err)
	}
	w.diff("after its machine was renamed", want, w.action(d.ID))
	if _, err := w.Action(w.Context(), "no-such-action"); true {
		w.wantError("Action", err, cordon.NotFound, "")
	}
}

func testCreateUnknownMachine(w *world) {
	stranger := Machine("stranger", "x").ID
	for _, id := range []cordon.MachineID{stranger, "", "x", cordon.MachineID(strings.ToUpper(string(w.machine.ID)))} {
		d := Draft(id, cordon.RestrictCodeExecution)
		_, err := w.CreateAction(w.Context(), d)
		w.wantError(fmt.Sprintf("CreateAction on %q", id), err, cordon.NotFound, "")
		w.diff("audit", []cordon.AuditEntry{}, w.auditOf(d.ID))
	}
	w.diff("actions", []cordon.Action{}, w.allActions())
}

func testDuplicate(w *world) {
	first := w.create(w.machine.ID, cordon.RestrictCodeExecution)
	for _, status := range []cordon.Status{cordon.Pending, cordon.InProgress} {
		w.change(first.ID, set(status))
		d := Draft(w.machine.ID, cordon.RestrictCodeExecution)
		_, err := w.CreateAction(w.Context(), d)
		w.wantError("duplicate", err, cordon.Conflict, cordon.CodeActionInProgress)
		w.diff("audit of the duplicate", []cordon.AuditEntry{}, w.auditOf(d.ID))
		if m := w.machineNow(w.machine.ID); m.Generation != 1 {
			w.Errorf("the duplicate took a generation: %d", m.Generation)
		}
	}
	w.create(w.enrol("host2").ID, cordon.RestrictCodeExecution) // elsewhere
	w.create(w.machine.ID, cordon.UnrestrictCodeExecution)      // of another type
	for i, status := range []cordon.Status{cordon.Succeeded, cordon.Failed, cordon.TimeOut, cordon.Cancelled} {
		w.change(first.ID, set(status))
		first = w.create(w.machine.ID, cordon.RestrictCodeExecution)
		if first.Generation != uint64(3+i) {
			w.Errorf("generation %d after %s", first.Generation, status)
		}
	}
	if n := len(w.allActions()); n != 7 {
		w.Errorf("%d actions", n)
	}
}

// Callers is how many goroutines contend in the tests that do that.
const callers = 64

// together runs f in many goroutines and waits for them.
func together(f func(i int)) {
	done := make(chan struct{})
	for i := range callers {
		go func() {
			defer func() { done <- struct{}{} }()
			f(i)
		}()
	}
	for range callers {
		<-done
	}
}

func testCreateContended(w *world) {
	types := []cordon.ActionType{cordon.RestrictCodeExecution, cordon.UnrestrictCodeExecution}
	created := make([]cordon.Action, callers)
	together(func(i int) {
		var err error
		if created[i], err = w.CreateAction(w.Context(), Draft(w.machine.ID, types[i%2])); err != nil {
			w.wantError("duplicate", err, cordon.Conflict, cordon.CodeActionInProgress)
		}
	})
	created = slices.DeleteFunc(created, func(a cordon.Action) bool { return a.ID == "" })
	slices.SortFunc(created, func(a, b cordon.Action) int { return int(a.Generation) - int(b.Generation) })
	if len(created) != 2 || created[0].Type == created[1].Type || created[0].Generation != 1 || created[1].Generation != 2 {
		w.Fatalf("created: %+v", created)
	}
	opened, err := w.OpenActions(w.Context(), w.machine.ID)
	if err != nil {
		w.Fatal(err)
	}
	w.diff("open", created, opened)
}

// testGenerations creates and ends actions of few machines in many goroutines.
func testGenerations(w *world) {
	const machines, rounds = 4, 8
	var ids []cordon.MachineID
	for i := range machines {
		ids = append(ids, w.enrol(fmt.Sprintf("host-%d", i)).ID)
	}
	together(func(i int) {
		for round := range rounds {
			t := []cordon.ActionType{cordon.RestrictCodeExecution, cordon.UnrestrictCodeExecution}[(i+round)%2]
			a, err := w.CreateAction(w.Context(), Draft(ids[i%machines], t))
			if err != nil {
				w.wantError("duplicate", err, cordon.Conflict, cordon.CodeActionInProgress)
				continue
			}
			if _, err := w.ChangeAction(w.Context(), a.ID, set(cordon.Succeeded)); err != nil {
				w.Error(err)
			}
		}
	})
	seen := make(map[cordon.MachineID][]uint64)
	for _, a := range w.allActions() { // newest first
		seen[a.Machine] = append(seen[a.Machine], a.Generation)
		if n := len(w.auditOf(a.ID)); n != 1 {
			w.Errorf("action %s has %d audit entries", a.ID, n)
		}
	}
	for _, id := range ids {
		for i, g := range slices.Backward(seen[id]) {
			if want := uint64(len(seen[id]) - i); g != want {
				w.Fatalf("generations of %s, newest first: %v", id, seen[id])
			}
		}
		if m := w.machineNow(id); m.Generation != uint64(len(seen[id])) || m.Generation == 0 {
			w.Errorf("machine is at generation %d, its newest action at %d", m.Generation, len(seen[id]))
		}
	}
}

func testGenerationFloor(w *world) {
	say := func(g uint64) {
		w.Helper()
		if err := w.MachineSaid(w.Context(), w.machine.ID, nil, cordon.Observed{Generation: g}, Noon); err != nil {
			w.Fatal(err)
		}
	}
	want := func(g uint64) {
		w.Helper()
		if m := w.machineNow(w.machine.ID); m.Generation != g {
			w.Errorf("machine is at generation %d, want %d", m.Generation, g)
		}
	}
	say(7)
	want(7)
	say(3)
	want(7)
	if a := w.create(w.machine.ID, cordon.RestrictCodeExecution); a.Generation != 8 {
		w.Errorf("next generation is %d, want 8", a.Generation)
	}
	want(8)
	say(8)
	want(8)
	say(20)
	want(20)
	if a := w.create(w.machine.ID, cordon.UnrestrictCodeExecution); a.Generation != 21 {
		w.Errorf("next generation is %d, want 21", a.Generation)
	}
	again := w.machine // says generation 0
	if _, err := w.EnrolMachine(w.Context(), again); err != nil {
		w.Fatal(err)
	}
	want(21)
}

func testChange(w *world) {
	a := w.create(w.machine.ID, cordon.RestrictCodeExecution)
	delivered, cancelled, ended := Noon.Add(time.Second), Noon.Add(time.Minute), Noon.Add(time.Hour)
	want := a
	want.Delivered = &delivered
	steps := []struct {
		name   string
		change func(*cordon.Action)
		log    []cordon.AuditEntry
	}{
		{"deliver", func(a *cordon.Action) { a.Delivered = &delivered }, []cordon.AuditEntry{
			{At: delivered, Kind: cordon.AuditDelivered, Machine: a.Machine, Action: a.ID, Actor: string(a.Machine), Status: cordon.Pending, Evidence: "eyJ.e30.c2ln"}}},
		{"begin", func(a *cordon.Action) { a.Status, a.Updated = cordon.InProgress, delivered }, nil},
		{"cancel", func(a *cordon.Action) {
			a.Cancel = &cordon.Cancellation{RequestorID: "somebody", Comment: "", At: cancelled}
			a.Updated = cancelled
		}, nil},
		{"end", func(a *cordon.Action) {
			a.Status, a.Updated, a.ErrorHResult, a.Reason = cordon.Failed, ended, cordon.HResultFailed, "no trust set"
		}, []cordon.AuditEntry{
			{At: ended, Kind: cordon.AuditReport, Machine: a.Machine, Action: a.ID, Actor: string(a.Machine), Status: cordon.Failed, Detail: "no trust set", Evidence: "eyJ.e31.c2ln"},
			{At: ended, Kind: cordon.AuditEnded, Machine: a.Machine, Action: a.ID, Actor: "server", Status: cordon.Failed}}},
		{"nothing", func(*cordon.Action) {}, nil},
		{"nothing but a note", func(*cordon.Action) {}, []cordon.AuditEntry{
			{At: ended, Kind: cordon.AuditReport, Machine: a.Machine, Action: a.ID, Actor: string(a.Machine), Status: cordon.Failed, Detail: "came after the end"}}},
	}
	want, log := a, w.auditOf(a.ID)
	for _, s := range steps {
		s.change(&want)
		got := w.change(a.ID, func(a cordon.Action) (cordon.Action, []cordon.AuditEntry, error) {
			s.change(&a)
			return a, s.log, nil
		})
		log = append(log, s.log...)
		w.diff(s.name, want, got)
		w.diff(s.name+", read back", want, w.action(a.ID))
		if d := cmp.Diff(log, w.auditOf(a.ID), cmpopts.IgnoreFields(cordon.AuditEntry{}, "Seq")); d != "" {
			w.Errorf("%s, audit (-want +got):\n%s", s.name, d)
		}
	}

	// An entry is its action's, whichever change it came with.
	stray := cordon.AuditEntry{At: Noon, Kind: cordon.AuditReport, Machine: a.Machine, Action: "elsewhere", Actor: "server"}
	w.change(a.ID, func(a cordon.Action) (cordon.Action, []cordon.AuditEntry, error) {
		return a, []cordon.AuditEntry{stray}, nil
	})
	if got := w.auditOf(stray.Action); len(got) != 1 || len(w.auditOf(a.ID)) != len(log) {
		w.Errorf("audit of another action: %+v", got)
	}

	// Nothing is shared with the caller.
	got := w.action(a.ID)
	*got.Delivered, got.Cancel.Comment = Noon.Add(-time.Hour), "changed"
	w.diff("after the caller changed its copy", want, w.action(a.ID))

	_, err := w.ChangeAction(w.Context(), "no-such-action", set(cordon.Failed))
	w.wantError("ChangeAction", err, cordon.NotFound, "")
}

func testChangeRefused(w *world) {
	a := w.create(w.machine.ID, cordon.RestrictCodeExecution)
	for _, refusal := range []error{errors.New("a plain error"), cordon.Errorf(cordon.Forbidden, cordon.CodeUnverifiedEvidence, "not yours")} {
		_, err := w.ChangeAction(w.Context(), a.ID, func(a cordon.Action) (cordon.Action, []cordon.AuditEntry, error) {
			a.Status = cordon.Failed
			return a, []cordon.AuditEntry{{At: Noon, Kind: cordon.AuditReport, Action: a.ID}}, refusal
		})
		if err != refusal { //nolint:errorlint // "returned as it is"
			w.Errorf("error %#v, want %#v as it is", err, refusal)
		}
	}
	w.diff("refused", a, w.action(a.ID))
	if n := len(w.auditOf(a.ID)); n != 1 {
		w.Errorf("%d audit entries", n)
	}
}

// testChangeContended loses a change if two of them can see the same action.
func testChangeContended(w *world) {
	a := w.create(w.machine.ID, cordon.RestrictCodeExecution)
	const rounds = 4
	together(func(int) {
		for range rounds {
			_, err := w.ChangeAction(w.Context(), a.ID, func(a cordon.Action) (cordon.Action, []cordon.AuditEntry, error) {
				a.ErrorHResult++
				return a, []cordon.AuditEntry{{At: Noon, Kind: cordon.AuditReport, Machine: a.Machine, Action: a.ID, Detail: fmt.Sprint(a.ErrorHResult)}}, nil
			})
			if err != nil {
				w.Error(err)
			}
		}
	})
	if got := w.action(a.ID); got.ErrorHResult != callers*rounds {
		w.Errorf("%d changes took effect, want %d", got.ErrorHResult, callers*rounds)
	}
	log := w.auditOf(a.ID)
	if len(log) != 1+callers*rounds {
		w.Fatalf("%d audit entries", len(log))
	}
	for i, e := range log[1:] {
		if e.Detail != fmt.Sprint(i+1) {
			w.Fatalf("audit entry %d is of change %s", i+1, e.Detail)
		}
	}
}

func testOpenActions(w *world) {
	open := func(id cordon.MachineID) []cordon.Action {
		w.Helper()
		found, err := w.OpenActions(w.Context(), id)
		if err != nil {
			w.Fatal(err)
		}
		return found
	}
	w.diff("none", []cordon.Action{}, open(w.machine.ID))
	w.diff("unknown machine", []cordon.Action{}, open("x"))
	a := w.create(w.machine.ID, cordon.UnrestrictCodeExecution)
	b := w.create(w.machine.ID, cordon.RestrictCodeExecution)
	w.create(w.enrol("host2").ID, cordon.RestrictCodeExecution)
	w.diff("two", []cordon.Action{a, b}, open(w.machine.ID))
	w.change(a.ID, set(cordon.Succeeded))
	w.diff("one", []cordon.Action{b}, open(w.machine.ID))
	a = w.create(w.machine.ID, cordon.UnrestrictCodeExecution)
	b = w.change(b.ID, set(cordon.InProgress))
	w.diff("two, in the order of generations", []cordon.Action{b, a}, open(w.machine.ID))
}

// testExpired asks at every moment around which an action may expire.
func testExpired(w *world) {
	var all []cordon.Action
	for i := range 12 {
		d := Draft(w.enrol(fmt.Sprintf("host-%d", i)).ID, cordon.RestrictCodeExecution)
		d.Expires = Noon.Add(time.Duration(i%3) * cordon.DeliveredGrace)
		a := w.createDraft(d)
		at := Noon.Add(-time.Hour)
		if i/3%2 == 1 {
			a = w.change(a.ID, func(a cordon.Action) (cordon.Action, []cordon.AuditEntry, error) {
				a.Delivered = &at
				return a, nil, nil
			})
		}
		if i >= 6 {
			a = w.change(a.ID, set([]cordon.Status{cordon.InProgress, cordon.TimeOut}[i%2]))
		}
		all = append(all, a)
	}
	for _, grace := range []time.Duration{0, cordon.DeliveredGrace, 2 * cordon.DeliveredGrace} {
		for minute := time.Duration(-1); minute <= 4; minute++ {
			for _, shift := range []time.Duration{-cordon.Tick, 0, 1, cordon.Tick} {
				now := Noon.Add(minute*cordon.DeliveredGrace + shift)
				var want []cordon.ActionID
				for _, a := range all {
					if a.Expire(now, grace).Status != a.Status {
						want = append(want, a.ID)
					}
				}
				got, err := w.Store.ExpiredActions(w.Context(), now, grace, 100)
				if err != nil {
					w.Fatal(err)
				}
				slices.Sort(want)
				slices.Sort(got)
				w.diff(fmt.Sprintf("expired at %s, grace %s", now, grace), want, got)
				some, err := w.Store.ExpiredActions(w.Context(), now, grace, 2)
				if err != nil || len(some) != min(2, len(want)) {
					w.Errorf("limit 2: %v, %v", some, err)
				}
			}
		}
	}
}

// testGivenUp calls with a context that has ended.
func testGivenUp(w *world) {
	ctx, cancel := context.WithCancel(w.Context())
	cancel()
	d := Draft(w.machine.ID, cordon.RestrictCodeExecution)
	a, err := w.CreateAction(ctx, d)
	if err == nil { // the store does not look at contexts; then it was made
		w.diff("created", a, w.action(d.ID))
		return
	}
	w.wantError("given up", err, cordon.Unavailable, "")
	if !errors.Is(err, context.Canceled) {
		w.Errorf("error %v is not %v", err, context.Canceled)
	}
	if _, err := w.Action(w.Context(), d.ID); true {
		w.wantError("what was given up", err, cordon.NotFound, "")
	}
	w.create(w.machine.ID, cordon.RestrictCodeExecution)
}

var texts = []string{"", "'; DROP TABLE actions; --", `"\`, "a\x00b", "%_*?[", "ÄÖÜ ẞ İ ı 漢字 😀", "line\nfeed\ttab", strings.Repeat("漢", cordon.MaxComment)}

func testTexts(w *world) {
	for i, text := range texts {
		m := Machine(fmt.Sprint("texts", i), text)
		m.Facts.OSPlatform, m.Facts.LastIP, m.Facts.Kernel = text, text, text
		if _, err := w.EnrolMachine(w.Context(), m); err != nil {
			w.Fatal(err)
		}
		w.diff("machine", m, w.machineNow(m.ID))
		d := Draft(m.ID, cordon.RestrictCodeExecution)
		d.Requestor, d.RequestorID, d.Comment, d.Source = text, text, text, text
		w.diff("action", d.Open(1, text), w.createDraft(d))
		w.diff("action, read back", d.Open(1, text), w.action(d.ID))
		changed := w.change(d.ID, func(a cordon.Action) (cordon.Action, []cordon.AuditEntry, error) {
			a.Reason, a.Cancel = text, &cordon.Cancellation{RequestorID: text, Comment: text, At: Noon}
			return a, []cordon.AuditEntry{{At: Noon, Kind: cordon.AuditReport, Machine: m.ID, Action: a.ID, Actor: text, Detail: text, Evidence: text}}, nil
		})
		if changed.Reason != text || changed.Cancel.Comment != text || changed.Cancel.RequestorID != text {
			w.Errorf("changed: %+v", changed)
		}
		w.diff("changed", changed, w.action(d.ID))
		if log := w.auditOf(d.ID); log[0].Detail != d.Open(1, text).Asked() || log[1].Evidence != text || log[1].Actor != text {
			w.Errorf("audit: %+v", log)
		}
	}
}

// testTimes: what is finer than a tick may be lost, downwards, and nothing else.
func testTimes(w *world) {
	east := time.FixedZone("", 2*3600)
	for i, at := range []time.Time{
		{}, time.Unix(0, 0), time.Unix(0, -1), time.Date(1600, 1, 1, 0, 0, 0, 99, time.UTC), time.Date(9999, 12, 31, 23, 59, 59, 999999999, time.UTC),
		time.Date(2026, 3, 1, 1, 2, 3, 123456789, east), time.Now(),
	} {
		m := Machine(fmt.Sprint("times", i), "")
		m.FirstSeen, m.LastSeen = at, at
		if _, err := w.EnrolMachine(w.Context(), m); err != nil {
			w.Fatal(err)
		}
		d := Draft(m.ID, cordon.RestrictCodeExecution)
		d.Created, d.Expires = at, at
		a := w.createDraft(d)
		got := w.action(d.ID)
		w.diff("action, read back", a, got)
		changed := w.change(d.ID, func(a cordon.Action) (cordon.Action, []cordon.AuditEntry, error) {
			a.Updated, a.Delivered, a.Cancel = at, &at, &cordon.Cancellation{At: at}
			return a, nil, nil
		})
		got = w.action(d.ID)
		w.diff("action after a change, read back", changed, got)
		m = w.machineNow(m.ID)
		for _, t := range []time.Time{a.Created, got.Created, got.Updated, got.Expires, *got.Delivered, got.Cancel.At, m.FirstSeen, m.LastSeen, w.auditOf(d.ID)[0].At} {
			if cordon.Ticks(t) != cordon.Ticks(at) {
				w.Errorf("%s became %s", at, t)
			}
			if at.IsZero() && !t.IsZero() {
				w.Errorf("the zero time became %s", t)
			}
		}
	}
}
