package storetest

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/cordon-project/cordon"
)

func testEnrol(w *world) {
	m := Machine("new", "New.example.org")
	m.Observed = cordon.Observed{Mode: cordon.ModeOff, Enforcer: "fanotify", Limits: []string{"one", "two"}, At: Noon.Add(1)}
	created, err := w.EnrolMachine(w.Context(), m)
	if err != nil || !created {
		w.Fatalf("created %t, %v", created, err)
	}
	w.diff("enrolled", m, w.machineNow(m.ID))
	byDevice, err := w.MachineByDeviceID(w.Context(), m.DeviceID)
	if err != nil {
		w.Fatal(err)
	}
	w.diff("by device id", m, byDevice)

	// Again: the facts are new, the rest is what the store knows better.
	again := m
	again.Facts.DNSName, again.Facts.Interfaces = "renamed.example.org", nil
	again.FirstSeen, again.LastSeen, again.Observed = Noon.Add(time.Hour), Noon.Add(time.Hour), cordon.Observed{}
	created, err = w.EnrolMachine(w.Context(), again)
	if err != nil || created {
		w.Fatalf("created %t, %v", created, err)
	}
	want := m
	want.Facts, want.LastSeen = again.Facts, again.LastSeen
	w.diff("enrolled again", want, w.machineNow(m.ID))

	for _, id := range []cordon.MachineID{Machine("stranger", "").ID, "", "x", cordon.MachineID(strings.ToUpper(string(m.ID)))} {
		_, err := w.Store.Machine(w.Context(), id)
		w.wantError(fmt.Sprintf("Machine(%q)", id), err, cordon.NotFound, "")
	}
	for _, id := range []string{Machine("stranger", "").DeviceID, "", string(m.ID)} {
		_, err := w.MachineByDeviceID(w.Context(), id)
		w.wantError(fmt.Sprintf("MachineByDeviceID(%q)", id), err, cordon.NotFound, "")
	}

	// Many at once, one of them everybody's.
	news := make([]bool, callers)
	together(func(i int) {
		if _, err := w.EnrolMachine(w.Context(), Machine(fmt.Sprint("many", i), "many")); err != nil {
			w.Error(err)
		}
		var err error
		if news[i], err = w.EnrolMachine(w.Context(), Machine("everybody's", "shared")); err != nil {
			w.Error(err)
		}
	})
	if n := len(slices.DeleteFunc(news, func(created bool) bool { return !created })); n != 1 {
		w.Errorf("a machine was created %d times", n)
	}
	all, _, err := w.Machines(w.Context(), cordon.Query{})
	if err != nil || len(all) != 3+callers {
		w.Errorf("%d machines, %v", len(all), err)
	}
}

func testMachinesByName(w *world) {
	w.machine.Facts.DNSName = ""
	var named []cordon.Machine
	for i, name := range []string{"Web.Example.org", "web.example.ORG", "web.example.org.uk", "wëb", "WËB", "", ""} {
		m := Machine(fmt.Sprint("named", i), name)
		if _, err := w.EnrolMachine(w.Context(), m); err != nil {
			w.Fatal(err)
		}
		named = append(named, m)
	}
	find := func(name string, limit int, want ...cordon.Machine) {
		w.Helper()
		got, err := w.Store.MachinesByName(w.Context(), name, limit)
		if err != nil {
			w.Fatal(err)
		}
		if len(want) > limit {
			if len(got) != limit {
				w.Errorf("%d machines, limit %d", len(got), limit)
			}
			return
		}
		w.diff("machines named "+name, want, got, cmpopts.SortSlices(byID))
	}
	find("web.example.org", 10, named[0], named[1])
	find("WEB.EXAMPLE.ORG", 2, named[0], named[1])
	find("Web.Example.org", 1, named[0], named[1])
	find("web.example.org.uk", 10, named[2])
	find("wëb", 10, named[3]) // upper and lower case are a matter of A to Z
	find("WËb", 10, named[4])
	find("web%", 10)
	find("nobody", 10)
}

func byID(a, b cordon.Machine) bool { return a.ID < b.ID }

func testMachineSaid(w *world) {
	want := w.machine
	say := func(what string, f *cordon.Facts, o cordon.Observed, at time.Time) {
		w.Helper()
		if err := w.Store.MachineSaid(w.Context(), w.machine.ID, f, o, at); err != nil {
			w.Fatal(err)
		}
		w.diff(what, want, w.machineNow(w.machine.ID))
	}
	want.Observed = cordon.Observed{
		Generation: 4, Mode: cordon.ModeEnforce, InForce: true, Enforcer: "fanotify", Scope: "host", Limits: []string{"a", "b"}, Trusted: 12345,
		TrustSet: "ab12", Refused: 1<<64 - 1, BootID: "0a1b", Problem: "none", At: time.Date(2026, 1, 2, 3, 4, 5, 123456789, time.UTC),
	}
	want.Generation, want.LastSeen = 4, Noon.Add(time.Minute)
	say("observed", nil, want.Observed, want.LastSeen)
	want.Observed = cordon.Observed{Mode: cordon.ModeOff}
	say("observed less, late", nil, want.Observed, Noon)
	want.Facts = cordon.Facts{DNSName: "renamed", OSPlatform: "Ubuntu"}
	want.LastSeen = Noon.Add(time.Hour)
	say("facts", &want.Facts, want.Observed, want.LastSeen)

	err := w.Store.MachineSaid(w.Context(), Machine("stranger", "").ID, nil, cordon.Observed{}, Noon)
	w.wantError("MachineSaid of a stranger", err, cordon.NotFound, "")
	if _, err := w.Store.Machine(w.Context(), Machine("stranger", "").ID); true {
		w.wantError("Machine", err, cordon.NotFound, "")
	}
}

