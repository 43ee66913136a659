package protect

import (
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"testing"

	"github.com/cordon-project/cordon"
)

// desk is an admission that admits programs by their name.
type desk struct {
	restricted bool
	entries    []cordon.TrustEntry
	refuse     error
	full       error       // what Restrict fails with
	kernel     *kernel     // that is switched
	inForce    cordon.Mode // when Restrict was called last
}

func (d *desk) Restrict(on bool) error {
	d.inForce = d.kernel.Mode()
	if d.full != nil {
		return d.full
	}
	if d.restricted = on; !on {
		d.entries = nil
	}
	return nil
}

func (d *desk) Admit(_ context.Context, paths []string) error {
	if d.refuse != nil || !d.restricted {
		return d.refuse
	}
	for _, p := range paths {
		d.entries = append(d.entries, cordon.TrustEntry{Digest: sha256.Sum256([]byte(p)), Size: int64(len(p)), Origin: "archive"})
	}
	return nil
}

func (d *desk) Entries() []cordon.TrustEntry { return d.entries }

func TestAdmit(t *testing.T) {
	ctx := t.Context()
	r := newRig(set("a"))
	d := &desk{kernel: r.kernel}
	r.cfg.Admission = d
	r.cfg.Log = slog.New(slog.DiscardHandler)
	runs := func(name string) bool { return r.kernel.set.Contains(sha256.Sum256([]byte(name))) }

	if err := r.Admit(ctx, []string{"early"}); err != nil || len(d.entries) > 0 {
		t.Errorf("on an unrestricted machine: %v, %v", d.entries, err)
	}
	d.full = errors.New("the disk is full")
	if err := r.Switch(ctx, cordon.ModeEnforce); err == nil || r.kernel.Mode() != cordon.ModeOff || r.Observe().Restricted() {
		t.Errorf("what packages may bring could not be noted, and the machine is in mode %s: %v", r.kernel.Mode(), err)
	}
	d.full = nil
	if err := r.Switch(ctx, cordon.ModeEnforce); err != nil || !d.restricted {
		t.Fatal(d.restricted, err)
	}
	if d.inForce != cordon.ModeEnforce {
		t.Error("the restriction waited for the disk")
	}
	if err := r.Admit(ctx, []string{"x"}); err != nil || !runs("x") || !runs("a") || !runs("canary") {
		t.Errorf("admitted x: %v", err)
	}
	inForce := r.kernel.set
	if err := r.Admit(ctx, []string{"x"}); err != nil || r.kernel.set != inForce {
		t.Errorf("x, admitted before, was put in force anew, or %v", err)
	}
	checks := r.checks
	r.renew(ctx, set("a", "b"), nil) // the database does not have x yet
	if !runs("x") || !runs("b") {
		t.Error("a new set forgot what was admitted")
	}
	if r.checks != checks {
		t.Error("a set that only adds was checked")
	}
	r.renew(ctx, set("b"), nil)
	if r.checks == checks {
		t.Error("a set without something of the one before was not checked")
	}
	d.refuse = errors.New("no")
	if err := r.Admit(ctx, []string{"y"}); err == nil || runs("y") {
		t.Errorf("a refusal is %v", err)
	}
	d.refuse, r.test = nil, errors.New("the canary ran")
	if err := r.Admit(ctx, []string{"z"}); err == nil {
		t.Error("a set that fails its test was taken over")
	}
	r.test = nil
	if err := r.Switch(ctx, cordon.ModeOff); err != nil || d.restricted {
		t.Error(d.restricted, err)
	}
	// A restriction that fails leaves the admission as it was.
	r.test = errors.New("the canary ran")
	if err := r.Switch(ctx, cordon.ModeEnforce); err == nil || d.restricted {
		t.Error(d.restricted, err)
	}
	d.restricted = true // as after a restart
	if err := r.Admit(ctx, []string{"between"}); err != nil {
		t.Error(err)
	}
	if err := r.Switch(ctx, cordon.ModeEnforce); err == nil || !d.restricted {
		t.Error("a restart whose restriction fails at first forgot the keys of before")
	}
	r.test = nil
	if err := r.Switch(ctx, cordon.ModeEnforce); err != nil || !runs("between") {
		t.Errorf("what was admitted before the restriction was in force again does not run: %v", err)
	}
}
