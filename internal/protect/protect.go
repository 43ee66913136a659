// Package protect joins what a restriction is made of on one machine: the trust
// set, the survival check, the enforcer, and the self-test that proves it. It is
// what an agent switches.
//
// # What it promises
//
// A restriction is put in force only with a trust set under which the machine
// can be lived with, and Switch returns nil only after the self-test has seen
// that it holds. A new trust set replaces the one in force only if it passes the
// same checks; else the one before stays, and [Protection.Observe] says why.
//
// # What it owns
//
// [Protection.Run] owns the goroutines. One mutex orders switches and new trust
// sets; Observe does not need it.
package protect

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/enforce"
)

// Config is what a Protection needs. All fields are required unless they say otherwise.
type Config struct {
	Enforcer enforce.Enforcer
	// Test proves that a mode is in force; nil where nothing can be enforced.
	Test func(cordon.Mode) error
	// Own are entries for what Cordon itself must be able to run.
	Own []cordon.TrustEntry
	// Missing lists what must be able to run and could not under a set, a
	// sentence each.
	Missing func(context.Context, *cordon.TrustSet) ([]string, error)
	// Last returns the set that an earlier run left behind, nil if there is none.
	Last func() *cordon.TrustSet
	// Follow calls each with every new trust set, or with the error that kept
	// one from being built, until ctx ends.
	Follow func(ctx context.Context, each func(*cordon.TrustSet, error)) error
	// Hurry has sets built sooner, until done is called: an order waits for one, or
	// the machine is restricted. nil: they cannot be had sooner.
	Hurry func() (done func())
	// Idle is the mode of a machine that is not restricted: off, or audit, which
	// counts what would be refused. Empty: off.
	Idle cordon.Mode
	// Seen is told every sample of what was refused, and reports whether its file
	// is new to it; nil: everything is.
	Seen func(enforce.Refusal) (isNew bool)
	// Refused counts the refused executions since the agent started, without
	// those of Test; nil: the enforcer's count.
	Refused func() uint64
	// Admission says what a package manager may add while the machine is
	// restricted; nil where nothing can be enforced.
	Admission Admission
	BootID    string
	Log       *slog.Logger
}

// Admission remembers over restarts what may run beside the trust set, because
// an archive brought it that the machine has reason to trust.
type Admission interface {
	// Restrict says whether the machine is restricted from now on. If it returns an
	// error, it is noted as it was.
	Restrict(on bool) error
	// Admit verifies the archives at paths, all or none. It does nothing while the
	// machine is not restricted.
	Admit(ctx context.Context, paths []string) error
	// Entries returns what they bring.
	Entries() []cordon.TrustEntry
}

// Protection is this machine's enforcement. It implements what package agent
// calls an Enforcement. Make one with [New].
type Protection struct {
	cfg   Config
	ready chan struct{} // closed when there is a first set, or it is known that there will be none soon

	mu      sync.Mutex          // orders switches and new sets
	base    *cordon.TrustSet    // the machine's own; nil: there is none yet
	extra   []cordon.TrustEntry // what the server has it trust besides
	set     *cordon.TrustSet    // both, and Cordon's own
	checked survivalCheck
	puts    uint64 // how often something was put in force
	built   error  // why there is no newer set
	rest    func() // sets may be built slowly again; nil: they may be
	once    sync.Once

	observed atomic.Pointer[cordon.Observed]
}

// survivalCheck is what was found for a set, and when.
type survivalCheck struct {
	set     *cordon.TrustSet
	at      time.Time
	missing error
}

// stale is how old a survival check may be when a restriction relies on it.
// What it looks at (installed programs, accounts, running daemons) changes
// without the trust set being built anew only by hand.
const stale = time.Minute

