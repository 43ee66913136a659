package storetest

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/cordon-project/cordon"
)

// into is a change that puts a machine into a group.
func into(group int64) cordon.GroupChange {
	return func(cordon.Machine) (int64, []cordon.AuditEntry, error) { return group, nil, nil }
}

func (w *world) group(name string) cordon.Group {
	w.Helper()
	g, err := w.CreateGroup(w.Context(), name, cordon.AuditEntry{At: Noon, Kind: cordon.AuditGroup, Action: "g"})
	if err != nil {
		w.Fatal(err)
	}
	w.diff("created", cordon.GroupInfo{Group: cordon.Group{ID: g.ID, Name: name}, Created: Noon}, g)
	return g.Group
}

func (w *world) groups(what string, want ...cordon.GroupInfo) {
	w.Helper()
	got, err := w.Groups(w.Context())
	if err != nil {
		w.Errorf("%s: %v", what, err)
	}
	w.diff(what, want, got)
}

func (w *world) move(group int64, ids ...cordon.MachineID) []cordon.MachineID {
	w.Helper()
	moved, err := w.ChangeGroups(w.Context(), ids, into(group))
	if err != nil {
		w.Fatal(err)
	}
	return moved
}

func testGroups(w *world) {
	w.groups("none")
	b, a := w.group("servers ünï"), w.group("Desktops")
	info := func(g cordon.Group, machines, trusted int) cordon.GroupInfo {
		return cordon.GroupInfo{Group: g, Created: Noon, Machines: machines, Trusted: trusted}
	}
	w.groups("two", info(a, 0, 0), info(b, 0, 0))
	for _, name := range []string{"desktops", "DESKTOPS", "Desktops"} {
		_, err := w.CreateGroup(w.Context(), name, cordon.AuditEntry{At: Noon, Action: "refused"})
		w.wantError("the same name", err, cordon.Conflict, "")
	}
	rule := cordon.TrustRule{Digest: sha256.Sum256(nil), Scope: cordon.TrustGroup(a.ID), At: Noon}
	trust := func(remove, want bool) {
		w.Helper()
		if changed, err := w.ChangeTrust(w.Context(), rule, remove, cordon.AuditEntry{At: Noon}); err != nil || changed != want {
			w.Errorf("changed %v, %v", changed, err)
		}
	}
	trust(false, true)
	trust(false, false)
	w.move(a.ID, w.machine.ID)
	w.groups("with a machine and a rule", info(a, 1, 1), info(b, 0, 0))

	// Another name changes nothing else.
	refused := cordon.AuditEntry{At: Noon, Action: "refused"}
	w.wantError("the name of another", w.RenameGroup(w.Context(), a.ID, "SERVERS ünï", refused), cordon.Conflict, "")
	w.wantError("a name for no group", w.RenameGroup(w.Context(), b.ID+1000, "new", refused), cordon.NotFound, "")
	for _, name := range []string{"zebras", "ZEBRAS", "Desktops"} {
		if name == "Desktops" {
			w.groups("in the order of the new names", info(b, 0, 0), info(a, 1, 1))
		}
		if err := w.RenameGroup(w.Context(), a.ID, name, cordon.AuditEntry{At: Noon, Kind: cordon.AuditGroup, Action: "renamed"}); err != nil {
			w.Fatal(err)
		}
		a.Name = name
		w.diff(name, a, w.machineNow(w.machine.ID).Group)
	}
	w.groups("named as before", info(a, 1, 1), info(b, 0, 0))
	if log := w.auditOf("renamed"); len(log) != 3 {
		w.Errorf("%d audit entries for 3 names", len(log))
	}

	// What is trusted somewhere keeps the group.
	w.wantError("a group with a rule", w.DeleteGroup(w.Context(), a.ID, refused), cordon.Conflict, "")
	w.wantError("no group", w.DeleteGroup(w.Context(), b.ID+1000, refused), cordon.NotFound, "")
	w.wantError("none", w.DeleteGroup(w.Context(), 0, refused), cordon.NotFound, "")
	w.diff("still there", a, w.machineNow(w.machine.ID).Group)
	trust(true, true)
	if err := w.DeleteGroup(w.Context(), a.ID, cordon.AuditEntry{At: Noon, Kind: cordon.AuditGroup, Action: "g"}); err != nil {
		w.Fatal(err)
	}
	w.diff("of a deleted group", cordon.Group{}, w.machineNow(w.machine.ID).Group)
	w.groups("one", info(b, 0, 0))
	if log := w.auditOf("g"); len(log) != 3 {
		w.Errorf("%d audit entries for 3 changes", len(log))
	}

	// What is gone is nobody's scope, also when the name comes again.
	for _, remove := range []bool{false, true} {
		_, err := w.ChangeTrust(w.Context(), rule, remove, refused)
		w.wantError("a rule for a deleted group", err, cordon.NotFound, "")
	}
	_, err := w.ChangeGroups(w.Context(), []cordon.MachineID{w.machine.ID}, into(a.ID))
	w.wantError("into a deleted group", err, cordon.NotFound, "")
	if again := w.group("desktops"); again.ID == a.ID || again.ID == b.ID || again.ID <= 0 {
		w.Errorf("the id %d again", again.ID)
	}
	if log := w.auditOf("refused"); len(log) != 0 {
		w.Errorf("refused changes were audited: %+v", log)
	}

	for i := range cordon.MaxGroups - 2 {
		w.group(fmt.Sprint("group ", i))
	}
	_, err = w.CreateGroup(w.Context(), "one more", refused)
	w.wantError("one more", err, cordon.Conflict, "")
}

