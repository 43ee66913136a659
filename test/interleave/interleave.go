// Package interleave runs the protocol between the server and two machines
// under random interleavings, and checks what must be true whatever happens.
//
// The server is the real [cordon.Service] over a store in memory. The channels
// lose, repeat, delay, reorder and misroute what they carry. Either side is
// killed at any step, disks fail, time passes. After each run the faults stop
// and everything is drained to quiet. Who wants to be tested is a [Machine]; it
// acts on a [Kernel], which is the ground truth.
package interleave

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/seal"
	"github.com/cordon-project/cordon/internal/testkit/memstore"
)

// Machine is an agent, or a model of one. A test drives it one call at a time.
type Machine interface {
	// Take takes up an order and returns the signed reports to send.
	Take(jws string) []string
	// Outbox returns the signed reports that are not settled.
	Outbox() []string
	// Settle tells that the server has taken in the outcomes of these actions.
	Settle([]cordon.ActionID)
	// Durable returns the standing that is on disk.
	Durable() cordon.Standing
	// Snapshot remembers what is on disk now, as the moment of a crash.
	Snapshot()
	// Restart kills the process and starts it again from the last snapshot, if
	// there was one since the last start, or else from what is on disk.
	Restart()
	// BreakDisk makes the disk refuse everything that is to be stored, or mends it.
	BreakDisk(broken bool)
}

// Setup is what a machine is made with.
type Setup struct {
	Key      ed25519.PrivateKey
	OrderKey ed25519.PublicKey
	Now      func() time.Time
	Kernel   *Kernel
}

// Kernel is what a machine acts on: it remembers what really happened.
type Kernel struct {
	t       *rapid.T
	machine Machine
	mode    cordon.Mode
	log     []attempt
	begun   map[cordon.ActionID]bool
	fault   fault
	dead    bool // the process was killed; whatever it still does did not happen

	mayBegin func(cordon.ActionID) error
}

// attempt is one try to make an order true.
type attempt struct {
	action     cordon.ActionID
	generation uint64
	mode       cordon.Mode
	ok         bool
}

// Switch puts a mode in force. What an order asks for has to be on disk when it
// is called. An order either can be applied on this machine or cannot, however
// often it is tried.
func (k *Kernel) Switch(mode cordon.Mode) error {
	if k.dead {
		return errors.New("killed")
	}
	s := k.machine.Durable()
	if s.Generation == 0 || s.Mode != mode {
		k.t.Fatalf("the machine switches to %s, on its disk is %+v", mode, s)
	}
	if s.Outcome != "" { // a restart restores what was achieved before
		k.mode = mode
		return nil
	}
	if !k.begun[s.Action] {
		k.begun[s.Action] = true
		if err := k.mayBegin(s.Action); err != nil {
			k.t.Fatal(err)
		}
	}
	if k.fault == killedBeforeSwitch {
		k.kill()
		return errors.New("killed")
	}
	doomed := false
	for _, a := range k.log {
		if a.generation > s.Generation {
			k.t.Fatalf("generation %d is applied after %d", s.Generation, a.generation)
		}
		if a.action == s.Action {
			doomed = !a.ok
		}
	}
	if n := len(k.log); n == 0 || k.log[n-1].action != s.Action {
		doomed = rapid.IntRange(0, 4).Draw(k.t, "can be applied") == 0
	}
	k.log = append(k.log, attempt{s.Action, s.Generation, mode, !doomed})
	if !doomed {
		k.mode = mode
	}
	switch k.fault {
	case killedAfterSwitch:
		k.kill()
	case diskFullAfterSwitch:
		k.machine.BreakDisk(true)
	}
	if doomed {
		return errors.New("the canary ran")
	}
	return nil
}

func (k *Kernel) kill() {
	k.machine.Snapshot()
	k.dead = true
}

// applied returns the last attempt at each action.
func (k *Kernel) applied() map[cordon.ActionID]attempt {
	last := make(map[cordon.ActionID]attempt)
	for _, a := range k.log {
		last[a.action] = a
	}
	return last
}

