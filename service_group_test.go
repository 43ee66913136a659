package cordon_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cordon-project/cordon"
)

// Who is in a group trusts what is trusted there, from the next policy on, and
// no more when it has left. Each time its version is higher, and it is woken.
func TestGroups(t *testing.T) {
	w := newWorld(t)
	var nudged []cordon.MachineID
	w.Nudge, w.NudgeAll = func(m cordon.MachineID) { nudged = append(nudged, m) }, func() { nudged = append(nudged, "all") }
	woken := func(what string, want ...cordon.MachineID) {
		t.Helper()
		if slices.Sort(nudged); !slices.Equal(nudged, want) {
			t.Errorf("%s: woken %q, want %q", what, nudged, want)
		}
		nudged = nil
	}
	var sealed cordon.TrustPolicy
	w.SealPolicy = func(p cordon.TrustPolicy) (string, error) { sealed = p; return "jws", nil }
	states := make(map[cordon.MachineID]cordon.PolicyState)
	// takes is what a machine does at each contact.
	takes := func(what string, m cordon.MachineID, due bool, want ...cordon.Digest) {
		t.Helper()
		jws, err := w.Policy(t.Context(), m, states[m])
		if err != nil || (jws != "") != due {
			t.Fatalf("%s: policy %q, %v", what, jws, err)
		}
		if !due {
			return
		}
		if why := cordon.JudgePolicy(m, states[m], sealed); why != "" || !slices.Equal(sealed.Digests, want) {
			t.Errorf("%s: %q, %v", what, why, sealed.Digests)
		}
		states[m] = sealed.State()
	}
	for _, name := range []string{" Servers ", "desktops"} {
		if _, err := w.CreateGroup(t.Context(), soar, name); err != nil {
			t.Fatal(err)
		}
	}
	assign := func(group string, remove bool, changed int, refs ...string) {
		t.Helper()
		if n, err := w.Assign(t.Context(), soar, group, refs, remove); err != nil || n != changed {
			t.Errorf("%s: %d changed, want %d, %v", group, n, changed, err)
		}
	}
	tool := cordon.Digest(sha256.Sum256([]byte("tool")))
	trust := func(group string, remove bool) {
		t.Helper()
		g, err := w.FindGroup(t.Context(), soar, cordon.ChangeTrust, group)
		if err != nil {
			t.Fatal(err)
		}
		why := map[bool]string{false: "ours"}[remove]
		if changed, err := w.Trust(t.Context(), soar, cordon.TrustRule{Digest: tool, Scope: cordon.TrustGroup(g.ID), Comment: why}, remove); err != nil || !changed {
			t.Errorf("changed %v, %v", changed, err)
		}
	}
	assign("SERVERS", false, 1, string(web), "web.example.com")
	woken("into servers", web)
	takes("nothing is trusted there", web, false)
	trust("servers", false)
	woken("a rule for servers", web)
	takes("in servers", web, true, tool)
	takes("in none", db, false)
	assign("servers", false, 1, string(web), string(db))
	woken("another into servers", db)
	takes("the other", db, true, tool)
	assign("desktops", false, 1, string(web))
	woken("into desktops", web)
	takes("moved", web, true)
	takes("stays", db, false)
	assign("servers", true, 0, string(web)) // it is not in there
	woken("nobody moved")
	assign("servers", true, 1, string(web), string(db))
	woken("out of servers", db)
	takes("left", db, true)
	assign("servers", false, 1, string(web))
	takes("came back", web, true, tool)
	takes("all said", web, false)

	// Another name is nothing to a machine, and its rules stay.
	nudged = nil
	find := func(names ...string) (g cordon.GroupInfo) {
		for _, name := range names {
			if found, err := w.FindGroup(t.Context(), soar, cordon.ReadMachines, name); err == nil {
				g = found
			}
		}
		return g
	}
	for _, to := range []string{" Web ", "Web", "Servers"} {
		was := find("web", "servers")
		g, err := w.RenameGroup(t.Context(), soar, was.Name, to)
		if was.Name = strings.TrimSpace(to); err != nil || g != was || g != find(to) {
			t.Errorf("%q: %+v, %v", to, g, err)
		}
	}
	woken("renamed")
	takes("renamed", web, false)

	if err := w.DeleteGroup(t.Context(), soar, "servers"); cordon.KindOf(err) != cordon.Conflict {
		t.Errorf("a group that has rules: %v", err)
	}
	nudged = nil
	trust("servers", true)
	woken("no rule any more", web)
	takes("no rule any more", web, true)
	if err := w.DeleteGroup(t.Context(), soar, "servers"); err != nil {
		t.Fatal(err)
	}
	if m, err := w.store.Machine(t.Context(), web); err != nil || m.Group != (cordon.Group{}) {
		t.Errorf("%+v, %v", m.Group, err)
	}
	woken("deleted")

	var details []string
	for _, e := range w.store.AuditLog() {
		if e.Kind == cordon.AuditGroup || e.Kind == cordon.AuditTrust {
			details = append(details, strings.TrimSpace(e.Detail+" "+string(e.Machine)))
			if e.Actor != soar.ID {
				t.Errorf("actor %q", e.Actor)
			}
		}
	}
	if d := cmp.Diff([]string{
		`group "Servers" created`, `group "desktops" created`,
		`into group "Servers" ` + string(web),
		`trust ` + tool.String() + ` for group "Servers": ours`,
		`into group "Servers" ` + string(db),
		`into group "desktops", out of "Servers" ` + string(web),
		`out of group "Servers" ` + string(db),
		`into group "Servers", out of "desktops" ` + string(web),
		`group "Servers" renamed to "Web"`, `group "Web" renamed to "Servers"`,
		`trust ` + tool.String() + ` for group "Servers" no more`,
		`group "Servers" deleted; machines in it: 1`,
	}, details); d != "" {
		t.Error(d)
	}
}

