package cordon_test

import (
	"crypto/sha256"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/testkit/memstore"
)

// However rules change, whichever policies get lost or come late, and even if
// the server forgets what it knew: a machine that hears the server once more has
// exactly the rules, and never goes back to an older policy.
func TestPoliciesConverge(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id := cordon.MachineID(strings.Repeat("ab", 20))
		var rules, backup []cordon.TrustRule
		revision, backupRevision := uint64(0), uint64(0)
		var has cordon.TrustPolicy
		var flying []cordon.TrustPolicy
		take := func(p cordon.TrustPolicy) {
			before := has.Version
			if cordon.JudgePolicy(id, has.State(), p) == "" {
				has = p
			}
			if has.Version < before {
				t.Fatalf("version %d after %d", has.Version, before)
			}
		}
		offer := func() (cordon.TrustPolicy, bool) {
			p, due, err := cordon.NextPolicy(id, rules, revision, has.State(), time.Time{})
			if err != nil {
				t.Fatal(err)
			}
			return p, due
		}
		for range rapid.IntRange(0, 30).Draw(t, "steps") {
			switch rapid.SampledFrom([]string{"add", "remove", "offer", "arrive", "backup", "restore"}).Draw(t, "step") {
			case "add":
				rules = append(rules, cordon.TrustRule{Digest: cordon.Digest{rapid.Byte().Draw(t, "digest")}})
				revision++
			case "remove":
				if len(rules) > 0 {
					rules = rules[1:]
					revision++
				}
			case "offer":
				if p, due := offer(); due {
					flying = append(flying, p)
				}
			case "arrive":
				if len(flying) > 0 {
					take(flying[rapid.IntRange(0, len(flying)-1).Draw(t, "which")])
				}
			case "backup":
				backup, backupRevision = rules, revision
			case "restore":
				rules, revision = backup, backupRevision
			}
		}
		if p, due := offer(); due {
			take(p)
		}
		if _, due := offer(); due {
			t.Fatal("it is offered again and again")
		}
		want := map[cordon.Digest]bool{}
		for _, r := range rules {
			want[r.Digest] = true
		}
		if len(has.Digests) != len(want) {
			t.Fatalf("%d digests, want %d", len(has.Digests), len(want))
		}
		for _, e := range has.Entries() {
			if !want[e.Digest] {
				t.Fatalf("trusts %s", e.Digest)
			}
		}
	})
}

func TestPolicyEdges(t *testing.T) {
	id := cordon.MachineID(strings.Repeat("ab", 20))
	if _, _, err := cordon.NextPolicy(id, nil, 0, cordon.PolicyState{Version: 1 << 60}, time.Time{}); cordon.KindOf(err) != cordon.Invalid {
		t.Errorf("impossible version: %v", err)
	}
	if _, due, err := cordon.NextPolicy(id, nil, 9, cordon.PolicyState{}, time.Time{}); due || err != nil {
		t.Errorf("a machine without rules gets a policy: %v", err)
	}
	if why := cordon.JudgePolicy(id, cordon.PolicyState{}, cordon.TrustPolicy{Machine: "x", Version: 1}); !strings.Contains(why, "is for machine x") {
		t.Errorf("another machine's: %q", why)
	}
	d := cordon.Digest(sha256.Sum256(nil))
	b, err := json.Marshal(cordon.TrustPolicy{Digests: []cordon.Digest{d}})
	var back cordon.TrustPolicy
	if err != nil || !strings.Contains(string(b), `"sha256":["e3b0c442`) || json.Unmarshal(b, &back) != nil || back.Digests[0] != d {
		t.Errorf("%s, %v", b, err)
	}
	if err := json.Unmarshal([]byte(`{"sha256":["e3\u001b"]}`), &back); err == nil {
		t.Error("read what is no digest")
	}
}

func TestServiceTrust(t *testing.T) {
	var store memstore.Store
	one, other := cordon.MachineID(strings.Repeat("ab", 20)), cordon.MachineID(strings.Repeat("cd", 20))
	var nudged []cordon.MachineID
	var sealed cordon.TrustPolicy
	s := &cordon.Service{Store: &store, Now: time.Now, Nudge: func(m cordon.MachineID) { nudged = append(nudged, m) }, NudgeAll: func() { nudged = append(nudged, "all") },
		SealPolicy: func(p cordon.TrustPolicy) (string, error) { sealed = p; return "jws", nil }}
	d := cordon.Digest(sha256.Sum256([]byte("tool")))
	try := func(c cordon.Caller, scope cordon.TrustScope, comment string, remove, want bool, kind cordon.Kind) {
		t.Helper()
		changed, err := s.Trust(t.Context(), c, cordon.TrustRule{Digest: d, Scope: scope, Comment: comment}, remove)
		if changed != want || cordon.KindOf(err) != kind {
			t.Errorf("scope %q: changed %v, %v", scope, changed, err)
		}
	}
	try(cordon.Caller{Permissions: []cordon.Permission{cordon.MachineRestrict}}, cordon.TrustAll, "x", false, false, cordon.Forbidden)
	try(soar, cordon.TrustAll, "", false, false, cordon.Invalid)
	try(soar, cordon.TrustAll, "\xff", false, false, cordon.Invalid)
	for _, scope := range []cordon.TrustScope{"", "everything", "machine:", "machine:ab", "machine:" + cordon.TrustScope(one) + " ", cordon.TrustScope("machine:" + strings.ToUpper(string(one))), cordon.TrustScope(one),
		"group:x", "group:", "group:0", "group:-1", "group:+1", "group:01", "group:1 ", "1"} {
		try(soar, scope, "x", false, false, cordon.Invalid)
	}
	try(soar, "group:1", "x", false, false, cordon.NotFound)
	if len(store.AuditLog()) != 0 || nudged != nil {
		t.Fatal("a refused request left a trace")
	}
	try(soar, cordon.TrustMachine(one), "x", false, true, cordon.Internal)
	try(soar, cordon.TrustMachine(one), "x", false, false, cordon.Internal)
	if jws, err := s.Policy(t.Context(), other, cordon.PolicyState{}); jws != "" || err != nil {
		t.Errorf("another machine gets it: %q, %v", jws, err)
	}
	if jws, err := s.Policy(t.Context(), one, cordon.PolicyState{}); jws == "" || err != nil || sealed.Machine != one || len(sealed.Digests) != 1 || sealed.Digests[0] != d {
		t.Errorf("%q, %v, %+v", jws, err, sealed)
	}
	if jws, err := s.Policy(t.Context(), one, sealed.State()); jws != "" || err != nil {
		t.Errorf("once more: %q, %v", jws, err)
	}
	try(soar, cordon.TrustAll, "x", false, true, cordon.Internal)
	try(soar, cordon.TrustAll, "", true, true, cordon.Internal)
	if strings.Join([]string{string(nudged[0]), string(nudged[1]), string(nudged[2])}, " ") != string(one)+" all all" || len(nudged) != 3 {
		t.Errorf("nudged %q", nudged)
	}
	if log := store.AuditLog(); len(log) != 3 || log[0].Kind != cordon.AuditTrust || log[0].Machine != one || !strings.Contains(log[0].Detail, d.String()) {
		t.Errorf("%+v", log)
	}
	if rules, err := s.TrustRules(t.Context(), soar); err != nil || len(rules) != 1 || rules[0].Actor != soar.ID {
		t.Errorf("%+v, %v", rules, err)
	}
}
