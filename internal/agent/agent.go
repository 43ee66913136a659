// Package agent is the endpoint's side of Cordon: it keeps the one connection
// to the server, decides what an order means for this machine, makes it so
// through an [Enforcement], and answers with signed reports.
//
// # What it promises
//
// The desired state is on disk (fsync) before anything is done about it, and
// every outcome is on disk before it is reported, so that a crash at any point
// ends in one of the two states and the server hears of it. Orders are taken up
// one at a time. What does not verify changes nothing. At start the machine is
// brought into its persisted state before the server is looked for.
//
// # What it owns
//
// [Agent.Run] owns all goroutines and returns when they have ended. Orders have
// a lock for their turn, held while one is taken up, which may take minutes;
// the state has another, held for no longer than a write to the disk, so that
// a connection stays alive and answers while an order is being applied.
package agent

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/agent/disk"
	"github.com/cordon-project/cordon/internal/seal"
	"github.com/cordon-project/cordon/internal/wire"
)

// Enforcement makes a mode true on this machine.
type Enforcement interface {
	// Switch puts mode in force and proves it. If it returns an error, a sentence
	// for people, the machine is as it was before the call. It may take as long as
	// it needs to build a first trust set.
	Switch(ctx context.Context, mode cordon.Mode) error
	// Trust has these file contents trusted besides the machine's own trust set,
	// from now on and in place of those before, without a moment in which less is
	// enforced than before or after. If it returns an error they are trusted as
	// soon as that is possible.
	Trust(ctx context.Context, entries []cordon.TrustEntry) error
	// Observe says what is true now. It does not block on a Switch under way.
	Observe() cordon.Observed
}

// Config is what an agent needs. All fields are required unless they say otherwise.
type Config struct {
	Server      string // base URL
	CAFile      string // PEM; empty: the system's roots
	EnrollToken string // needed once
	DataDir     string
	Facts       func() (cordon.Facts, error)
	// Admit lets run what the package archives at paths bring, all or none, if
	// there is reason to trust them; the error is for people. nil: it is not asked.
	Admit func(ctx context.Context, paths []string) error
	// Changed is told when this machine has been restricted, or freed, by an order,
	// a release or its lease, and not when a state is only restored. It must not
	// wait for anything. nil: nobody is told.
	Changed func(restricted bool)
	Log     *slog.Logger
	Now     func() time.Time
	Boot    func() cordon.BootTime // never set, never behind an earlier reading of the same boot
}

// noticeable is how long applying an order may take before InProgress is
// reported: some clients stop polling at the first status that is not Pending.
const noticeable = time.Second

// Agent is one machine's agent. Make one with [Open].
type Agent struct {
	cfg         Config
	dir         *disk.Dir
	enforcement Enforcement

	key ed25519.PrivateKey // nil until the first enrolment is tried; owned by Run until id is set, fixed from then on

	turn sync.Mutex // held while an order is taken up; whoever changes st.Standing holds it, and mu too

	mu       sync.Mutex     // guards what follows
	id       *disk.Identity // nil until enrolled
	orderKey ed25519.PublicKey
	st       disk.State
	policy   cordon.TrustPolicy // the zero one: none
	saved    error              // the last save's failure
	asked    question           // the last one put to the server
	clock    clock
	heard    *cordon.BootTime // when the server is known to have been there; nil: [Agent.renew] has counted it
	stuck    string           // why a change of the lease is not true yet

	findings func() []cordon.Findings // nil: there is nobody to ask
	preview  func(context.Context) (cordon.Preview, error)

	toldMu sync.Mutex // guards told
	told   map[cordon.FindingKind]wire.Told

	public atomic.Pointer[view]
	awake  chan struct{} // holds one wish that the connection tells what is in the outbox
	asking chan struct{} // holds one wish that the connection asks for the time
	lease  chan struct{} // holds one wish that the lease is looked at

	linkMu sync.Mutex // guards link
	link   linkStatus
}

// Open locks the data directory and reads what is persisted. It touches nothing else.
func Open(cfg Config) (*Agent, error) {
	d, err := disk.Open(cfg.DataDir)
	if err != nil {
		return nil, err
	}
	a := &Agent{cfg: cfg, dir: d, awake: make(chan struct{}, 1), asking: make(chan struct{}, 1), lease: make(chan struct{}, 1)}
	if a.st, err = d.State(); err == nil {
		a.key, a.id, a.orderKey, err = d.Identity()
	}
	if err == nil && a.id != nil {
		a.policy, err = d.Policy(a.orderKey)
	}
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	if err := d.KeepRoom(); err != nil { // it may be there the next time
		cfg.Log.Warn("no room is kept for orders that come when the disk is full", "err", err)
	}
	a.publish()
	return a, nil
}

