package cordon_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cordon-project/cordon"
)

func TestLabel(t *testing.T) {
	w := newWorld(t)
	m, err := w.Label(t.Context(), soar, web, cordon.LabelUpdate{Add: "prod", Value: cordon.HighValue})
	if err != nil || len(m.Tags) != 1 || m.Value != cordon.HighValue {
		t.Fatalf("%+v, %v", m.Labels, err)
	}
	if _, err := w.Label(t.Context(), soar, web, cordon.LabelUpdate{Add: "PROD"}); err != nil {
		t.Fatal(err)
	}
	log := w.store.AuditLog()
	last := log[len(log)-1]
	want := cordon.AuditEntry{Seq: last.Seq, At: t0, Kind: cordon.AuditLabelled, Machine: web, Actor: "app1", Detail: `tag "prod" added, value High instead of Normal`}
	if diff := cmp.Diff(want, last); diff != "" { // what changed nothing is not in the log
		t.Error(diff)
	}

	reader := cordon.Caller{Permissions: []cordon.Permission{cordon.MachineReadAll, cordon.MachineRestrict}}
	for what, err := range map[string]error{
		"Label":    second(w.Label(t.Context(), reader, web, cordon.LabelUpdate{Add: "x"})),
		"LabelAll": second(w.LabelAll(t.Context(), reader, []string{string(web)}, cordon.LabelUpdate{Add: "x"})),
	} {
		if cordon.KindOf(err) != cordon.Forbidden {
			t.Errorf("%s by a reader: %v", what, err)
		}
	}
	if _, err := w.Label(t.Context(), soar, "x", cordon.LabelUpdate{Add: "x"}); cordon.KindOf(err) != cordon.NotFound {
		t.Errorf("unknown: %v", err)
	}
	if n := len(w.store.AuditLog()); n != len(log) {
		t.Errorf("%d audit entries more", n-len(log))
	}
}

func second[T any](_ T, err error) error { return err }

func TestLabelAll(t *testing.T) {
	w := newWorld(t)
	changed, err := w.LabelAll(t.Context(), soar, []string{"db.example.com", string(web), strings.ToUpper(string(db))}, cordon.LabelUpdate{Add: "case 7"})
	if err != nil || len(changed) != 2 || changed[0].ID != db || changed[1].ID != web {
		t.Fatalf("%+v, %v", changed, err)
	}
	if _, err := w.LabelAll(t.Context(), soar, []string{string(web), "nobody"}, cordon.LabelUpdate{Remove: "case 7"}); cordon.KindOf(err) != cordon.NotFound || !strings.Contains(err.Error(), "nobody") {
		t.Errorf("unknown: %v", err)
	}
	if m, _ := w.store.Machine(t.Context(), web); len(m.Tags) != 1 {
		t.Errorf("one was changed although another is not known: %+v", m.Labels)
	}
	var refs []string
	for i := range cordon.MaxLabelBatch + 1 {
		refs = append(refs, fmt.Sprint(i))
	}
	_, err = w.LabelAll(t.Context(), soar, refs, cordon.LabelUpdate{Add: "x"})
	if cordon.CodeOf(err) != cordon.CodeBatchTooLarge || err.Error() != "Maximum batch size exceeded. Received: 501, allowed: 500." {
		t.Errorf("too many: %v", err)
	}
	if _, err = w.LabelAll(t.Context(), soar, refs[1:], cordon.LabelUpdate{Add: "x"}); cordon.KindOf(err) != cordon.NotFound {
		t.Errorf("as many as there may be: %v", err)
	}
}

func TestMachinesSeen(t *testing.T) {
	w := newWorld(t)
	say := func(m cordon.MachineID, ip string) {
		t.Helper()
		if err := w.store.MachineSaid(t.Context(), m, &cordon.Facts{LastIP: ip}, cordon.Observed{}, w.now); err != nil {
			t.Fatal(err)
		}
	}
	say(web, "192.0.2.1")
	w.now = t0.Add(40 * 24 * time.Hour)
	say(db, "192.0.2.2")
	find := func(ip string, at time.Time, want ...cordon.MachineID) {
		t.Helper()
		found, err := w.MachinesSeen(t.Context(), soar, ip, at)
		if err != nil || len(found) != len(want) {
			t.Fatalf("%s: %d machines, %v", ip, len(found), err)
		}
		for i, m := range found {
			if m.ID != want[i] {
				t.Errorf("%s: %s, want %s", ip, m.ID, want[i])
			}
		}
	}
	find(" ::ffff:192.0.2.2", w.now, db)
	find("192.0.2.2", w.now.Add(14*time.Hour), db) // clients send their local time as UTC
	find("192.0.2.2", w.now.Add(-15*time.Minute), db)
	find("192.0.2.2", w.now.Add(-15*time.Minute-cordon.Tick))
	find("192.0.2.1", w.now)
	find("192.0.2.1", w.now.Add(-cordon.SightingAge))

	for _, tt := range []struct {
		ip   string
		at   time.Time
		code cordon.Code
	}{
		{"192.0.2.1", w.now.Add(-cordon.SightingAge - cordon.Tick), cordon.CodeInvalidInput},
		{"192.0.2.1", time.Time{}, cordon.CodeInvalidInput},
		{"db.example.com", w.now, cordon.CodeInvalidAddress},
		{"", w.now, cordon.CodeInvalidAddress},
	} {
		if _, err := w.MachinesSeen(t.Context(), soar, tt.ip, tt.at); cordon.KindOf(err) != cordon.Invalid || cordon.CodeOf(err) != tt.code {
			t.Errorf("%q at %s: %v", tt.ip, tt.at, err)
		}
	}
	if _, err := w.MachinesSeen(t.Context(), cordon.Caller{Permissions: []cordon.Permission{cordon.MachineRestrict}}, "192.0.2.2", w.now); cordon.KindOf(err) != cordon.Forbidden {
		t.Errorf("not permitted: %v", err)
	}
}