// Whoever may do all but administer changes nothing about groups.
func TestGroupsRefused(t *testing.T) {
	w := newWorld(t)
	if _, err := w.CreateGroup(t.Context(), soar, "g"); err != nil {
		t.Fatal(err)
	}
	before := len(w.store.AuditLog())
	responder := cordon.Caller{Permissions: slices.DeleteFunc(cordon.AllPermissions(), func(p cordon.Permission) bool { return p == cordon.Administer })}
	for what, err := range map[string]error{
		"CreateGroup": second(w.CreateGroup(t.Context(), responder, "h")),
		"RenameGroup": second(w.RenameGroup(t.Context(), responder, "g", "h")),
		"DeleteGroup": w.DeleteGroup(t.Context(), responder, "g"),
		"Assign":      second(w.Assign(t.Context(), responder, "g", []string{string(web)}, false)),
		"Groups":      second(w.Groups(t.Context(), cordon.Caller{Permissions: []cordon.Permission{cordon.MachineRestrict}})),
		"FindGroup":   second(w.FindGroup(t.Context(), responder, cordon.ChangeTrust, "g")),
	} {
		if cordon.KindOf(err) != cordon.Forbidden {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, bad := range []string{"", " ", ".", "..", "a\x00", "\xff", "a\nb", strings.Repeat("ü", cordon.MaxGroupName+1)} {
		if _, err := w.CreateGroup(t.Context(), soar, bad); cordon.KindOf(err) != cordon.Invalid {
			t.Errorf("%q: %v", bad, err)
		}
		if _, err := w.RenameGroup(t.Context(), soar, "g", bad); cordon.KindOf(err) != cordon.Invalid {
			t.Errorf("renamed to %q: %v", bad, err)
		}
	}
	if _, err := w.Assign(t.Context(), soar, "g", []string{string(web), "nobody"}, false); cordon.KindOf(err) != cordon.NotFound {
		t.Errorf("an unknown machine: %v", err)
	}
	if n := len(w.store.AuditLog()); n != before {
		t.Errorf("%d audit entries more", n-before)
	}
	if _, err := w.CreateGroup(t.Context(), soar, strings.Repeat("ü", cordon.MaxGroupName)); err != nil {
		t.Error(err)
	}
}

// unlisted is a store that cannot list machines.
type unlisted struct{ cordon.Store }

func (unlisted) Machines(_ context.Context, _ cordon.Query) ([]cordon.Machine, cordon.Listing, error) {
	return nil, cordon.Listing{}, errors.New("disk on fire")
}

// A rule that is stored wakes somebody, whatever happens after it.
func TestGroupRuleWakesAll(t *testing.T) {
	w := newWorld(t)
	g, err := w.CreateGroup(t.Context(), soar, "g")
	if err != nil {
		t.Fatal(err)
	}
	all := false
	w.NudgeAll = func() { all = true }
	w.Store = unlisted{w.store}
	changed, err := w.Trust(t.Context(), soar, cordon.TrustRule{Scope: cordon.TrustGroup(g.ID), Comment: "ours"}, false)
	if err != nil || !changed || !all {
		t.Errorf("changed %v, %v, all woken: %v", changed, err, all)
	}
}
