package agent

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

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
		err = a.dir.save(policyFile, jws)
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

// loadPolicy returns the policy that is on disk, the zero one if there is none.
func (d *dir) loadPolicy(key ed25519.PublicKey) (p cordon.TrustPolicy, err error) {
	var jws string
	if err := d.load(policyFile, &jws); errors.Is(err, fs.ErrNotExist) {
		return p, nil
	} else if err != nil {
		return p, err
	}
	if p, err = seal.OpenPolicy(jws, key); err != nil {
		return p, fmt.Errorf("read %s: %w", filepath.Join(d.path, policyFile), err)
	}
	return p, nil
}