// Use gives the agent what it switches. It is called once, before anything but
// [Open].
func (a *Agent) Use(e Enforcement) { a.enforcement = e }

// Tell gives the agent what it tells the server of files that are not trusted:
// findings returns the newest without waiting. It is called once, before
// anything but [Open].
func (a *Agent) Tell(findings func() []cordon.Findings) { a.findings = findings }

// Show gives the agent what it shows on its own machine of what a restriction
// would hit. It is called once, before anything but [Open].
func (a *Agent) Show(preview func(context.Context) (cordon.Preview, error)) { a.preview = preview }

// Close releases the data directory.
func (a *Agent) Close() error { return a.dir.Close() }

// restore brings the machine into its persisted state, before any server is
// asked. An order that a crash or a stop interrupted is finished, and its outcome
// goes into the outbox. An error means that the state is not in force now; the
// agent goes on, says so in every report, and restore may be tried again.
func (a *Agent) restore(ctx context.Context) error {
	a.turn.Lock()
	defer a.endTurn()
	a.applyPolicy(ctx)
	return a.restoreHeld(ctx)
}

// endTurn lets the next one have its turn, and the lease be looked at, which
// does not wait for one.
func (a *Agent) endTurn() {
	a.turn.Unlock()
	poke(a.lease)
}

// restoreHeld is restore with turn held.
func (a *Agent) restoreHeld(ctx context.Context) error {
	s := a.standing()
	if s.Generation == 0 {
		return nil
	}
	if s.Outcome == "" {
		if _, err := a.carryOut(ctx, s, nil); err != nil {
			return err
		}
		if s = a.standing(); s.Outcome == cordon.ReportSucceeded {
			return nil
		}
		// It failed, so the mode before it is the one to hold, and this process
		// has not put that in force yet.
	}
	if err := a.switchTo(ctx, s.Mode); err != nil {
		a.cfg.Log.ErrorContext(ctx, "the persisted state is not in force", "mode", s.Mode, "generation", s.Generation, "err", err)
		return err
	}
	a.cfg.Log.InfoContext(ctx, "persisted state in force", "mode", s.Mode, "generation", s.Generation)
	return nil
}

// restoreAgain is how long after a failed [Agent.restore] it is tried again.
const restoreAgain = 30 * time.Second

// KeepRestored calls [Agent.restore], and if that fails again and again on a
// goroutine of its own, until it succeeds or ctx ends. An order that comes
// meanwhile is no reason to stop: it may fail, or be cancelled, and leave the
// machine to be restored as before.
func (a *Agent) KeepRestored(ctx context.Context, start func(func())) {
	if a.restore(ctx) == nil {
		return
	}
	start(func() {
		for sleep(ctx, restoreAgain) && a.restore(ctx) != nil {
		}
	})
}

// takeUp takes up one order and returns the signed report that answers it. carried
// says that it did not come over a connection, so that only this machine's clock
// can judge its age. progress, if not nil, is called with an InProgress report
// when applying takes noticeable time. An error says that the order was not
// taken up; if there is a report too, it says the same.
func (a *Agent) takeUp(ctx context.Context, jws string, carried bool, progress func(report string)) (string, error) {
	a.turn.Lock()
	defer a.endTurn()
	if unfinished(a.standing()) { // a stop interrupted the last one
		if err := a.restoreHeld(ctx); unfinished(a.standing()) {
			return "", err
		}
	}
	begun, report, err := a.decide(ctx, jws, carried)
	if begun == nil {
		return report, err
	}
	return a.carryOut(ctx, *begun, progress)
}