// fault is what goes wrong while a machine takes up an order.
type fault string

const (
	none                fault = "nothing"
	killedBeforeSwitch  fault = "machine killed before it acted"
	killedAfterSwitch   fault = "machine killed after it acted"
	killedBeforeReport  fault = "machine killed before it reported"
	diskFull            fault = "disk full"
	diskFullAfterSwitch fault = "disk full after it acted"
)

var errKilled = errors.New("server killed")

type endpoint struct {
	Machine
	id     cordon.MachineID
	key    ed25519.PublicKey
	kernel *Kernel
	high   uint64 // generation it was last seen to stand at
}

type order struct {
	to  int
	jws string
}

type report struct {
	from int
	jws  []string
}

type settled struct {
	to      int
	actions []cordon.ActionID
}

type world struct {
	t        *rapid.T
	svc      cordon.Service
	orderKey ed25519.PublicKey
	store    *memstore.Store
	now      time.Time
	machines []*endpoint

	// The server is killed at this many more changes of the store, before or after.
	killAt    int
	killAfter bool

	orders  []order
	reports []report
	settled []settled

	promised map[cordon.ActionID]bool          // answered with 201
	ended    map[cordon.ActionID]cordon.Action // as they were when they ended
	issued   map[cordon.MachineID]uint64       // the server's generations
}

// Run runs one random history.
func Run(t *rapid.T, newMachine func(Setup) Machine) {
	w := newWorld(t, newMachine)
	t.Repeat(map[string]func(*rapid.T){
		"":            w.check,
		"create":      w.create,
		"cancel":      w.cancel,
		"offer":       func(t *rapid.T) { w.offer(w.anyMachine(t)) },
		"carry":       w.carry,
		"bring order": func(t *rapid.T) { w.bringOrder(t, none) },
		"bring order to trouble": func(t *rapid.T) {
			w.bringOrder(t, rapid.SampledFrom([]fault{killedBeforeSwitch, killedAfterSwitch, killedBeforeReport, diskFull, diskFullAfterSwitch}).Draw(t, "trouble"))
		},
		"bring report":  w.bringReport,
		"bring settled": w.bringSettled,
		"lose":          w.lose,
		"tell again":    func(t *rapid.T) { w.tell(w.anyMachine(t)) },
		"restart":       func(t *rapid.T) { w.restart(w.anyMachine(t)) },
		"kill server":   w.killServer,
		"pass time":     w.pass,
	})
	w.drain(t)
}

func newWorld(t *rapid.T, newMachine func(Setup) Machine) *world {
	w := &world{
		t: t, store: new(memstore.Store), now: time.Date(2026, 11, 21, 8, 0, 0, 0, time.UTC), killAt: -1,
		promised: make(map[cordon.ActionID]bool), ended: make(map[cordon.ActionID]cordon.Action), issued: make(map[cordon.MachineID]uint64),
	}
	orderKey := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	w.orderKey = orderKey.Public().(ed25519.PublicKey)
	n := 0
	w.svc = cordon.Service{
		Store: w.store, TTL: cordon.DefaultTTL, Nudge: func(cordon.MachineID) {}, Now: func() time.Time { return w.now },
		Seal:  func(o cordon.Order) (string, error) { return seal.Order(o, orderKey) },
		NewID: func() string { n++; return fmt.Sprint("action-", n) },
	}
	for i := range 2 {
		seed := make([]byte, ed25519.SeedSize)
		seed[0] = byte(i + 1)
		key := ed25519.NewKeyFromSeed(seed)
		public := key.Public().(ed25519.PublicKey)
		m := &endpoint{id: cordon.IDOfKey(public), key: public, kernel: &Kernel{t: t, mode: cordon.ModeOff, fault: none, begun: make(map[cordon.ActionID]bool), mayBegin: w.mayBegin}}
		m.Machine = newMachine(Setup{Key: key, OrderKey: w.orderKey, Now: w.svc.Now, Kernel: m.kernel})
		m.kernel.machine = m
		w.machines = append(w.machines, m)
		_, err := w.store.EnrolMachine(w.t.Context(), cordon.Machine{ID: m.id, Key: public, Facts: cordon.Facts{OSPlatform: "Debian"}})
		w.must(err)
	}
	w.store.Hook = func(_ string, done bool) error {
		if done != w.killAfter || w.killAt < 0 {
			return nil
		}
		if w.killAt--; w.killAt < 0 {
			return errKilled
		}
		return nil
	}
	return w
}

