package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/agent/disk"
	"github.com/cordon-project/cordon/internal/seal"
)

// takeCarried takes up what somebody carried to this machine: a signed order, a
// signed release, or the typed code of a release; see [Agent.takeUp].
func (a *Agent) takeCarried(ctx context.Context, text string) (string, error) {
	text = strings.TrimSpace(text)
	if !strings.Contains(text, ".") {
		a.mu.Lock()
		id := a.id
		a.mu.Unlock()
		if id == nil {
			return "", errNotEnrolled
		}
		jws, err := seal.ReleaseOfCode(text, id.Machine)
		if err != nil {
			return "", err
		}
		text = jws
	}
	return a.takeUp(ctx, text, true, nil)
}

var errNotEnrolled = errors.New("this machine is not enrolled yet, so it knows no server to obey")

// decideRelease is decide for a release. It is called with mu held.
func (a *Agent) decideRelease(ctx context.Context, jws string, carried bool) (begun *cordon.Standing, report string, err error) {
	r, err := seal.OpenRelease(jws, a.orderKey)
	if err == nil && !carried {
		err = errors.New("a release is taken from people at the machine only, not from a connection")
	}
	if err != nil {
		report, err = a.refuseRelease(ctx, r, err.Error())
		return nil, report, err
	}
	// The own clock, but never earlier than what the server once said: setting the
	// clock back does not make an old release good.
	own := a.cfg.Now()
	now, wrong := own, ""
	if last := a.st.Heard; own.Before(last) {
		now = last
		wrong = fmt.Sprintf("this machine's clock is plainly wrong: it says %s, and the server's was at %s already; set it", stamp(own), stamp(last))
	} else if offset := a.clock.offset(own); offset.Abs() > plainlyWrong {
		wrong = fmt.Sprintf("this machine's clock is plainly wrong, the server's differs by %s; set it", offset.Round(1e9))
	}
	before := a.st.Standing
	if before.Mode == "" {
		before.Mode = cordon.ModeOff
	}
	if verdict, why := cordon.JudgeRelease(a.id.Machine, before, r, now); verdict != cordon.Begin {
		if wrong != "" {
			why += "; " + wrong
		}
		report, err = a.refuseRelease(ctx, r, why)
		return nil, report, err
	}
	s := cordon.Standing{Generation: r.Generation, Action: r.ID(), Type: cordon.BreakGlass, Mode: cordon.ModeOff, Previous: before.Mode, PreviousLease: before.Lease}
	a.st.Standing = s
	if err := a.dir.SaveState(a.st); err != nil {
		a.st.Standing = before
		report, err = a.refuseRelease(ctx, r, "the new state could not be stored: "+err.Error())
		return nil, report, err
	}
	a.publish()
	a.cfg.Log.WarnContext(ctx, "break-glass: this machine is freed by a release that was carried here", "release", s.Action, "generation", s.Generation, "clock", wrong)
	return &s, "", nil
}

func (a *Agent) refuseRelease(ctx context.Context, r cordon.Release, why string) (string, error) {
	a.cfg.Log.WarnContext(ctx, "release refused", "claimedRelease", r.ID(), "claimedMachine", r.Machine, "reason", why)
	report, err := a.report(disk.Outcome{Action: r.ID(), Generation: r.Generation, Type: cordon.BreakGlass, State: cordon.ReportRefused, Error: clip(why)})
	return report, errors.Join(fmt.Errorf("refuse release: %s", why), err)
}
