package agent

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/seal"
	"github.com/cordon-project/cordon/internal/wire"
)

// refused is an error that ends the agent: trying again will not help.
func refused(why string) error {
	return &cordon.Error{Kind: cordon.Forbidden, Code: cordon.CodeEnrollmentRefused, Message: why}
}

// enrol makes the machine's key, introduces it, and pins the order key that the
// server names. It is done once: the channel is trusted for this one answer, by
// the CA file.
func (a *Agent) enrol(ctx context.Context, c *client) error {
	if a.cfg.EnrollToken == "" {
		return refused("this machine is not enrolled: start the agent once with --enrollment-token")
	}
	if a.key == nil {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return fmt.Errorf("make machine key: %w", err)
		}
		// On disk before it is shown to anybody: an answer that gets lost must
		// not leave a second machine behind.
		if err := a.dir.save(identityFile, identity{Machine: cordon.IDOfKey(key.Public().(ed25519.PublicKey)), Seed: key.Seed()}); err != nil {
			return err
		}
		a.key = key
	}
	c.key = a.key
	facts, err := a.cfg.Facts()
	if err != nil {
		return fmt.Errorf("read machine facts: %w", err)
	}
	public := c.key.Public().(ed25519.PublicKey)
	jwk, err := seal.MarshalKey(public)
	if err != nil {
		return err
	}
	var resp wire.EnrollResponse
	err = c.do(ctx, wire.EnrollPath, wire.EnrollRequest{Capability: wire.Capability, Token: a.cfg.EnrollToken, Key: jwk, Facts: facts}, &resp)
	var no *serverError
	if errors.As(err, &no) && (no.status == http.StatusForbidden || no.status == http.StatusBadRequest) {
		return refused(no.text)
	}
	if err != nil {
		return fmt.Errorf("enrol: %w", err)
	}
	if resp.Machine != cordon.IDOfKey(public) {
		return refused(fmt.Sprintf("the server named this machine %s, its key makes it %s", resp.Machine, cordon.IDOfKey(public)))
	}
	orderKey, err := seal.PublicKey(resp.OrderKey)
	if err != nil {
		return refused("the server's order key cannot be read: " + err.Error())
	}
	id := &identity{Machine: resp.Machine, Tenant: resp.Tenant, OrderKey: resp.OrderKey, Seed: c.key.Seed()}
	if err := a.dir.save(identityFile, id); err != nil {
		return err
	}
	a.mu.Lock()
	a.id, a.orderKey = id, orderKey
	a.publish()
	a.mu.Unlock()
	a.cfg.Log.InfoContext(ctx, "enrolled", "machine", id.Machine, "tenant", id.Tenant)
	return nil
}