// New returns a protection in mode off, or in the mode in which an earlier
// process left the kernel.
func New(cfg Config) *Protection {
	p := &Protection{cfg: cfg, ready: make(chan struct{})}
	if cfg.Refused == nil {
		p.cfg.Refused = func() uint64 { return cfg.Enforcer.Stats().Refused }
	}
	d, mode := cfg.Enforcer.Describe(), cordon.ModeOff
	if e, ok := cfg.Enforcer.(interface{ Mode() cordon.Mode }); ok {
		// Then whatever goes wrong in restoring it leaves it as it is.
		mode = e.Mode()
	}
	p.observed.Store(&cordon.Observed{Mode: mode, InForce: mode == cordon.ModeOff, Enforcer: d.Name, Scope: d.Scope.String(), Interpreters: d.Interpreters, Limits: d.Limits, BootID: cfg.BootID})
	if p.base = cfg.Last(); p.base != nil {
		p.adopt(p.compose(p.base))
	}
	return p
}

// Admit lets run what the archives at paths bring, before a package manager
// unpacks them. The error says what was refused, and what can be done; nothing is
// admitted then. On a machine that is not restricted there is nothing to do.
func (p *Protection) Admit(ctx context.Context, paths []string) error {
	if p.cfg.Admission == nil {
		return nil
	}
	if err := p.cfg.Admission.Admit(ctx, paths); err != nil { // takes long, so without mu
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.base == nil {
		return nil // the first set will have it
	}
	set, now := p.compose(p.base), p.observed.Load()
	if p.set != nil && set.Version() == p.set.Version() && now.InForce {
		return nil // apt's hook has asked before dpkg's
	}
	if now.Mode != cordon.ModeEnforce { // not restricted, or not again yet after a start
		p.adopt(set)
		return nil
	}
	if err := p.put(cordon.ModeEnforce, set); err != nil {
		return errors.Join(err, p.put(cordon.ModeEnforce, p.set))
	}
	if p.checked.set == p.set { // more may run than before, so nothing has come to be missing
		p.checked.set = set
	}
	p.adopt(set)
	p.cfg.Log.InfoContext(ctx, "packages admitted", "archives", len(paths), "programs", set.Len())
	return nil
}

// Run keeps the trust set up to date and tells of refusals until ctx ends.
func (p *Protection) Run(ctx context.Context) error {
	var others sync.WaitGroup
	defer others.Wait()
	others.Go(func() { p.tell(ctx) })
	others.Go(func() { p.recheck(ctx) })
	others.Go(func() { p.retest(ctx) })
	return p.cfg.Follow(ctx, func(set *cordon.TrustSet, err error) { p.renew(ctx, set, err) })
}

// adopt makes set the one that the next switch uses. It is called with mu held,
// or before anybody else has the protection.
func (p *Protection) adopt(set *cordon.TrustSet) {
	p.set = set
	p.note(func(o *cordon.Observed) { o.Trusted, o.TrustSet = set.Len(), set.Version().String() })
	p.once.Do(func() { close(p.ready) })
}

// note publishes a change of what is observed. It is called with mu held, or
// before anybody else has the protection.
func (p *Protection) note(change func(*cordon.Observed)) {
	o := *p.observed.Load()
	change(&o)
	p.observed.Store(&o)
}

// Observe says what is true now.
func (p *Protection) Observe() cordon.Observed {
	o := *p.observed.Load()
	o.Refused = p.cfg.Refused()
	o.Coverage = p.cfg.Enforcer.Describe().Coverage // file systems come and go
	return o
}

// Switch puts mode in force and proves it; see package agent's Enforcement. It
// waits for a first trust set if one is needed and there is none yet.
func (p *Protection) Switch(ctx context.Context, mode cordon.Mode) error {
	if mode != cordon.ModeOff && p.cfg.Test != nil {
		if err := p.first(ctx); err != nil {
			return err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	before := p.observed.Load().Mode
	if mode == cordon.ModeEnforce && p.cfg.Test != nil {
		if p.set == nil {
			return fmt.Errorf("nothing was restricted, because there is no trust set: %w", p.built)
		}
		if err := p.survives(ctx, p.set); err != nil {
			return err
		}
	}
	// In force first: what is noted of packages waits for the disk, and meanwhile
	// none is admitted. After a crash in between the next start notes it.
	err := p.put(mode, p.set)
	if err == nil {
		err = p.restrict(mode == cordon.ModeEnforce)
	}
	if err != nil {
		if undo := p.put(before, p.set); undo != nil {
			err = errors.Join(err, fmt.Errorf("and going back to mode %s failed: %w", before, undo))
			p.note(func(o *cordon.Observed) { o.InForce, o.Problem = false, err.Error() })
		}
		return err
	}
	p.note(func(o *cordon.Observed) { o.Mode, o.InForce, o.Problem = mode, true, "" })
	p.press(mode == cordon.ModeEnforce)
	if mode == cordon.ModeOff {
		p.audit(ctx)
	}
	return nil
}

// press says whether sets are built as fast as can be: what a package manager
// installs on a restricted machine waits for them. It is called with mu held.
func (p *Protection) press(on bool) {
	if p.cfg.Hurry == nil || on == (p.rest != nil) {
		return
	}
	if on {
		p.rest = p.cfg.Hurry()
		return
	}
	p.rest()
	p.rest = nil
}

// first waits for a first trust set, or for the news that there will be none soon.
func (p *Protection) first(ctx context.Context) error {
	select {
	case <-p.ready:
		return nil
	default:
	}
	if p.cfg.Hurry != nil {
		defer p.cfg.Hurry()()
	}
	select {
	case <-p.ready:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// audit counts what would be refused, where that is wished, on a machine that is
// in mode off. That it cannot is no reason to fail: nothing is less free for it.
// It is called with mu held.
func (p *Protection) audit(ctx context.Context) {
	if p.cfg.Idle != cordon.ModeAudit || p.set == nil || p.cfg.Test == nil {
		return
	}
	if err := p.put(cordon.ModeAudit, p.set); err != nil {
		p.cfg.Log.WarnContext(ctx, "what a restriction would refuse is not counted", "err", errors.Join(err, p.put(cordon.ModeOff, p.set)))
		return
	}
	p.note(func(o *cordon.Observed) { o.Mode = cordon.ModeAudit })
}

// Set returns the trust set that is in force, or would be under a restriction;
// nil: there is none yet.
func (p *Protection) Set() *cordon.TrustSet {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.set
}

// restrict tells the admission. It is called with mu held.
func (p *Protection) restrict(on bool) error {
	if p.cfg.Admission == nil {
		return nil
	}
	return p.cfg.Admission.Restrict(on)
}

// put is called with mu held.
func (p *Protection) put(mode cordon.Mode, set *cordon.TrustSet) error {
	p.puts++
	if err := p.cfg.Enforcer.Apply(mode, set); err != nil {
		return err
	}
	if p.cfg.Test == nil {
		return nil
	}
	return p.cfg.Test(mode)
}

// outlives checks a set that is to replace the one in force. One that only adds
// to it leaves nothing missing that is not missing now: while packages are
// installed, nobody waits for the check. It is called with mu held.
func (p *Protection) outlives(ctx context.Context, set *cordon.TrustSet) error {
	if p.set != nil && set.Covers(p.set) {
		return nil
	}
	return p.survives(ctx, set)
}

// survives is called with mu held.
func (p *Protection) survives(ctx context.Context, set *cordon.TrustSet) error {
	if p.checked.set == set && time.Since(p.checked.at) < stale {
		return p.checked.missing
	}
	missing, err := p.cfg.Missing(ctx, set)
	if err != nil {
		return fmt.Errorf("nothing was restricted, because it could not be checked that the machine would survive it: %w", err)
	}
	p.checked = survivalCheck{set: set, at: time.Now()}
	if len(missing) > 0 {
		p.checked.missing = fmt.Errorf("nothing was restricted, because the machine could not be administered any more: %s. Add what is missing to the rules file", list(missing, 5))
	}
	return p.checked.missing
}

func list(all []string, most int) string {
	if n := len(all) - most; n > 0 {
		return fmt.Sprintf("%s; and %d more", strings.Join(all[:most], "; "), n)
	}
	return strings.Join(all, "; ")
}

// renew takes over a new trust set, or the error that kept it from being built.
func (p *Protection) renew(ctx context.Context, set *cordon.TrustSet, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.built = err
	if err != nil {
		p.cfg.Log.ErrorContext(ctx, "trust set not built, the one before stays", "err", err)
		if p.set != nil {
			p.problem("the trust set could not be renewed: " + err.Error())
		}
		p.once.Do(func() { close(p.ready) })
		return
	}
	if p.load(ctx, p.compose(set)) == nil {
		p.base = set
	}
}

// compose is called with mu held, or before anybody else has the protection.
func (p *Protection) compose(base *cordon.TrustSet) *cordon.TrustSet {
	var admitted []cordon.TrustEntry
	if p.cfg.Admission != nil {
		admitted = p.cfg.Admission.Entries()
	}
	return base.With(slices.Concat(p.cfg.Own, p.extra, admitted)...)
}

// Trust has entries trusted besides the machine's own set; see package agent's
// Enforcement. The new set replaces the one in force as a whole.
func (p *Protection) Trust(ctx context.Context, entries []cordon.TrustEntry) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if slices.Equal(entries, p.extra) {
		return nil
	}
	p.extra = slices.Clone(entries)
	if p.base == nil {
		return nil // they are in the first set
	}
	return p.load(ctx, p.compose(p.base))
}

// load puts a set in the place of the one before, if it passes the same checks.
// It is called with mu held.
func (p *Protection) load(ctx context.Context, set *cordon.TrustSet) error {
	keep := func(err error) error {
		p.cfg.Log.ErrorContext(ctx, "new trust set not loaded, the one before stays", "err", err)
		p.problem("the new trust set was not loaded: " + err.Error())
		return err
	}
	mode := p.observed.Load().Mode
	if mode == cordon.ModeEnforce {
		if err := p.outlives(ctx, set); err != nil {
			return keep(err)
		}
	}
	if mode != cordon.ModeOff {
		if err := p.put(mode, set); err != nil {
			return keep(errors.Join(err, p.put(mode, p.set)))
		}
	}
	if p.set != nil && p.checked.set == p.set && p.checked.missing == nil && set.Covers(p.set) {
		p.checked.set = set // more may run than before, so nothing has come to be missing
	}
	p.adopt(set)
	p.problem("")
	if mode == cordon.ModeOff {
		p.audit(ctx)
	}
	if mode != cordon.ModeEnforce && p.cfg.Test != nil {
		// Both done ahead, so that a restriction need not wait for them.
		if now := p.observed.Load().Mode; now == cordon.ModeOff {
			if err := p.cfg.Enforcer.Apply(now, set); err != nil {
				p.cfg.Log.WarnContext(ctx, "the enforcer did not take the trust set ahead", "err", err)
			}
		}
		if err := p.survives(ctx, set); err != nil && ctx.Err() == nil { // else the agent is stopping
			p.cfg.Log.WarnContext(ctx, "a restriction would be refused now", "err", err)
		}
	}
	p.cfg.Log.InfoContext(ctx, "trust set loaded", "programs", set.Len(), "version", set.Version().String()[:16])
	return nil
}

// problem notes a trouble that does not end what is in force, "" for none. It is
// called with mu held.
func (p *Protection) problem(text string) {
	p.note(func(o *cordon.Observed) {
		if o.InForce {
			o.Problem = text
		}
	})
}

// recheck keeps the survival check fresh, so that a restriction need not wait for it.
func (p *Protection) recheck(ctx context.Context) {
	if p.cfg.Test == nil {
		return
	}
	tick := time.NewTicker(stale * 3 / 4)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		p.mu.Lock()
		set := p.set
		p.mu.Unlock()
		if set == nil {
			continue
		}
		missing, err := p.cfg.Missing(ctx, set) // without mu: an order need not wait
		if err != nil {
			continue // a restriction will find and say it
		}
		p.mu.Lock()
		if p.checked.set == set && p.checked.missing == nil == (len(missing) == 0) {
			p.checked.at = time.Now()
		} else {
			p.checked = survivalCheck{}
		}
		p.mu.Unlock()
	}
}

// testEvery is how often a restriction is tested as long as it lasts.
const testEvery = time.Minute

// retest finds out when a restriction is not in force any more, whatever ended it,
// and puts it in force again.
func (p *Protection) retest(ctx context.Context) {
	if p.cfg.Test == nil {
		return
	}
	tick := time.NewTicker(testEvery)
	defer tick.Stop()
	for lost := false; ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		p.mu.Lock()
		o, puts := p.observed.Load(), p.puts
		p.mu.Unlock()
		if o.Mode != cordon.ModeEnforce || !o.InForce && !lost {
			lost = false
			continue
		}
		err := p.cfg.Test(cordon.ModeEnforce) // without mu: an order need not wait
		p.mu.Lock()
		if p.puts == puts { // else something was put in force meanwhile, and tested
			lost = !p.holds(ctx, err)
		}
		p.mu.Unlock()
	}
}

// holds notes what a test of what is in force has found, and puts it in force
// again if it failed. That it did stays a problem until another order or trust
// set; a restriction is given up as lost only if a program ran. It is called with
// mu held.
func (p *Protection) holds(ctx context.Context, err error) bool {
	if err == nil {
		p.note(func(o *cordon.Observed) { o.InForce = true })
		return true
	}
	again := p.put(cordon.ModeEnforce, p.set)
	p.cfg.Log.ErrorContext(ctx, "the restriction was not seen in force", "err", err, "again", again)
	lost := again != nil && errors.Is(err, enforce.ErrRan)
	p.note(func(o *cordon.Observed) {
		o.InForce, o.Problem = !lost, "the restriction was not seen in force at "+time.Now().UTC().Format(time.RFC3339)+": "+err.Error()
	})
	return !lost
}

// maxLogged is how many refused files a minute the log names; Seen is told all.
const maxLogged = 60

// tell passes on samples of what was refused until ctx ends.
func (p *Protection) tell(ctx context.Context) {
	pass := p.passOn()
	for {
		select {
		case <-ctx.Done():
			return
		case r, ok := <-p.cfg.Enforcer.Refusals():
			if !ok {
				return
			}
			pass(ctx, r)
		}
	}
}

// Rest passes on the samples that nobody has taken when the enforcer was closed.
// It is called after that, and after Run has returned.
func (p *Protection) Rest(ctx context.Context) {
	pass := p.passOn()
	for {
		select {
		case r, ok := <-p.cfg.Enforcer.Refusals():
			if !ok {
				return
			}
			pass(ctx, r)
		default: // it never had any
			return
		}
	}
}

// passOn returns what tells of a sample, and logs files that are new. Paths are
// chosen by whoever made the files; slog quotes them.
func (p *Protection) passOn() func(context.Context, enforce.Refusal) {
	logged, since := 0, time.Time{}
	return func(ctx context.Context, r enforce.Refusal) {
		r.Count = max(r.Count, 1)
		if p.cfg.Seen != nil && !p.cfg.Seen(r) {
			return
		}
		if time.Since(since) > time.Minute {
			logged, since = 0, time.Now()
		}
		if logged++; logged <= maxLogged {
			p.cfg.Log.WarnContext(ctx, "program refused", "path", r.Path, "pid", r.PID, "mode", r.Mode, "reason", r.Reason)
		}
	}
}