// decide says what becomes of an order. If it is to be applied it returns the
// standing to make true, which is on disk; else the report that answers it.
func (a *Agent) decide(ctx context.Context, jws string, carried bool) (begun *cordon.Standing, report string, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.id == nil {
		return nil, "", errNotEnrolled
	}
	if seal.IsRelease(jws) {
		return a.decideRelease(ctx, jws, carried)
	}
	order, err := seal.OpenOrder(jws, a.orderKey)
	if err != nil {
		claimed, _ := seal.ClaimedOrder(jws)
		report, err = a.refuse(ctx, claimed, err.Error())
		return nil, report, err
	}
	if o, ok := a.st.Recall(order.Action); ok && order.Machine == a.id.Machine {
		report, err = a.report(o)
		return nil, report, err
	}
	now := a.cfg.Now()
	if !carried {
		now = now.Add(a.clock.offset(now))
	}
	before := a.st.Standing
	if before.Mode == "" { // it was never told anything
		before.Mode = cordon.ModeOff
	}
	verdict, why := cordon.Judge(a.id.Machine, before, order, now)
	log := a.cfg.Log.With("action", order.Action, "generation", order.Generation, "type", order.Type)
	switch verdict {
	case cordon.Begin:
		s := cordon.Standing{Generation: order.Generation, Action: order.Action, Type: order.Type, Mode: order.Type.ModeFor(), Previous: before.Mode, PreviousLease: before.Lease}
		if l := order.Policy.LeaseSeconds; l > 0 && order.Type == cordon.RestrictOrder {
			s.Lease = cordon.Lease{Action: order.Action, Seconds: l}
		}
		a.st.Standing = s
		if err := a.dir.SaveState(a.st); err != nil {
			// Not durable, so not done: the machine stays as it was, and the server
			// may offer the order again.
			a.st.Standing = before
			report, err = a.refuse(ctx, order, "the new state could not be stored: "+err.Error())
			return nil, report, err
		}
		a.publish()
		log.InfoContext(ctx, "order taken up", "mode", s.Mode, "comment", order.Comment)
		return &s, "", nil
	case cordon.Repeat: // taken up so long ago that only the standing remembers it
		report, err = a.report(disk.Outcome{Action: before.Action, Generation: before.Generation, State: before.Outcome, Error: before.Error})
	case cordon.Forgo:
		log.InfoContext(ctx, "order cancelled in time")
		s := before
		s.Generation, s.Action, s.Type, s.Outcome, s.Error = order.Generation, order.Action, order.Type, cordon.ReportCancelled, why
		report, err = a.promise(ctx, order, s, disk.Outcome{Action: order.Action, Generation: order.Generation, State: cordon.ReportCancelled, Error: why})
	case cordon.Supersede:
		log.WarnContext(ctx, "order superseded", "reason", why)
		report, err = a.promise(ctx, order, before, disk.Outcome{Action: order.Action, Generation: order.Generation, State: cordon.ReportCancelled, Error: why})
	case cordon.Refuse:
		if order.Machine != a.id.Machine || order.Action == "" {
			report, err = a.refuse(ctx, order, why)
			break
		}
		log.WarnContext(ctx, "order refused", "reason", why)
		report, err = a.promise(ctx, order, before, disk.Outcome{Action: order.Action, Generation: order.Generation, State: cordon.ReportFailed, Error: why})
	}
	return nil, report, err
}

// promise answers an order that is never to be begun. Such a word has to hold
// after a crash too, so it is given only once it is on disk; else the order is
// refused, and the server may offer it again.
func (a *Agent) promise(ctx context.Context, order cordon.Order, s cordon.Standing, o disk.Outcome) (string, error) {
	before := a.st
	a.st.Standing = s
	report, err := a.report(o)
	if err == nil {
		a.st.Remember(o, report)
		err = a.dir.SaveState(a.st)
	}
	if err != nil {
		a.st = before
		return a.refuse(ctx, order, "the answer could not be stored: "+err.Error())
	}
	a.publish()
	return report, nil
}

// carryOut makes the persisted standing s true and records how that ended. It
// is called with turn held. An error means that the end is open, because ctx
// ended or the outcome cannot be stored: s stays as it is, to be finished at the
// next start or before the next order.
func (a *Agent) carryOut(ctx context.Context, s cordon.Standing, progress func(string)) (string, error) {
	log := a.cfg.Log.With("action", s.Action, "generation", s.Generation, "type", s.Type)
	failed := a.apply(ctx, s, progress)
	if failed != nil && ctx.Err() != nil {
		return "", fmt.Errorf("order interrupted, to be finished at the next start: %w", failed)
	}
	o := disk.Outcome{Action: s.Action, Generation: s.Generation, State: cordon.ReportSucceeded}
	if s.Type == cordon.BreakGlass {
		o.Type = s.Type
	}
	if failed != nil {
		log.ErrorContext(ctx, "order failed", "err", failed)
		o.State, o.Error = cordon.ReportFailed, clip(failed.Error())
		s.Mode, s.Lease = s.Previous, s.PreviousLease
	} else {
		log.InfoContext(ctx, "order applied", "mode", s.Mode)
		a.changed(s.Previous, s.Mode)
	}
	s.Outcome, s.Error = o.State, o.Error

	a.mu.Lock()
	defer a.mu.Unlock()
	before := a.st
	a.st.Standing = s
	if failed == nil {
		a.stuck = "" // nobody wants any more what was not true
		if s.Lease.Seconds > 0 {
			a.st.Silence = cordon.Silence{Read: a.cfg.Boot()} // its time begins when it is in force
		}
	}
	report, err := a.report(o)
	if err != nil {
		return "", err
	}
	a.st.Remember(o, report)
	if a.saved = a.dir.SaveState(a.st); a.saved != nil {
		log.ErrorContext(ctx, "the outcome of an order could not be stored", "err", a.saved)
		if failed != nil {
			// After a crash the order would be tried again and might succeed, so it
			// has not failed yet.
			a.st = before
			return "", fmt.Errorf("store outcome: %w", a.saved)
		}
		// A success is reported all the same: it is true, and a crash would only
		// make the agent apply the order once more.
	}
	a.publish()
	return report, nil
}

