package cordon_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/testkit/memstore"
)

const (
	web = cordon.MachineID("1111111111111111111111111111111111111111")
	db  = cordon.MachineID("2222222222222222222222222222222222222222")
)

var soar = cordon.Caller{ID: "app1", DisplayName: "SOAR", Permissions: cordon.AllPermissions(), Source: "PublicApi"}

// world is a service over a store in memory, with a clock that stands still and
// orders that are plain JSON.
type world struct {
	cordon.Service
	store  *memstore.Store
	now    time.Time
	nudged []cordon.MachineID
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{store: new(memstore.Store), now: t0}
	n := 0
	w.Service = cordon.Service{
		Store: w.store, TTL: 72 * time.Hour,
		Nudge: func(m cordon.MachineID) { w.nudged = append(w.nudged, m) },
		Seal:  func(o cordon.Order) (string, error) { b, err := json.Marshal(o); return string(b), err },
		Now:   func() time.Time { return w.now },
		NewID: func() string { n++; return fmt.Sprintf("00000000-0000-4000-8000-%012d", n) },
	}
	for _, m := range []cordon.Machine{
		{ID: web, DeviceID: "aaaaaaaa-0000-8000-8000-000000000001", Facts: cordon.Facts{DNSName: "Web.example.com", OSPlatform: "Debian"}, FirstSeen: t0, LastSeen: t0},
		{ID: db, DeviceID: "aaaaaaaa-0000-8000-8000-000000000002", Facts: cordon.Facts{DNSName: "db.example.com", OSPlatform: "Ubuntu"}, FirstSeen: t0, LastSeen: t0},
	} {
		w.enrol(t, m)
	}
	return w
}

func (w *world) enrol(t *testing.T, m cordon.Machine) {
	t.Helper()
	if _, err := w.store.EnrolMachine(t.Context(), m); err != nil {
		t.Fatal(err)
	}
}

