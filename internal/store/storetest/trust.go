package storetest

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"slices"

	"github.com/cordon-project/cordon"
)

func testTrust(w *world) {
	rule := func(scope cordon.TrustScope, name string) cordon.TrustRule {
		return cordon.TrustRule{Digest: sha256.Sum256([]byte(name)), Scope: scope, Comment: "ünï " + name, Actor: "app", At: Noon}
	}
	one := cordon.TrustMachine(w.machine.ID)
	change := func(r cordon.TrustRule, remove, want bool) {
		w.Helper()
		changed, err := w.ChangeTrust(w.Context(), r, remove, cordon.AuditEntry{At: Noon, Kind: cordon.AuditTrust, Action: "t", Actor: "app", Detail: r.Comment})
		if err != nil || changed != want {
			w.Errorf("changed %v, %v", changed, err)
		}
	}
	have := func(what string, revision uint64, scopes []cordon.TrustScope, want ...cordon.TrustRule) {
		w.Helper()
		got, at, err := w.TrustRules(w.Context(), scopes...)
		if err != nil || at != revision {
			w.Errorf("%s: revision %d, want %d, %v", what, at, revision, err)
		}
		slices.SortFunc(want, func(a, b cordon.TrustRule) int {
			return cmp.Or(cmp.Compare(a.Scope, b.Scope), cmp.Compare(a.Digest.String(), b.Digest.String()))
		})
		w.diff(what, want, got)
	}
	have("none", 0, nil)
	change(rule(cordon.TrustAll, "a"), false, true)
	change(rule(one, "a"), false, true)
	change(rule(one, "b"), false, true)
	change(rule(one, "b"), false, false)
	change(rule(cordon.TrustAll, "b"), true, false)
	have("all", 3, nil, rule(cordon.TrustAll, "a"), rule(one, "a"), rule(one, "b"))
	have("one scope", 3, []cordon.TrustScope{one}, rule(one, "a"), rule(one, "b"))
	have("two scopes", 3, []cordon.TrustScope{one, cordon.TrustAll}, rule(cordon.TrustAll, "a"), rule(one, "a"), rule(one, "b"))
	have("a scope without rules", 3, []cordon.TrustScope{"machine:x"})
	change(rule(one, "a"), true, true)
	have("removed", 4, []cordon.TrustScope{one}, rule(one, "b"))
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