func testGroupsOfMachines(w *world) {
	other := w.enrol("other")
	ids := []cordon.MachineID{other.ID, w.machine.ID}
	servers, desktops := w.group("servers"), w.group("desktops")
	rule := func(scope cordon.TrustScope) cordon.TrustRule {
		return cordon.TrustRule{Digest: sha256.Sum256([]byte(scope)), Scope: scope, Comment: "c", Actor: "app", At: Noon}
	}
	for _, scope := range []cordon.TrustScope{cordon.TrustAll, cordon.TrustGroup(servers.ID), cordon.TrustGroup(desktops.ID), cordon.TrustGroup(servers.ID) + "0"} {
		_, err := w.ChangeTrust(w.Context(), rule(scope), false, cordon.AuditEntry{At: Noon})
		if _, other := scope.Group(); err != nil && (!other || cordon.KindOf(err) != cordon.NotFound) {
			w.Fatal(err)
		}
	}
	all, ofServers, ofDesktops := rule(cordon.TrustAll), rule(cordon.TrustGroup(servers.ID)), rule(cordon.TrustGroup(desktops.ID))
	w.trusts("in no group", other.ID, 3, all)

	entry := cordon.AuditEntry{At: Noon, Kind: cordon.AuditGroup, Machine: other.ID, Action: "m"}
	moved, err := w.ChangeGroups(w.Context(), ids[:1], func(m cordon.Machine) (int64, []cordon.AuditEntry, error) {
		w.diff("before", cordon.Group{}, m.Group)
		return servers.ID, []cordon.AuditEntry{entry}, nil
	})
	w.diff("moved", ids[:1], moved)
	if log := w.auditOf("m"); err != nil || len(log) != 1 {
		w.Fatalf("%v, %+v", err, log)
	}
	w.diff("a member", servers, w.machineNow(other.ID).Group)
	w.diff("another", cordon.Group{}, w.machineNow(w.machine.ID).Group)
	w.trusts("in servers", other.ID, 4, all, ofServers)
	w.trusts("in no group", w.machine.ID, 4, all)

	// In one group only: it is left for the next one.
	w.diff("who moves", []cordon.MachineID{other.ID, w.machine.ID}, w.move(desktops.ID, ids...))
	w.trusts("in desktops", other.ID, 5, all, ofDesktops)
	w.diff("nobody moves", []cordon.MachineID{}, w.move(desktops.ID, ids...))
	w.trusts("as it was", other.ID, 5, all, ofDesktops)

	// Nothing that a machine says, and no label, changes it.
	again := other
	again.Group = servers
	if _, err := w.EnrolMachine(w.Context(), again); err != nil {
		w.Fatal(err)
	}
	fresh := Machine("fresh", "fresh")
	fresh.Group = servers
	if _, err := w.EnrolMachine(w.Context(), fresh); err != nil {
		w.Fatal(err)
	}
	labelled, err := w.ChangeLabels(w.Context(), ids[:1], func(m cordon.Machine) (cordon.Labels, []cordon.AuditEntry, error) {
		m.Group = servers
		return cordon.Labels{Tags: []string{"servers"}, Value: cordon.HighValue}, nil, nil
	})
	if err != nil || labelled[0].Group != desktops {
		w.Errorf("labelled: %+v, %v", labelled, err)
	}
	w.diff("after all that", desktops, w.machineNow(other.ID).Group)
	w.diff("enrolled", cordon.Group{}, w.machineNow(fresh.ID).Group)

	// All or none.
	_, err = w.ChangeGroups(w.Context(), []cordon.MachineID{other.ID, Machine("stranger", "").ID}, into(servers.ID))
	w.wantError("an unknown machine", err, cordon.NotFound, "")
	_, err = w.ChangeGroups(w.Context(), ids, func(m cordon.Machine) (int64, []cordon.AuditEntry, error) {
		if m.ID == w.machine.ID {
			return servers.ID + 1000, []cordon.AuditEntry{entry}, nil
		}
		return servers.ID, []cordon.AuditEntry{entry}, nil
	})
	w.wantError("an unknown group", err, cordon.NotFound, "")
	_, err = w.ChangeGroups(w.Context(), ids, func(m cordon.Machine) (int64, []cordon.AuditEntry, error) {
		if m.ID == w.machine.ID {
			return 0, nil, cordon.Errorf(cordon.Invalid, "", "no")
		}
		return servers.ID, []cordon.AuditEntry{entry}, nil
	})
	w.wantError("a change that fails", err, cordon.Invalid, "")
	w.trusts("as it was", other.ID, 5, all, ofDesktops)
	if log := w.auditOf("m"); len(log) != 1 {
		w.Errorf("refused changes were audited: %+v", log)
	}

	w.move(0, other.ID)
	w.trusts("in no group again", other.ID, 6, all)
}