func (w *world) request(t *testing.T, m cordon.MachineID, typ cordon.ActionType) cordon.Action {
	t.Helper()
	machine, err := w.store.Machine(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	a, err := w.Request(t.Context(), soar, machine, typ, "ransomware")
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func (w *world) action(t *testing.T, id cordon.ActionID) cordon.Action {
	t.Helper()
	a, err := w.store.Action(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// kinds lists the audit entries of an action as "kind status".
func (w *world) kinds(t *testing.T, id cordon.ActionID) []string {
	t.Helper()
	entries, err := w.Evidence(t.Context(), soar, id)
	if err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for _, e := range entries {
		kinds = append(kinds, strings.TrimSpace(string(e.Kind)+" "+string(e.Status)))
	}
	return kinds
}

func openOrders(t *testing.T, jws []string) []cordon.Order {
	t.Helper()
	orders := make([]cordon.Order, len(jws))
	for i, o := range jws {
		if err := json.Unmarshal([]byte(o), &orders[i]); err != nil {
			t.Fatal(err)
		}
	}
	return orders
}

func TestFind(t *testing.T) {
	w := newWorld(t)
	for i, name := range []string{"twin.example.com", "TWIN.example.com", ""} {
		w.enrol(t, cordon.Machine{ID: cordon.MachineID(strings.Repeat(fmt.Sprint(3+i), 40)), Facts: cordon.Facts{DNSName: name}})
	}
	for ref, want := range map[string]struct {
		id      cordon.MachineID
		kind    cordon.Kind
		code    cordon.Code
		message string
	}{
		string(web):                            {id: web},
		strings.Repeat("A", 40):                {kind: cordon.NotFound, message: "Machine AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA was not found"},
		" " + string(web) + " ":                {id: web},
		"aaaaaaaa-0000-8000-8000-000000000002": {id: db},
		"AAAAAAAA-0000-8000-8000-000000000002": {id: db},
		"aaaaaaaa-0000-8000-8000-000000000003": {kind: cordon.NotFound, message: "Machine aaaaaaaa-0000-8000-8000-000000000003 was not found"},
		"db.example.com":                       {id: db},
		"web.EXAMPLE.com":                      {id: web},
		"web":                                  {kind: cordon.NotFound, message: "Machine web was not found"},
		"twin.example.com":                     {kind: cordon.Invalid, code: cordon.CodeAmbiguousName, message: "Several machines are named twin.example.com. Use the machine id instead"},
		"":                                     {kind: cordon.NotFound, message: "Machine  was not found"},
		"  ":                                   {kind: cordon.NotFound, message: "Machine  was not found"},
	} {
		m, err := w.Find(t.Context(), soar, cordon.ReadMachines, ref)
		if m.ID != want.id || (err != nil) != (want.message != "") || err != nil && (cordon.KindOf(err) != want.kind || cordon.CodeOf(err) != want.code || err.Error() != want.message) {
			t.Errorf("%q: got %q, %v; want %+v", ref, m.ID, err, want)
		}
	}
	broken := errors.New("disk on fire")
	w.Service.Store = brokenStore{w.store, broken}
	if _, err := w.Find(t.Context(), soar, cordon.ReadMachines, string(web)); !errors.Is(err, broken) {
		t.Errorf("a broken store: %v", err)
	}
}

// brokenStore fails every look-up of a machine.
type brokenStore struct {
	cordon.Store
	err error
}

func (s brokenStore) Machine(context.Context, cordon.MachineID) (cordon.Machine, error) {
	return cordon.Machine{}, s.err
}

// Every method asks for its permission before it touches the store.
func TestPermissions(t *testing.T) {
	w := newWorld(t)
	a := w.request(t, web, cordon.RestrictCodeExecution)
	cancelled := w.request(t, web, cordon.UnrestrictCodeExecution)
	machine, err := w.store.Machine(t.Context(), web)
	if err != nil {
		t.Fatal(err)
	}
	all := cordon.AllPermissions()
	read := []cordon.Permission{cordon.MachineReadAll, cordon.MachineReadWriteAll}
	cancel := []cordon.Permission{cordon.MachineIsolate, cordon.MachineRestrict, cordon.MachineScan, cordon.MachineOffboard,
		cordon.MachineStopQuarantine, cordon.MachineLiveResponse, cordon.MachineCollectForensics}
	ctx := t.Context()
	for name, c := range map[string]struct {
		call    func(cordon.Caller) error
		allowed []cordon.Permission
	}{
		"Find":     {func(c cordon.Caller) error { _, err := w.Find(ctx, c, cordon.ReadMachines, string(web)); return err }, read},
		"Machines": {func(c cordon.Caller) error { _, _, err := w.Machines(ctx, c, cordon.Query{}); return err }, read},
		"Actions":  {func(c cordon.Caller) error { _, _, err := w.Actions(ctx, c, cordon.Query{}); return err }, read},
		"Action":   {func(c cordon.Caller) error { _, err := w.Action(ctx, c, a.ID); return err }, read},
		"Evidence": {func(c cordon.Caller) error { _, err := w.Evidence(ctx, c, a.ID); return err }, read},
		"Request": {func(c cordon.Caller) error {
			_, err := w.Request(ctx, c, machine, cordon.RestrictCodeExecution, "x")
			if cordon.CodeOf(err) == cordon.CodeActionInProgress {
				return nil
			}
			return err
		}, []cordon.Permission{cordon.MachineRestrict}},
		"CarriedOrder": {func(c cordon.Caller) error { _, err := w.CarriedOrder(ctx, c, a.ID); return err }, []cordon.Permission{cordon.MachineRestrict}},
		"Cancel":       {func(c cordon.Caller) error { _, err := w.Cancel(ctx, c, cancelled.ID, ""); return err }, cancel},
	} {
		for _, p := range all {
			err := c.call(cordon.Caller{Permissions: []cordon.Permission{p}})
			if may := strings.Contains(fmt.Sprint(c.allowed), string(p)); may != (err == nil) {
				t.Errorf("%s with %s: %v", name, p, err)
			}
		}
		err := c.call(cordon.Caller{})
		if cordon.KindOf(err) != cordon.Forbidden || cordon.CodeOf(err) != cordon.CodeMissingPermission {
			t.Errorf("%s with no permission: %v", name, err)
		}
	}
}

func TestRequest(t *testing.T) {
	w := newWorld(t)
	w.now = t0.Add(150).In(time.FixedZone("elsewhere", 3600)) // half a tick, another zone
	a := w.request(t, web, cordon.RestrictCodeExecution)
	want := cordon.Action{
		ID: "00000000-0000-4000-8000-000000000001", Type: "RestrictCodeExecution", Machine: web, DNSName: "Web.example.com", Generation: 1,
		Requestor: "SOAR", RequestorID: "app1", Comment: "ransomware", Source: "PublicApi", Status: "Pending",
		Created: t0.Add(100), Updated: t0.Add(100), Expires: t0.Add(72*time.Hour + 100),
	}
	if d := cmp.Diff(want, a); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if a.Created.Location() != time.UTC {
		t.Errorf("created in %s", a.Created.Location())
	}
	if d := cmp.Diff(want, w.action(t, a.ID)); d != "" {
		t.Errorf("stored (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]cordon.MachineID{web}, w.nudged); d != "" {
		t.Errorf("nudged (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]string{"created Pending"}, w.kinds(t, a.ID)); d != "" {
		t.Errorf("audit (-want +got):\n%s", d)
	}
	if b := w.request(t, web, cordon.UnrestrictCodeExecution); b.Generation != 2 {
		t.Errorf("the other type got generation %d", b.Generation)
	}
	if b := w.request(t, db, cordon.RestrictCodeExecution); b.Generation != 1 {
		t.Errorf("the other machine got generation %d", b.Generation)
	}
}

func TestRequestRefused(t *testing.T) {
	w := newWorld(t)
	linux, err := w.store.Machine(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	windows, unknown := linux, linux
	windows.Facts.OSPlatform = "Windows10"
	unknown.ID = cordon.MachineID(strings.Repeat("9", 40))
	w.request(t, web, cordon.RestrictCodeExecution)
	busy, err := w.store.Machine(t.Context(), web)
	if err != nil {
		t.Fatal(err)
	}
	w.nudged = nil
	before := len(w.store.AuditLog())
	for name, c := range map[string]struct {
		machine cordon.Machine
		comment string
		kind    cordon.Kind
		code    cordon.Code
		message string
	}{
		"no comment":        {linux, "", cordon.Invalid, cordon.CodeMissingParameter, "Parameter Comment is missing."},
		"blank comment":     {linux, " \t\n", cordon.Invalid, cordon.CodeMissingParameter, "Parameter Comment is missing."},
		"long comment":      {linux, strings.Repeat("ä", 4001), cordon.Invalid, cordon.CodeInvalidInput, "Invalid input Comment: it has 4001 characters, allowed are 4000."},
		"broken UTF-8":      {linux, "a\xff", cordon.Invalid, cordon.CodeInvalidInput, "Invalid input Comment: it is not valid UTF-8."},
		"another system":    {windows, "x", cordon.Invalid, cordon.CodePlatformUnsupport, "OS Platform Windows10 is not supported for this action."},
		"unknown machine":   {unknown, "x", cordon.NotFound, "", ""},
		"already under way": {busy, "x", cordon.Conflict, cordon.CodeActionInProgress, ""},
	} {
		_, err := w.Request(t.Context(), soar, c.machine, cordon.RestrictCodeExecution, c.comment)
		if cordon.KindOf(err) != c.kind || cordon.CodeOf(err) != c.code || c.message != "" && err.Error() != c.message {
			t.Errorf("%s: %v (%v %s)", name, err, cordon.KindOf(err), cordon.CodeOf(err))
		}
	}
	if len(w.store.AuditLog()) != before || w.nudged != nil {
		t.Error("a refused request left a trace")
	}
	if _, err := w.Request(t.Context(), soar, linux, cordon.RestrictCodeExecution, strings.Repeat("ä", 4000)); err != nil {
		t.Errorf("the longest comment: %v", err)
	}
}

func TestDuplicateRule(t *testing.T) {
	w := newWorld(t)
	a := w.request(t, web, cordon.RestrictCodeExecution)
	w.request(t, web, cordon.UnrestrictCodeExecution) // another type
	w.request(t, db, cordon.RestrictCodeExecution)    // another machine
	machine, err := w.store.Machine(t.Context(), web)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Request(t.Context(), soar, machine, cordon.RestrictCodeExecution, "x"); cordon.CodeOf(err) != cordon.CodeActionInProgress {
		t.Fatalf("while one is open: %v", err)
	}
	if _, err := w.Cancel(t.Context(), soar, a.ID, ""); err != nil {
		t.Fatal(err)
	}
	if b := w.request(t, web, cordon.RestrictCodeExecution); b.Generation != 3 {
		t.Errorf("generation %d after the first one ended", b.Generation)
	}
}

func TestOrdersComeInOrderAndAreDurablyDelivered(t *testing.T) {
	w := newWorld(t)
	a, b := w.request(t, web, cordon.RestrictCodeExecution), w.request(t, web, cordon.UnrestrictCodeExecution)
	w.request(t, db, cordon.RestrictCodeExecution)
	w.now = soon
	jws, err := w.Orders(t.Context(), web)
	if err != nil {
		t.Fatal(err)
	}
	want := []cordon.Order{
		{Machine: web, Action: a.ID, Generation: 1, Type: cordon.RestrictOrder, Comment: "ransomware", Issued: soon, Expires: a.Expires},
		{Machine: web, Action: b.ID, Generation: 2, Type: cordon.UnrestrictOrder, Comment: "ransomware", Issued: soon, Expires: b.Expires},
	}
	if d := cmp.Diff(want, openOrders(t, jws)); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	for _, id := range []cordon.ActionID{a.ID, b.ID} {
		if got := w.action(t, id); got.Delivered == nil || !got.Delivered.Equal(soon) || got.Status != cordon.Pending {
			t.Errorf("stored: %+v", got)
		}
	}
	entries, err := w.Evidence(t.Context(), soar, a.ID)
	if err != nil {
		t.Fatal(err)
	}
	if e := entries[len(entries)-1]; e.Kind != cordon.AuditDelivered || e.Actor != string(web) || e.Evidence != jws[0] {
		t.Errorf("audit: %+v", e)
	}
	// Offered again, always; audited once.
	if jws, err = w.Orders(t.Context(), web); err != nil || len(jws) != 2 {
		t.Errorf("again: %d orders, %v", len(jws), err)
	}
	if d := cmp.Diff([]string{"created Pending", "delivered Pending"}, w.kinds(t, a.ID)); d != "" {
		t.Errorf("audit (-want +got):\n%s", d)
	}
}

// An order that is not durably marked as delivered does not leave the server,
// or a cancellation would believe that it never did.
func TestNoOrderBeforeItIsDurable(t *testing.T) {
	for _, done := range []bool{false, true} {
		w := newWorld(t)
		a := w.request(t, web, cordon.RestrictCodeExecution)
		full := errors.New("disk full")
		w.store.Hook = func(method string, after bool) error {
			if method == "ChangeAction" && after == done {
				return full
			}
			return nil
		}
		if jws, err := w.Orders(t.Context(), web); !errors.Is(err, full) || len(jws) > 0 {
			t.Errorf("orders %v, %v", jws, err)
		}
		if jws, err := w.CarriedOrder(t.Context(), soar, a.ID); done == false && (!errors.Is(err, full) || jws != "") {
			t.Errorf("carried order %q, %v", jws, err)
		}
	}
}

// A cancellation or an end that comes between the look-up and the delivery wins.
func TestDeliveryLosesRaces(t *testing.T) {
	for name, meanwhile := range map[string]func(*testing.T, *world, cordon.ActionID){
		"cancelled": func(t *testing.T, w *world, id cordon.ActionID) {
			if _, err := w.Cancel(t.Context(), soar, id, ""); err != nil {
				t.Fatal(err)
			}
		},
		"expired": func(t *testing.T, w *world, id cordon.ActionID) {
			w.now = end.Add(time.Hour)
			if n, err := w.ExpireDue(t.Context()); n != 1 || err != nil {
				t.Fatalf("expired %d, %v", n, err)
			}
		},
	} {
		w := newWorld(t)
		a := w.request(t, web, cordon.RestrictCodeExecution)
		seal := w.Service.Seal
		w.Service.Seal = func(o cordon.Order) (string, error) {
			meanwhile(t, w, a.ID)
			return seal(o)
		}
		before := w.now
		jws, err := w.Orders(t.Context(), web)
		if err != nil || len(jws) != 0 {
			t.Errorf("%s: %v, %v", name, jws, err)
		}
		if got := w.action(t, a.ID); !got.Status.Terminal() || got.Delivered != nil {
			t.Errorf("%s since %s: %+v", name, before, got)
		}
	}
}

// Two connections that hand out one order at once audit its first delivery once.
func TestDeliveredTwiceAtOnce(t *testing.T) {
	w := newWorld(t)
	a := w.request(t, web, cordon.RestrictCodeExecution)
	seal, first := w.Service.Seal, true
	w.Service.Seal = func(o cordon.Order) (string, error) {
		if first {
			first = false
			if jws, err := w.Orders(t.Context(), web); len(jws) != 1 || err != nil {
				t.Errorf("the other one: %v, %v", jws, err)
			}
		}
		return seal(o)
	}
	if jws, err := w.Orders(t.Context(), web); len(jws) != 1 || err != nil {
		t.Errorf("%v, %v", jws, err)
	}
	if d := cmp.Diff([]string{"created Pending", "delivered Pending"}, w.kinds(t, a.ID)); d != "" {
		t.Errorf("audit (-want +got):\n%s", d)
	}
}

func TestOrdersEndWhatExpired(t *testing.T) {
	w := newWorld(t)
	a := w.request(t, web, cordon.RestrictCodeExecution)
	w.now = a.Expires
	if jws, err := w.Orders(t.Context(), web); err != nil || len(jws) != 0 {
		t.Errorf("%v, %v", jws, err)
	}
	if got := w.action(t, a.ID); got.Status != cordon.TimeOut || got.Delivered != nil {
		t.Errorf("%+v", got)
	}
	if d := cmp.Diff([]string{"created Pending", "ended TimeOut"}, w.kinds(t, a.ID)); d != "" {
		t.Errorf("audit (-want +got):\n%s", d)
	}
}

func TestOrdersThatCannotBeSigned(t *testing.T) {
	w := newWorld(t)
	a := w.request(t, web, cordon.RestrictCodeExecution)
	noKey := errors.New("no key")
	w.Service.Seal = func(cordon.Order) (string, error) { return "", noKey }
	if _, err := w.Orders(t.Context(), web); !errors.Is(err, noKey) {
		t.Errorf("got %v", err)
	}
	if w.action(t, a.ID).Delivered != nil {
		t.Error("an order that was never made counts as delivered")
	}
}

func TestCarriedOrder(t *testing.T) {
	w := newWorld(t)
	a := w.request(t, web, cordon.RestrictCodeExecution)
	jws, err := w.CarriedOrder(t.Context(), soar, a.ID)
	if err != nil {
		t.Fatal(err)
	}
	if o := openOrders(t, []string{jws})[0]; o.Action != a.ID || o.Type != cordon.RestrictOrder {
		t.Errorf("got %+v", o)
	}
	if w.action(t, a.ID).Delivered == nil {
		t.Error("not marked as delivered")
	}
	w.now = a.Expires
	if jws, err := w.CarriedOrder(t.Context(), soar, a.ID); cordon.CodeOf(err) != cordon.CodeActionExpired || jws != "" {
		t.Errorf("expired: %q, %v", jws, err)
	}
	if _, err := w.CarriedOrder(t.Context(), soar, "nosuch"); cordon.KindOf(err) != cordon.NotFound {
		t.Errorf("unknown action: %v", err)
	}
}

func TestCancel(t *testing.T) {
	w := newWorld(t)
	a := w.request(t, web, cordon.RestrictCodeExecution)
	w.now = soon
	w.nudged = nil
	got, err := w.Cancel(t.Context(), soar, a.ID, "false alarm")
	if err != nil || got.Status != cordon.Cancelled || !cmp.Equal(got.Cancel, &cordon.Cancellation{RequestorID: "app1", Comment: "false alarm", At: soon}) {
		t.Fatalf("undelivered: %+v, %v", got, err)
	}
	if w.nudged != nil {
		t.Error("a machine that never got the order is nudged")
	}
	if again, err := w.Cancel(t.Context(), soar, a.ID, "again"); err != nil || !cmp.Equal(again, got) {
		t.Errorf("again: %+v, %v", again, err)
	}
	if d := cmp.Diff([]string{"created Pending", "cancel Cancelled"}, w.kinds(t, a.ID)); d != "" {
		t.Errorf("audit (-want +got):\n%s", d)
	}

	b := w.request(t, web, cordon.RestrictCodeExecution)
	if _, err := w.Orders(t.Context(), web); err != nil {
		t.Fatal(err)
	}
	w.nudged = nil
	if got, err = w.Cancel(t.Context(), soar, b.ID, ""); err != nil || got.Status != cordon.Pending || got.Cancel == nil {
		t.Fatalf("delivered: %+v, %v", got, err)
	}
	if d := cmp.Diff([]cordon.MachineID{web}, w.nudged); d != "" {
		t.Errorf("nudged (-want +got):\n%s", d)
	}
	jws, err := w.Orders(t.Context(), web)
	if err != nil {
		t.Fatal(err)
	}
	if o := openOrders(t, jws); len(o) != 1 || o[0].Type != cordon.CancelOrder || o[0].Generation != b.Generation {
		t.Errorf("orders after the wish to cancel: %+v", o)
	}

	for name, c := range map[string]struct {
		id      cordon.ActionID
		comment string
		kind    cordon.Kind
		code    cordon.Code
	}{
		"unknown action": {"nosuch", "", cordon.NotFound, ""},
		"long comment":   {b.ID, strings.Repeat("x", 4001), cordon.Invalid, cordon.CodeInvalidInput},
	} {
		if _, err := w.Cancel(t.Context(), soar, c.id, c.comment); cordon.KindOf(err) != c.kind || cordon.CodeOf(err) != c.code {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestReport(t *testing.T) {
	w := newWorld(t)
	a := w.request(t, web, cordon.RestrictCodeExecution)
	if _, err := w.Orders(t.Context(), web); err != nil {
		t.Fatal(err)
	}
	w.now = soon
	observed := cordon.Observed{Generation: 1, Mode: cordon.ModeEnforce, InForce: true, Enforcer: "fanotify"}
	report := func(s cordon.ReportState, why string) cordon.Report {
		return cordon.Report{Machine: web, Action: a.ID, Generation: 1, State: s, Error: why, Observed: observed}
	}
	for _, step := range []struct {
		report cordon.Report
		want   cordon.Status
	}{
		{report(cordon.ReportInProgress, ""), cordon.InProgress},
		{report(cordon.ReportInProgress, ""), cordon.InProgress},
		{report(cordon.ReportSucceeded, ""), cordon.Succeeded},
		{report(cordon.ReportSucceeded, ""), cordon.Succeeded},
		{report(cordon.ReportFailed, "the canary ran"), cordon.Succeeded},
	} {
		got, err := w.Report(t.Context(), web, step.report, "jws:"+string(step.report.State))
		if err != nil || got.Status != step.want {
			t.Fatalf("%s: %s, %v", step.report.State, got.Status, err)
		}
	}
	want := []string{"created Pending", "delivered Pending", "report InProgress", "report Succeeded", "report Succeeded"}
	if d := cmp.Diff(want, w.kinds(t, a.ID)); d != "" {
		t.Errorf("audit (-want +got):\n%s", d)
	}
	entries, err := w.Evidence(t.Context(), soar, a.ID)
	if err != nil {
		t.Fatal(err)
	}
	if e := entries[3]; e.Evidence != "jws:Succeeded" || e.Actor != string(web) || e.Detail != "" {
		t.Errorf("audit: %+v", e)
	}
	if e := entries[4]; e.Detail != "came after the end, changed nothing: Failed the canary ran" {
		t.Errorf("audit of the late one: %+v", e)
	}
	m, err := w.store.Machine(t.Context(), web)
	if err != nil || !cmp.Equal(m.Observed, observed) || m.Generation != 1 || !m.LastSeen.Equal(soon) {
		t.Errorf("machine: %+v, %v", m, err)
	}
}

func TestReportRefused(t *testing.T) {
	w := newWorld(t)
	a := w.request(t, web, cordon.RestrictCodeExecution)
	before := w.action(t, a.ID)
	for name, c := range map[string]struct {
		signer cordon.MachineID
		report cordon.Report
		kind   cordon.Kind
	}{
		"another machine's action":      {db, cordon.Report{Machine: db, Action: a.ID, Generation: 1, State: cordon.ReportSucceeded}, cordon.Forbidden},
		"in another machine's name":     {db, cordon.Report{Machine: web, Action: a.ID, Generation: 1, State: cordon.ReportSucceeded}, cordon.Forbidden},
		"refusal in another one's name": {db, cordon.Report{Machine: web, Action: a.ID, Generation: 1, State: cordon.ReportRefused}, cordon.Forbidden},
		"an action that does not exist": {web, cordon.Report{Machine: web, Action: "nosuch", Generation: 1, State: cordon.ReportSucceeded}, cordon.NotFound},
	} {
		if _, err := w.Report(t.Context(), c.signer, c.report, "jws"); cordon.KindOf(err) != c.kind {
			t.Errorf("%s: %v", name, err)
		}
	}
	if d := cmp.Diff(before, w.action(t, a.ID)); d != "" {
		t.Errorf("the action changed (-before +after):\n%s", d)
	}

	// What a machine refused is evidence, whether there is such an action or not.
	for _, id := range []cordon.ActionID{a.ID, "nosuch", ""} {
		r := cordon.Report{Machine: web, Action: id, State: cordon.ReportRefused, Error: "bad signature"}
		if _, err := w.Report(t.Context(), web, r, "jws"); err != nil {
			t.Errorf("refusal of %q: %v", id, err)
		}
		log := w.store.AuditLog()
		if e := log[len(log)-1]; e.Action != id || e.Kind != cordon.AuditReport || e.Detail != "refused: bad signature" || e.Evidence != "jws" {
			t.Errorf("audit: %+v", e)
		}
	}
	if d := cmp.Diff(before, w.action(t, a.ID)); d != "" {
		t.Errorf("a refusal moved the action (-before +after):\n%s", d)
	}
}

// What is found to be due ends, also if the clock is set back in between.
func TestExpireDueAtOneTime(t *testing.T) {
	w := newWorld(t)
	id := w.request(t, web, cordon.RestrictCodeExecution).ID
	now := end
	w.Now = func() time.Time {
		defer func() { now = t0 }()
		return now
	}
	n, err := w.ExpireDue(t.Context())
	if a := w.action(t, id); n != 1 || err != nil || a.Status != cordon.TimeOut {
		t.Errorf("%d expired, %v; the action is %s", n, err, a.Status)
	}
}

func TestExpireDue(t *testing.T) {
	w := newWorld(t)
	var ids []cordon.ActionID
	for i := range 600 { // more than two batches
		m := cordon.Machine{ID: cordon.MachineID(fmt.Sprintf("%040x", i)), Facts: cordon.Facts{OSPlatform: "Debian"}}
		w.enrol(t, m)
		ids = append(ids, w.request(t, m.ID, cordon.RestrictCodeExecution).ID)
	}
	delivered := w.request(t, web, cordon.RestrictCodeExecution)
	if _, err := w.Orders(t.Context(), web); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		at   time.Time
		want int
	}{{end.Add(-1), 0}, {end, 600}, {end, 0}, {end.Add(cordon.DeliveredGrace), 1}} {
		w.now = step.at
		if n, err := w.ExpireDue(t.Context()); n != step.want || err != nil {
			t.Fatalf("at %s: %d, %v; want %d", step.at, n, err, step.want)
		}
	}
	for _, id := range append(ids, delivered.ID) {
		if a := w.action(t, id); a.Status != cordon.TimeOut {
			t.Fatalf("%s is %s", id, a.Status)
		}
	}
	w.now, w.Grace = t0, time.Second
	w.request(t, web, cordon.RestrictCodeExecution)
	if _, err := w.Orders(t.Context(), web); err != nil {
		t.Fatal(err)
	}
	w.now = end.Add(time.Second)
	if n, err := w.ExpireDue(t.Context()); n != 1 || err != nil {
		t.Errorf("with a grace of a second: %d, %v", n, err)
	}
	broken := errors.New("disk on fire")
	w.now = t0
	w.request(t, db, cordon.RestrictCodeExecution)
	w.now = end
	w.store.Hook = func(string, bool) error { return broken }
	if n, err := w.ExpireDue(t.Context()); n != 0 || !errors.Is(err, broken) {
		t.Errorf("a broken store: %d, %v", n, err)
	}
}

func TestSupportsCanBeOtherwise(t *testing.T) {
	w := newWorld(t)
	m := cordon.Machine{ID: "w", Facts: cordon.Facts{OSPlatform: "Windows11"}}
	w.enrol(t, m)
	no := cordon.Errorf(cordon.Invalid, cordon.CodeVersionUnsupport, "too old")
	w.Supports = func(f cordon.Facts, a cordon.ActionType) error {
		if f.OSPlatform != "Windows11" || a != cordon.RestrictCodeExecution {
			return no
		}
		return nil
	}
	w.request(t, m.ID, cordon.RestrictCodeExecution)
	if _, err := w.Request(t.Context(), soar, m, cordon.UnrestrictCodeExecution, "why"); !errors.Is(err, no) {
		t.Errorf("got %v", err)
	}
}
