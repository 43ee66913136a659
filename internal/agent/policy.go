package agent

import (
	"context"
	"errors"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/seal"
)

// takePolicy takes up a signed trust policy: it is on disk before it is applied.
// It reports whether it was a new one. What does not verify, or is older, changes nothing.
func (a *Agent) takePolicy(ctx context.Context, jws string) bool {
	a.turn.Lock()
	defer a.endTurn()
	a.mu.Lock()
	p, err := seal.OpenPolicy(jws, a.orderKey)
	if err == nil {
		if why := cordon.JudgePolicy(a.id.Machine, a.policy.State(), p); why != "" {
			err = errors.New(why)
		}
	}
	if err == nil {
		err = a.dir.SavePolicy(jws)
	}
	if err == nil {
		a.policy = p
		a.publish()
	}
	a.mu.Unlock()
	if err != nil {
		a.cfg.Log.WarnContext(ctx, "trust policy not taken up", "err", err)
		return false
	}
	a.cfg.Log.InfoContext(ctx, "trust policy taken up", "version", p.Version, "contents", len(p.Digests))
	a.applyPolicy(ctx)
	return true
}

// applyPolicy is called with turn held. If it cannot be applied now the
// enforcement does so later, and says so until then.
func (a *Agent) applyPolicy(ctx context.Context) {
	a.mu.Lock()
	p := a.policy
	a.mu.Unlock()
	if err := a.enforcement.Trust(ctx, p.Entries()); err != nil {
		a.cfg.Log.ErrorContext(ctx, "the trust policy is not applied yet", "version", p.Version, "err", err)
	}
}