// changed tells people of a mode that is in force now.
func (a *Agent) changed(before, now cordon.Mode) {
	if is := now == cordon.ModeEnforce; a.cfg.Changed != nil && is != (before == cordon.ModeEnforce) {
		a.cfg.Changed(is)
	}
}

// apply switches, and reports that it is under way if that takes noticeable time.
func (a *Agent) apply(ctx context.Context, s cordon.Standing, progress func(string)) error {
	done := make(chan error, 1)
	go func() { done <- a.switchTo(ctx, s.Mode) }()
	if progress != nil {
		timer := time.NewTimer(noticeable)
		defer timer.Stop()
		select {
		case err := <-done:
			return err
		case <-timer.C:
			a.mu.Lock()
			report, err := a.report(disk.Outcome{Action: s.Action, Generation: s.Generation, State: cordon.ReportInProgress})
			a.mu.Unlock()
			if err == nil {
				progress(report)
			}
		}
	}
	return <-done
}

// switchTo has the enforcement put mode in force. What that writes to the disk may
// use the room that is kept for orders (ADR 28).
func (a *Agent) switchTo(ctx context.Context, mode cordon.Mode) error {
	return a.dir.Spend(func() error { return a.enforcement.Switch(ctx, mode) })
}

// clip bounds a reason, so that no report gets too long to be taken in.
func clip(reason string) string {
	if r := []rune(reason); len(r) > cordon.MaxComment {
		return string(r[:cordon.MaxComment-1]) + "…"
	}
	return reason
}

// refuse answers something that is no order for this machine, or none that can
// be obeyed now. Nothing is stored.
func (a *Agent) refuse(ctx context.Context, claimed cordon.Order, why string) (string, error) {
	a.cfg.Log.WarnContext(ctx, "order refused", "claimedAction", claimed.Action, "claimedMachine", claimed.Machine, "reason", why)
	report, err := a.report(disk.Outcome{Action: claimed.Action, Generation: claimed.Generation, State: cordon.ReportRefused, Error: why})
	return report, errors.Join(fmt.Errorf("refuse order: %s", why), err)
}

// report is called with mu held, like all that follow.
func (a *Agent) report(o disk.Outcome) (string, error) {
	return seal.Report(cordon.Report{
		Machine: a.id.Machine, Action: o.Action, Generation: o.Generation, Type: o.Type, State: o.State, Error: o.Error, Observed: a.observe(),
	}, a.key)
}

func (a *Agent) observe() cordon.Observed {
	o, now := a.enforcement.Observe(), a.cfg.Now()
	stand(&o, a.st.Standing, a.st.Silence.Until(a.cfg.Boot()))
	o.Policy = a.policy.State()
	o.At = now.UTC()
	o.ClockOffset = a.clock.offset(now).Milliseconds()
	if a.saved != nil && o.Problem == "" {
		o.Problem = "the last outcome could not be stored and may be forgotten at the next start: " + a.saved.Error()
	}
	if o.Problem == "" {
		o.Problem = a.stuck
	}
	return o
}

// stand adds to what is observed by whose word it is so, and for how long.
func stand(o *cordon.Observed, s cordon.Standing, silence cordon.Silence) {
	o.Generation, o.Action, o.Order = s.Generation, s.Action, s.Type
	if l := s.Lease; l.Seconds > 0 {
		o.Lease = cordon.LeaseState{Action: l.Action, Seconds: l.Seconds, Silent: int64(silence.Length / time.Second), Lapsed: l.Lapsed}
	}
}

// unfinished reports whether an order was begun and its outcome is not known.
func unfinished(s cordon.Standing) bool { return s.Generation > 0 && s.Outcome == "" }

func (a *Agent) standing() cordon.Standing {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.st.Standing
}

// wake makes the connection, if there is one, tell what is in the outbox.
func (a *Agent) wake() { poke(a.awake) }

// poke puts a wish into a channel that holds one.
func poke(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