var caller = cordon.Caller{ID: "app", DisplayName: "SOAR", Permissions: cordon.AllPermissions(), Source: "PublicApi"}

// must accepts that the server was killed, and whatever kinds of error are named.
func (w *world) must(err error, kinds ...cordon.Kind) bool {
	if err == nil {
		return true
	}
	for _, k := range kinds {
		if cordon.KindOf(err) == k {
			return false
		}
	}
	if !errors.Is(err, errKilled) {
		w.t.Fatalf("unexpected error: %v", err)
	}
	return false
}

func (w *world) anyMachine(t *rapid.T) int {
	return rapid.IntRange(0, len(w.machines)-1).Draw(t, "machine")
}

func (w *world) create(t *rapid.T) {
	m, err := w.store.Machine(w.t.Context(), w.machines[w.anyMachine(t)].id)
	w.must(err)
	typ := rapid.SampledFrom([]cordon.ActionType{cordon.RestrictCodeExecution, cordon.UnrestrictCodeExecution}).Draw(t, "type")
	if a, err := w.svc.Request(t.Context(), caller, m, typ, "comment"); w.must(err, cordon.Conflict) {
		w.promised[a.ID] = true
	}
}

func (w *world) actions() []cordon.Action {
	all, _, err := w.store.Actions(w.t.Context(), cordon.Query{})
	w.must(err)
	return all
}

func (w *world) anyAction(t *rapid.T) cordon.ActionID {
	all := w.actions()
	if len(all) == 0 {
		t.Skip("no action yet")
	}
	return all[rapid.IntRange(0, min(len(all), 6)-1).Draw(t, "action, the newest first")].ID
}

func (w *world) cancel(t *rapid.T) {
	_, err := w.svc.Cancel(t.Context(), caller, w.anyAction(t), "comment")
	w.must(err, cordon.Conflict)
}

func (w *world) offer(i int) {
	jws, err := w.svc.Orders(w.t.Context(), w.machines[i].id)
	w.must(err)
	var last uint64
	for _, signed := range jws {
		o, err := seal.OpenOrder(signed, w.orderKey)
		w.must(err)
		if a, err := w.store.Action(w.t.Context(), o.Action); !w.must(err) || a.Delivered == nil || a.Status.Terminal() || !w.now.Before(o.Expires) || o.Generation <= last {
			w.t.Fatalf("at %s after generation %d order %+v leaves the server, of action %s", w.now, last, o, show(a))
		}
		last = o.Generation
		w.orders = append(w.orders, order{i, signed})
	}
}

func (w *world) carry(t *rapid.T) {
	id := w.anyAction(t)
	a, err := w.store.Action(w.t.Context(), id)
	w.must(err)
	if jws, err := w.svc.CarriedOrder(t.Context(), caller, id); w.must(err, cordon.Conflict) {
		for i, m := range w.machines {
			if m.id == a.Machine {
				w.orders = append(w.orders, order{i, jws})
			}
		}
	}
}

// pick takes an element out of a channel, mostly the oldest, and now and then
// leaves a copy behind.
func pick[T any](t *rapid.T, channel *[]T) T {
	if len(*channel) == 0 {
		t.Skip("nothing on its way")
	}
	i := 0
	if rapid.IntRange(0, 2).Draw(t, "in order") == 0 {
		i = rapid.IntRange(0, len(*channel)-1).Draw(t, "which")
	}
	x := (*channel)[i]
	if rapid.IntRange(0, 3).Draw(t, "once") != 0 {
		*channel = append((*channel)[:i:i], (*channel)[i+1:]...)
	}
	return x
}

