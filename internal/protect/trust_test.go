package protect

import (
	"crypto/sha256"
	"errors"
	"testing"

	"github.com/cordon-project/cordon"
)

func TestTrust(t *testing.T) {
	r := newRig(set("a"))
	extra := []cordon.TrustEntry{{Digest: sha256.Sum256([]byte("tool")), Size: -1, Origin: "policy:1"}}
	holds := func() bool { return r.kernel.set.Contains(extra[0].Digest) }
	if err := r.Switch(t.Context(), cordon.ModeEnforce); err != nil || holds() {
		t.Fatal(err)
	}
	if err := r.Trust(t.Context(), extra); err != nil || !holds() || !r.kernel.set.Contains(sha256.Sum256([]byte("canary"))) || r.kernel.mode != cordon.ModeEnforce {
		t.Errorf("%v, mode %s", err, r.kernel.mode)
	}
	r.renew(t.Context(), set("a", "b"), nil)
	if !holds() || !r.kernel.set.Contains(sha256.Sum256([]byte("b"))) {
		t.Error("a new set of the machine's forgot it")
	}
	// If the new set cannot be put in force the one before stays, and it comes later.
	r.kernel.refuse = errors.New("busy")
	if err := r.Trust(t.Context(), nil); err == nil || !holds() || r.Observe().Problem == "" {
		t.Errorf("%v, problem %q", err, r.Observe().Problem)
	}
	r.kernel.refuse = nil
	r.renew(t.Context(), set("a"), nil)
	if holds() || r.Observe().Problem != "" {
		t.Errorf("taken back later: problem %q", r.Observe().Problem)
	}
	// Before there is a first set it waits for that.
	r = newRig(nil)
	if err := r.Trust(t.Context(), extra); err != nil {
		t.Fatal(err)
	}
	r.renew(t.Context(), set("a"), nil)
	if err := r.Switch(t.Context(), cordon.ModeEnforce); err != nil || !holds() {
		t.Errorf("with the first set: %v", err)
	}
}