// testGroupsContended: a group is deleted or trusted, never both.
func testGroupsContended(w *world) {
	for round := range 8 {
		g := w.group(fmt.Sprint("group", round))
		var trusted, deleted, moved atomic.Bool
		together(func(i int) {
			switch i % 3 {
			case 0:
				rule := cordon.TrustRule{Digest: sha256.Sum256([]byte{byte(i)}), Scope: cordon.TrustGroup(g.ID), At: Noon}
				if _, err := w.ChangeTrust(w.Context(), rule, false, cordon.AuditEntry{At: Noon}); err == nil {
					trusted.Store(true)
				}
			case 1:
				if err := w.DeleteGroup(w.Context(), g.ID, cordon.AuditEntry{At: Noon}); err == nil {
					deleted.Store(true)
				}
			default:
				if _, err := w.ChangeGroups(w.Context(), []cordon.MachineID{w.machine.ID}, into(g.ID)); err == nil {
					moved.Store(true)
				}
			}
		})
		if trusted.Load() == deleted.Load() {
			w.Errorf("trusted %v, deleted %v", trusted.Load(), deleted.Load())
		}
		in := w.machineNow(w.machine.ID).Group == g
		if in != (moved.Load() && !deleted.Load()) {
			w.Errorf("the machine is in it: %v, although it moved %v, and the group was deleted %v", in, moved.Load(), deleted.Load())
		}
		rules, err := w.TrustRules(w.Context())
		if err != nil || slices.ContainsFunc(rules, func(r cordon.TrustRule) bool { return r.Scope == cordon.TrustGroup(g.ID) }) != trusted.Load() {
			w.Errorf("%v, rules %+v", err, rules)
		}
	}
}