func (w *world) bringOrder(t *rapid.T, f fault) {
	o := pick(t, &w.orders)
	if rapid.IntRange(0, 9).Draw(t, "misrouted") == 0 {
		o.to = w.anyMachine(t)
	}
	w.take(o, f)
}

func (w *world) take(o order, f fault) {
	m := w.machines[o.to]
	m.kernel.fault = f
	if f == diskFull {
		m.BreakDisk(true)
	}
	jws := m.Take(o.jws)
	m.BreakDisk(false)
	if m.kernel.dead || f == killedBeforeReport {
		w.restart(o.to)
	} else if len(jws) > 0 {
		w.reports = append(w.reports, report{o.to, jws})
	}
	m.kernel.fault = none
}

// restart kills the machine, whose kernel then lets go, and starts it again.
func (w *world) restart(i int) {
	m := w.machines[i]
	m.kernel.dead, m.kernel.fault, m.kernel.mode = false, none, cordon.ModeOff
	m.Restart()
}

// mayBegin holds when a machine acts on an order for the first time.
func (w *world) mayBegin(id cordon.ActionID) error {
	a, err := w.store.Action(w.t.Context(), id)
	if err == nil && (a.Delivered == nil || a.Status.Terminal() || !w.now.Before(a.Expires)) {
		err = fmt.Errorf("at %s a machine begins %s", w.now, show(a))
	}
	return err
}

func (w *world) bringReport(t *rapid.T) { w.takeIn(pick(t, &w.reports)) }

// takeIn is what the agents' edge does with a message.
func (w *world) takeIn(msg report) {
	m := w.machines[msg.from]
	done := settled{to: msg.from}
	for _, jws := range msg.jws {
		r, err := seal.OpenReport(jws, m.key)
		w.must(err)
		_, err = w.svc.Report(w.t.Context(), m.id, r, jws)
		if !w.must(err, cordon.NotFound, cordon.Forbidden) && errors.Is(err, errKilled) {
			return // and with it the connection
		}
		if r.State != cordon.ReportInProgress && r.State != cordon.ReportRefused {
			done.actions = append(done.actions, r.Action)
		}
	}
	w.settled = append(w.settled, done)
}

func (w *world) bringSettled(t *rapid.T) {
	s := pick(t, &w.settled)
	w.machines[s.to].Settle(s.actions)
}

func (w *world) lose(t *rapid.T) {
	switch rapid.IntRange(0, 2).Draw(t, "channel") {
	case 0:
		pick(t, &w.orders)
	case 1:
		pick(t, &w.reports)
	case 2:
		pick(t, &w.settled)
	}
}

func (w *world) tell(i int) {
	if jws := w.machines[i].Outbox(); len(jws) > 0 {
		w.reports = append(w.reports, report{i, jws})
	}
}

func (w *world) killServer(t *rapid.T) {
	w.killAt, w.killAfter = rapid.IntRange(0, 3).Draw(t, "at change"), rapid.Bool().Draw(t, "after it")
}

func (w *world) pass(t *rapid.T) {
	w.now = w.now.Add(rapid.SampledFrom([]time.Duration{time.Millisecond, time.Minute, 2 * time.Minute, 35 * time.Hour, 71*time.Hour + 59*time.Minute}).Draw(t, "time"))
	_, err := w.svc.ExpireDue(t.Context())
	w.must(err)
}

// check holds after every step.
func (w *world) check(t *rapid.T) {
	open := make(map[string]cordon.ActionID)
	for _, a := range w.actions() {
		if before, ok := w.ended[a.ID]; ok && !cmp.Equal(before, a) {
			t.Fatalf("an ended action changed (-then +now):\n%s", cmp.Diff(before, a))
		}
		if a.Status.Terminal() {
			w.ended[a.ID] = a
			continue
		}
		key := string(a.Machine) + string(a.Type)
		if open[key] != "" {
			t.Fatalf("%s and %s are both open", open[key], a.ID)
		}
		open[key] = a.ID
	}
	for _, m := range w.machines {
		if g := m.Durable().Generation; g < m.high {
			t.Fatalf("machine %s went back from generation %d to %d", m.id, m.high, g)
		} else {
			m.high = g
		}
		known, err := w.store.Machine(w.t.Context(), m.id)
		w.must(err)
		if known.Generation < w.issued[m.id] {
			t.Fatalf("the server went back from generation %d to %d", w.issued[m.id], known.Generation)
		}
		w.issued[m.id] = known.Generation
	}
}

