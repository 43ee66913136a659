package agent

import (
	"crypto/sha256"
	"os"
	"path/filepath"
	"testing"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/agent/disk"
	"github.com/cordon-project/cordon/internal/seal"
)

func TestPolicy(t *testing.T) {
	f := newFixture(t)
	digest := cordon.Digest(sha256.Sum256([]byte("tool")))
	policy := func(version uint64, machine cordon.MachineID, key byte, digests ...cordon.Digest) string {
		jws, err := seal.Policy(cordon.TrustPolicy{Machine: machine, Version: version, Digests: digests}, seedKey(key))
		if err != nil {
			t.Fatal(err)
		}
		return jws
	}
	trusted := func() []cordon.TrustEntry {
		f.kernel.mu.Lock()
		defer f.kernel.mu.Unlock()
		return f.kernel.trusted
	}
	if !f.takePolicy(t.Context(), policy(3, f.id, 2, digest)) || len(trusted()) != 1 || trusted()[0].Digest != digest || trusted()[0].Size >= 0 {
		t.Fatalf("trusted %+v", trusted())
	}
	for what, jws := range map[string]string{
		"the same":          policy(3, f.id, 2),
		"an older one":      policy(2, f.id, 2),
		"another machine's": policy(4, cordon.MachineID("x"), 2),
		"a forged one":      policy(4, f.id, 9),
		"an order":          f.sign(f.order(4, cordon.RestrictOrder)),
		"nothing":           "",
	} {
		if f.takePolicy(t.Context(), jws) || len(trusted()) != 1 {
			t.Errorf("took %s", what)
		}
	}
	if s := f.Status().Observed.Policy; s.Version != 3 || s.Content == "" {
		t.Errorf("it says %+v", s)
	}
	// After a reboot it is applied before anything else, without a server.
	f.restart()
	f.kernel.trusted = nil
	if err := f.restore(t.Context()); err != nil || len(trusted()) != 1 {
		t.Errorf("after a restart: %v, %+v", err, trusted())
	}
	if f.takePolicy(t.Context(), policy(2, f.id, 2)) {
		t.Error("took an older one after a restart")
	}
	if !f.takePolicy(t.Context(), policy(9, f.id, 2)) || len(trusted()) != 0 {
		t.Errorf("an empty one: %+v", trusted())
	}
	// One that somebody tampered with is no reason to forget what was decided.
	if err := os.WriteFile(filepath.Join(f.dir, disk.PolicyFile), []byte(`"a.b.c"`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if a, err := Open(Config{DataDir: f.dir}); err == nil {
		t.Error("opened with a policy that does not verify", a.Close())
	}
}
