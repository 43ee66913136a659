package storetest

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"slices"

	"github.com/cordon-project/cordon"
)

func sorted(rules []cordon.TrustRule) []cordon.TrustRule {
	slices.SortFunc(rules, func(a, b cordon.TrustRule) int {
		return cmp.Or(cmp.Compare(a.Scope, b.Scope), cmp.Compare(a.Digest.String(), b.Digest.String()))
	})
	return rules
}

// trusts holds which rules hold for a machine.
func (w *world) trusts(what string, m cordon.MachineID, revision uint64, want ...cordon.TrustRule) {
	w.Helper()
	got, at, err := w.TrustOf(w.Context(), m)
	if err != nil || at != revision {
		w.Errorf("%s: revision %d, want %d, %v", what, at, revision, err)
	}
	w.diff(what, sorted(want), got)
}

func testTrust(w *world) {
	rule := func(scope cordon.TrustScope, name string) cordon.TrustRule {
		return cordon.TrustRule{Digest: sha256.Sum256([]byte(name)), Scope: scope, Comment: "ünï " + name, Actor: "app", At: Noon}
	}
	other := Machine("other", "").ID
	one := cordon.TrustMachine(w.machine.ID)
	change := func(r cordon.TrustRule, remove, want bool) {
		w.Helper()
		changed, err := w.ChangeTrust(w.Context(), r, remove, cordon.AuditEntry{At: Noon, Kind: cordon.AuditTrust, Action: "t", Actor: "app", Detail: r.Comment})
		if err != nil || changed != want {
			w.Errorf("changed %v, %v", changed, err)
		}
	}
	have := func(what string, want ...cordon.TrustRule) {
		w.Helper()
		got, err := w.TrustRules(w.Context())
		if err != nil {
			w.Errorf("%s: %v", what, err)
		}
		w.diff(what, sorted(want), got)
	}
	have("none")
	w.trusts("none", w.machine.ID, 0)
	change(rule(cordon.TrustAll, "a"), false, true)
	change(rule(one, "a"), false, true)
	change(rule(one, "b"), false, true)
	change(rule(one, "b"), false, false)
	change(rule(cordon.TrustAll, "b"), true, false)
	have("all", rule(cordon.TrustAll, "a"), rule(one, "a"), rule(one, "b"))
	w.trusts("the machine", w.machine.ID, 3, rule(cordon.TrustAll, "a"), rule(one, "a"), rule(one, "b"))
	w.trusts("another machine", other, 3, rule(cordon.TrustAll, "a"))
	w.trusts("what is no machine", "x", 3, rule(cordon.TrustAll, "a"))
	change(rule(one, "a"), true, true)
	w.trusts("removed", w.machine.ID, 4, rule(cordon.TrustAll, "a"), rule(one, "b"))
	if log := w.auditOf("t"); len(log) != 4 {
		w.Errorf("%d audit entries for 4 changes", len(log))
	}
	for i := range cordon.MaxTrustRules {
		change(rule("machine:y", fmt.Sprint(i)), false, true)
	}
	_, err := w.ChangeTrust(w.Context(), rule("machine:y", "one more"), false, cordon.AuditEntry{At: Noon, Action: "u"})
	w.wantError("one more", err, cordon.Conflict, "")
	if log := w.auditOf("u"); len(log) != 0 {
		w.Errorf("a refused change was audited")
	}
	change(rule("machine:y", "0"), true, true)
	change(rule("machine:y", "one more"), false, true)
}

// testTrustContended: a revision is never newer than the rules that come with it,
// or a machine would never get those that it lacks.
func testTrustContended(w *world) {
	together(func(i int) {
		rule := cordon.TrustRule{Digest: sha256.Sum256([]byte{byte(i)}), Scope: cordon.TrustAll, Comment: "c", At: Noon}
		if _, err := w.ChangeTrust(w.Context(), rule, false, cordon.AuditEntry{At: Noon}); err != nil {
			w.Error(err)
		}
		for range 10 {
			rules, revision, err := w.TrustOf(w.Context(), w.machine.ID)
			if err != nil || uint64(len(rules)) < revision {
				w.Errorf("%d rules at revision %d, %v", len(rules), revision, err)
			}
		}
	})
}
