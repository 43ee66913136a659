package agent

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/agent/disk"
	"github.com/cordon-project/cordon/internal/uplink"
)

// enrol makes the machine's key, introduces it, and pins the order key that the
// server names. It is done once: the channel is trusted for this one answer, by
// the CA file.
func (a *Agent) enrol(ctx context.Context, s *uplink.Server) (*uplink.Machine, error) {
	if a.cfg.EnrollToken == "" {
		return nil, uplink.EnrolmentRefused("this machine is not enrolled: start the agent once with --enrollment-token")
	}
	if a.key == nil {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, fmt.Errorf("make machine key: %w", err)
		}
		// On disk before it is shown to anybody: an answer that gets lost must
		// not leave a second machine behind.
		if err := a.dir.SaveIdentity(disk.Identity{Machine: cordon.IDOfKey(key.Public().(ed25519.PublicKey)), Seed: key.Seed()}); err != nil {
			return nil, err
		}
		a.key = key
	}
	facts, err := a.cfg.Facts()
	if err != nil {
		return nil, fmt.Errorf("read machine facts: %w", err)
	}
	up := s.Machine(a.key)
	resp, orderKey, err := up.Enrol(ctx, a.cfg.EnrollToken, facts)
	if err != nil {
		return nil, err
	}
	id := &disk.Identity{Machine: resp.Machine, Tenant: resp.Tenant, OrderKey: resp.OrderKey, Seed: a.key.Seed()}
	if err := a.dir.SaveIdentity(*id); err != nil {
		return nil, err
	}
	a.mu.Lock()
	a.id, a.orderKey = id, orderKey
	a.publish()
	a.mu.Unlock()
	a.cfg.Log.InfoContext(ctx, "enrolled", "machine", id.Machine, "tenant", id.Tenant)
	return up, nil
}
