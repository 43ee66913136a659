package agent

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/local"
	"github.com/cordon-project/cordon/internal/seal"
)

var _ local.Agent = (*Agent)(nil)

// ServeLocal answers the commands of this machine until ctx ends.
func (a *Agent) ServeLocal(ctx context.Context) error { return local.Serve(ctx, a.dir.Path(), a) }

// view is the part of the state that Status shows, kept apart so that nobody
// has to wait for an order that is being applied.
type view struct {
	machine   cordon.MachineID
	tenant    string
	orderKey  string
	standing  cordon.Standing
	unsettled int
	clock     clock
	policy    cordon.PolicyState
	silence   cordon.Silence
}

// publish is called with mu held, after every change.
func (a *Agent) publish() {
	v := &view{standing: a.st.Standing, unsettled: len(a.st.Outbox), clock: a.clock, policy: a.policy.State(), silence: a.st.Silence}
	if a.id != nil {
		sum := sha256.Sum256(a.orderKey)
		v.machine, v.tenant, v.orderKey = a.id.Machine, a.id.Tenant, hex.EncodeToString(sum[:])
	}
	a.public.Store(v)
}

// Status returns how things stand. It never waits.
func (a *Agent) Status() local.Status {
	v, now := a.public.Load(), a.cfg.Now()
	s := local.Status{
		Machine: v.machine, Tenant: v.tenant, Server: a.cfg.Server, OrderKey: v.orderKey, Standing: v.standing, Unsettled: v.unsettled,
		Applying: unfinished(v.standing), Observed: a.enforcement.Observe(),
	}
	stand(&s.Observed, v.standing, v.silence.Until(a.cfg.Boot()))
	s.Observed.Policy = v.policy
	s.Observed.At, s.Observed.ClockOffset = now.UTC(), v.clock.offset(now).Milliseconds()
	a.linkMu.Lock()
	defer a.linkMu.Unlock()
	s.Transport, s.Since, s.LastError = a.link.Transport, a.link.Since, a.link.LastError
	return s
}

// Preview looks what a restriction would hit.
func (a *Agent) Preview(ctx context.Context) (cordon.Preview, error) {
	if a.preview == nil {
		return cordon.Preview{}, errors.New("this agent has no trust set to compare with")
	}
	return a.preview(ctx)
}

// Apply takes up what was carried to this machine, see [Agent.takeCarried].
func (a *Agent) Apply(ctx context.Context, carried string) local.Applied {
	report, err := a.takeCarried(ctx, carried)
	if report == "" {
		return local.Applied{State: cordon.ReportRefused, Error: err.Error()}
	}
	a.wake()
	own, err := seal.OpenReport(report, a.key.Public().(ed25519.PublicKey))
	if err != nil {
		return local.Applied{State: cordon.ReportFailed, Error: err.Error(), Report: report}
	}
	return local.Applied{State: own.State, Error: own.Error, Report: report}
}

// Admit lets run what archives bring, if there is anybody to ask; see [Config].
func (a *Agent) Admit(ctx context.Context, paths []string) error {
	if a.cfg.Admit == nil {
		return nil
	}
	return a.cfg.Admit(ctx, paths)
}