// drain ends all faults, brings everything home, and checks how it ended.
func (w *world) drain(t *rapid.T) {
	w.killAt = -1
	if rapid.Bool().Draw(t, "what is under way arrives") {
		for _, o := range w.orders {
			w.take(o, none)
		}
		for _, r := range w.reports {
			w.takeIn(r)
		}
	}
	for range 3 {
		w.orders, w.reports, w.settled = nil, nil, nil
		for i := range w.machines {
			w.tell(i)
			w.offer(i)
		}
		for _, o := range w.orders {
			w.take(o, none)
		}
		for _, r := range w.reports {
			w.takeIn(r)
		}
		for _, s := range w.settled {
			w.machines[s.to].Settle(s.actions)
		}
	}
	w.check(t)
	for _, a := range w.actions() {
		if !a.Status.Terminal() && w.now.Before(a.Expires) {
			t.Fatalf("still open although everybody answers: %s", show(a))
		}
	}
	for i, m := range w.machines {
		if n := len(m.Outbox()); n > 0 {
			t.Fatalf("machine %d still has %d reports that nobody takes in", i, n)
		}
	}
	w.now = w.now.Add(cordon.DefaultTTL + cordon.DeliveredGrace)
	_, err := w.svc.ExpireDue(t.Context())
	w.must(err)
	w.check(t)
	w.checkTruth(t)
}

// checkTruth compares how the actions ended with what the kernels did.
func (w *world) checkTruth(t *rapid.T) {
	truth := make(map[cordon.MachineID]map[cordon.ActionID]attempt)
	for _, m := range w.machines {
		truth[m.id] = m.kernel.applied()
	}
	generations := make(map[string]cordon.ActionID)
	for _, a := range w.actions() {
		delete(w.promised, a.ID)
		for id, applied := range truth {
			if _, ok := applied[a.ID]; ok && id != a.Machine {
				t.Fatalf("applied on machine %s: %s", id, show(a))
			}
		}
		key := fmt.Sprint(a.Machine, a.Generation)
		if generations[key] != "" {
			t.Fatalf("%s and %s have the same generation", generations[key], a.ID)
		}
		generations[key] = a.ID
		did, tried := truth[a.Machine][a.ID]
		if tried && did.generation != a.Generation {
			t.Fatalf("applied as generation %d: %s", did.generation, show(a))
		}
		bad := false
		switch a.Status {
		case cordon.Succeeded:
			bad = !did.ok
		case cordon.Failed:
			bad = did.ok
		case cordon.Cancelled:
			bad = tried || a.Delivered == nil && a.Cancel == nil
		case cordon.TimeOut: // the machine may have done it, if it could not say so in time
			bad = tried && a.Delivered == nil
		default:
			bad = true
		}
		if bad {
			t.Fatalf("tried on the machine: %v, with success: %v, but the action is %s", tried, did.ok, show(a))
		}
	}
	for id := range w.promised {
		t.Fatalf("action %s was acknowledged and is lost", id)
	}
	for _, m := range w.machines {
		want := cordon.ModeOff
		for _, a := range m.kernel.log {
			if a.ok {
				want = a.mode
			}
		}
		if m.kernel.mode != want {
			t.Fatalf("machine %s is in mode %s, the last order that it applied says %s", m.id, m.kernel.mode, want)
		}
	}
}

func show(a cordon.Action) string {
	text, err := json.Marshal(a)
	if err != nil {
		return err.Error()
	}
	return string(text)
}