func testTouch(w *world) {
	const n = 1500
	seen, want := make(map[cordon.MachineID]time.Time), make(map[cordon.MachineID]time.Time)
	together(func(i int) {
		for ; i < n; i += callers {
			if _, err := w.EnrolMachine(w.Context(), Machine(fmt.Sprint("touched", i), "")); err != nil {
				w.Error(err)
			}
		}
	})
	for i := range n {
		id := Machine(fmt.Sprint("touched", i), "").ID
		want[id] = Noon
		switch i % 3 {
		case 0:
			seen[id] = Noon.Add(time.Duration(i) * cordon.Tick)
			want[id] = seen[id]
		case 1:
			seen[id] = Noon.Add(-time.Hour) // never backwards
		}
	}
	seen[Machine("stranger", "").ID] = Noon
	seen["x"] = Noon
	want[w.machine.ID] = Noon
	for range 2 {
		if err := w.Store.TouchMachines(w.Context(), seen); err != nil {
			w.Fatal(err)
		}
	}
	all, _, err := w.Machines(w.Context(), cordon.Query{})
	if err != nil {
		w.Fatal(err)
	}
	got := make(map[cordon.MachineID]time.Time)
	for _, m := range all {
		got[m.ID] = m.LastSeen
	}
	w.diff("last seen", want, got)
	if err := w.Store.TouchMachines(w.Context(), nil); err != nil {
		w.Error(err)
	}
}

func testAudit(w *world) {
	a := w.create(w.machine.ID, cordon.RestrictCodeExecution)
	entry := func(id cordon.ActionID, detail string) cordon.AuditEntry {
		return cordon.AuditEntry{At: Noon, Kind: cordon.AuditReport, Machine: w.machine.ID, Action: id, Actor: string(w.machine.ID), Detail: detail, Evidence: "eyJ"}
	}
	unknown := cordon.ActionID("6a2e0d4c-0000-4000-8000-000000000000")
	one, two, three, four := entry(a.ID, "one"), entry(unknown, "two"), entry("", "three"), entry(unknown, "four")
	if err := w.Store.Audit(w.Context(), one, two, three); err != nil {
		w.Fatal(err)
	}
	if err := w.Store.Audit(w.Context(), four); err != nil {
		w.Fatal(err)
	}
	if err := w.Store.Audit(w.Context()); err != nil {
		w.Fatal(err)
	}
	for id, want := range map[cordon.ActionID][]cordon.AuditEntry{a.ID: {one}, unknown: {two, four}, "nobody's": nil} {
		log := slices.DeleteFunc(w.auditOf(id), func(e cordon.AuditEntry) bool { return e.Kind == cordon.AuditCreated })
		if d := cmp.Diff(want, log, cmpopts.EquateEmpty(), cmpopts.IgnoreFields(cordon.AuditEntry{}, "Seq")); d != "" {
			w.Errorf("audit of %s (-want +got):\n%s", id, d)
		}
	}

	// Entries of one call stay together, and no number is given twice.
	together(func(i int) {
		if err := w.Store.Audit(w.Context(), entry(unknown, fmt.Sprint(i)), entry(unknown, fmt.Sprint(i))); err != nil {
			w.Error(err)
		}
	})
	log := w.auditOf(unknown)[2:]
	if len(log) != 2*callers {
		w.Fatalf("%d entries", len(log))
	}
	for i := 0; i < len(log); i += 2 {
		if log[i].Detail != log[i+1].Detail || log[i+1].Seq != log[i].Seq+1 {
			w.Fatalf("entries of one call: %+v, %+v", log[i], log[i+1])
		}
	}
}

func testSettings(w *world) {
	_, err := w.Store.Setting(w.Context(), "tenant")
	w.wantError("Setting", err, cordon.NotFound, "")
	put := func(values map[string][]byte) {
		w.Helper()
		if err := w.Store.PutSettings(w.Context(), values); err != nil {
			w.Fatal(err)
		}
		for name, want := range values {
			got, err := w.Store.Setting(w.Context(), name)
			if err != nil {
				w.Fatal(err)
			}
			w.diff("setting "+name, want, got)
		}
	}
	put(map[string][]byte{"tenant": []byte("5f2b"), "token": {0, 255, 0}, "empty": {}, "nil": nil})
	put(map[string][]byte{"token": []byte("other")})
	put(nil)
	if got, err := w.Store.Setting(w.Context(), "tenant"); err != nil || string(got) != "5f2b" {
		w.Errorf("tenant is %q, %v", got, err)
	}
}
