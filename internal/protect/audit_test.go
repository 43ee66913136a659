package protect

import (
	"errors"
	"testing"

	"github.com/cordon-project/cordon"
)

func TestIdleAudit(t *testing.T) {
	r := newRig(nil)
	r.cfg.Idle = cordon.ModeAudit
	is := func(what string, want cordon.Mode) {
		t.Helper()
		if o := r.Observe(); r.kernel.mode != want || o.Mode != want {
			t.Errorf("%s: mode %s, observed %s, want %s", what, r.kernel.mode, o.Mode, want)
		}
	}
	is("without a set", cordon.ModeOff)
	r.renew(t.Context(), set("a"), nil)
	is("with the first set", cordon.ModeAudit)
	if err := r.Switch(t.Context(), cordon.ModeEnforce); err != nil {
		t.Fatal(err)
	}
	is("restricted", cordon.ModeEnforce)
	if err := r.Switch(t.Context(), cordon.ModeOff); err != nil {
		t.Fatal(err)
	}
	is("released", cordon.ModeAudit)
	// A set under which the machine could not be restricted is good enough to count by.
	r.missing = []string{"/usr/sbin/sshd: not in the trust set"}
	r.renew(t.Context(), set("b"), nil)
	is("with a poor set", cordon.ModeAudit)
	if r.Set() != r.kernel.set {
		t.Error("it audits with another set")
	}
	if err := r.Switch(t.Context(), cordon.ModeEnforce); err == nil {
		t.Error("restricted with a poor set")
	}
	is("a restriction that failed", cordon.ModeAudit)
	r.kernel.refuse = errors.New("busy")
	if err := r.Switch(t.Context(), cordon.ModeOff); err == nil {
		t.Error("the kernel refused, and yet")
	}
}
