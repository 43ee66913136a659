package agent

import (
	"context"
	"fmt"
	"time"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/agent/disk"
	"github.com/cordon-project/cordon/internal/wire"
)

// Parts of a lease's time. A machine asks for the server's word several times
// before a lease lapses, and counts its silence in steps, of which a crash or a
// restart forgets at most one: the restriction then holds for longer.
const (
	asksPerLease  = 4
	stepsPerLease = 20
	longestStep   = 10 * time.Minute
)

// patience is how long a long poll may be, so that the server's word on the time
// comes often enough for the lease.
func (a *Agent) patience() time.Duration {
	if l := a.standing().Lease.Time(); l > 0 {
		return min(wire.MaxWait, max(l/asksPerLease, time.Second))
	}
	return wire.MaxWait
}

// renew counts that the server was heard, and has a restriction that had lapsed
// looked at.
func (a *Agent) renew(ctx context.Context) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.renewLocked(ctx)
}

// renewLocked is renew with mu held.
func (a *Agent) renewLocked(ctx context.Context) {
	if a.heard == nil {
		return
	}
	heard := cordon.Silence{Read: *a.heard}
	a.heard = nil
	if last := a.st.Silence; last.Read.Boot == heard.Read.Boot && last.Read.At-last.Length >= heard.Read.At {
		return // it was heard since, by an order
	}
	a.st.Silence = heard
	if a.st.Standing.Lease.Seconds == 0 {
		return
	}
	if err := a.dir.SaveState(a.st); err != nil { // after a crash the count goes on from what is on disk
		a.cfg.Log.ErrorContext(ctx, "that the server was heard could not be stored", "err", err)
	}
	a.publish()
	poke(a.lease)
}

// keepLease looks at the lease when something has happened to it, and when it
// may be over, until ctx ends.
func (a *Agent) keepLease(ctx context.Context) {
	for {
		next := a.tendLease(ctx)
		timer := time.NewTimer(next)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-a.lease:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// tendLease does what [cordon.JudgeLease] says, and returns when it is to be
// looked at again. What is to be done is on disk before it is done.
func (a *Agent) tendLease(ctx context.Context) (next time.Duration) {
	if !a.turn.TryLock() {
		return longestStep // whoever has it wakes us
	}
	defer a.turn.Unlock()
	s, silence, verdict := a.judgeLease(ctx)
	if verdict != cordon.LeaseHolds {
		s.Lease.Lapsed, s.Lease.Open, s.Mode = verdict == cordon.LeaseEnds, true, cordon.ModeEnforce
		if s.Lease.Lapsed {
			s.Mode = cordon.ModeAudit
		}
		if err := a.storeLease(s, silence, nil); err != nil {
			a.cfg.Log.ErrorContext(ctx, "a change of the lease could not be stored, nothing is changed", "err", err)
			return restoreAgain
		}
	}
	if s.Lease.Open {
		if err := a.closeLease(ctx, s, silence); err != nil {
			return restoreAgain
		}
	}
	term := s.Lease.Time()
	if term <= 0 || s.Lease.Lapsed {
		return longestStep // until it is woken
	}
	if silence.Length >= term/asksPerLease {
		poke(a.asking)
	}
	step := max(min(term/stepsPerLease, longestStep), time.Second)
	return min(step, max(term-silence.Length, 0)+time.Millisecond)
}

// judgeLease brings the count of the server's silence up to date.
func (a *Agent) judgeLease(ctx context.Context) (cordon.Standing, cordon.Silence, cordon.LeaseVerdict) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s, now := a.st.Standing, a.cfg.Boot()
	silence := a.st.Silence.Until(now)
	if s.Lease.Seconds == 0 || s.Lease.Lapsed && silence.Length >= s.Lease.Time() {
		return s, silence, cordon.LeaseHolds // there is nothing to count
	}
	before := a.st.Silence
	if a.st.Silence = silence; silence != before {
		if err := a.dir.SaveState(a.st); err != nil {
			a.cfg.Log.ErrorContext(ctx, "the server's silence could not be stored", "err", err)
		}
	}
	a.publish()
	return s, silence, cordon.JudgeLease(s, silence)
}

// closeLease makes a change of the lease true and puts the report of it into the
// outbox. It is called with turn held. An error means that it is to be tried again.
func (a *Agent) closeLease(ctx context.Context, s cordon.Standing, silence cordon.Silence) error {
	log := a.cfg.Log.With("action", s.Lease.Action, "lease", s.Lease.Time(), "mode", s.Mode)
	if err := a.switchTo(ctx, s.Mode); err != nil {
		log.ErrorContext(ctx, "a change of the lease is not in force", "err", err)
		a.mu.Lock()
		a.stuck = clip(fmt.Sprintf("the machine should be in mode %s because of its lease, and is not: %v", s.Mode, err))
		a.mu.Unlock()
		return err
	}
	typ, before := cordon.LeaseRenewed, cordon.ModeAudit
	if s.Lease.Lapsed {
		typ, before = cordon.LeaseLapsed, cordon.ModeEnforce
		log.WarnContext(ctx, "the lease lapsed: the server was not heard, and nothing is refused any more", "silent", silence.Length.Round(time.Second))
	} else {
		log.WarnContext(ctx, "the server was heard again: the restriction is in force again")
	}
	s.Lease.Open = false
	if err := a.storeLease(s, silence, &typ); err != nil {
		log.ErrorContext(ctx, "a change of the lease is in force, and its report could not be stored", "err", err)
		return err
	}
	a.wake()
	a.changed(before, s.Mode)
	return nil
}

// storeLease makes s the standing, on disk, with a report of the lease if one is
// wanted, or changes nothing. It is called with turn held.
func (a *Agent) storeLease(s cordon.Standing, silence cordon.Silence, report *cordon.OrderType) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	before := a.st
	a.st.Standing = s
	if report != nil {
		a.stuck = ""
		id := cordon.LeaseReportID(a.id.Machine, s.Lease.Action, *report, silence.Read)
		o := disk.Outcome{Action: id, Generation: s.Generation, Type: *report, State: cordon.ReportSucceeded}
		jws, err := a.report(o)
		if err != nil {
			a.st = before
			return err
		}
		a.st.Post(id, jws)
	}
	if err := a.dir.SaveState(a.st); err != nil {
		a.st = before
		return err
	}
	a.publish()
	return nil
}
