package storetest

import (
	"fmt"
	"slices"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/cordon-project/cordon"
)

// testAuditEntries compares pages of the log with all of it.
func testAuditEntries(w *world) {
	a := w.create(w.machine.ID, cordon.RestrictCodeExecution)
	w.change(a.ID, func(a cordon.Action) (cordon.Action, []cordon.AuditEntry, error) {
		return a, []cordon.AuditEntry{{At: Noon, Kind: cordon.AuditDelivered, Machine: a.Machine, Action: a.ID}, {At: Noon, Kind: cordon.AuditReport, Action: a.ID}}, nil
	})
	enrolled := cordon.AuditEntry{At: Noon, Kind: cordon.AuditEnrolled, Machine: w.machine.ID, Actor: string(w.machine.ID)}
	// The clock is set back now and then; an entry may name an action without
	// belonging to a change of it.
	all := []cordon.AuditEntry{enrolled}
	kinds := []cordon.AuditKind{cordon.AuditTrust, cordon.AuditGroup, cordon.AuditReport, "of an edition to come"}
	for i, minute := range []int{0, 1, 1, 2, -5, 3, 3, 3, 2, 9, -60} {
		e := cordon.AuditEntry{At: Noon.Add(time.Duration(minute) * time.Minute), Kind: kinds[i%len(kinds)], Machine: "m", Actor: "äpp", Status: cordon.Failed, Detail: fmt.Sprint("entry ", i, "\x00"), Evidence: "eyJ"}
		if i%3 == 0 {
			e.Action = a.ID
		}
		if err := w.Store.Audit(w.Context(), e); err != nil {
			w.Fatal(err)
		}
		all = append(all, e)
	}
	query := func(q cordon.AuditQuery) []cordon.AuditEntry {
		w.Helper()
		found, err := w.AuditEntries(w.Context(), q)
		if err != nil {
			w.Fatalf("%+v: %v", q, err)
		}
		return found
	}
	got := query(cordon.AuditQuery{Limit: 100})
	seqs := slices.Clone(got)
	slices.SortFunc(seqs, func(a, b cordon.AuditEntry) int { return int(a.Seq - b.Seq) })
	w.diff("all, as they were written", all, seqs, cmpopts.IgnoreFields(cordon.AuditEntry{}, "Seq"))
	slices.SortFunc(seqs, func(a, b cordon.AuditEntry) int {
		if c := b.At.Compare(a.At); c != 0 {
			return c
		}
		return int(b.Seq - a.Seq)
	})
	w.diff("newest first", seqs, got)

	rapid.Check(w.T, func(t *rapid.T) {
		q := cordon.AuditQuery{Limit: rapid.IntRange(1, 6).Draw(t, "limit")}
		if rapid.Bool().Draw(t, "since") {
			q.Since = Noon.Add(time.Duration(rapid.IntRange(-61, 10).Draw(t, "minute"))*time.Minute + time.Duration(rapid.IntRange(-1, 1).Draw(t, "tick"))*cordon.Tick)
		}
		q.Kinds = rapid.SliceOfDistinct(rapid.SampledFrom(append(kinds, cordon.AuditEnrolled, "no such kind")), rapid.ID).Draw(t, "kinds")
		want := slices.DeleteFunc(slices.Clone(got), func(e cordon.AuditEntry) bool {
			return e.At.Before(q.Since) || len(q.Kinds) > 0 && !slices.Contains(q.Kinds, e.Kind)
		})
		var found []cordon.AuditEntry
		for {
			page, err := w.AuditEntries(w.Context(), q)
			found = append(found, page...)
			if err != nil || len(page) > q.Limit || len(found) > len(want) {
				t.Fatalf("%+v: %d entries on a page, %d in all, want %d, %v", q, len(page), len(found), len(want), err)
			}
			if len(page) < q.Limit {
				break
			}
			q.Before = page[len(page)-1].Seq
		}
		if d := cmp.Diff(want, found, cmpopts.EquateEmpty()); d != "" {
			t.Fatalf("%+v (-want +got):\n%s", q, d)
		}
	})
	ofAction := w.auditOf(a.ID)[0].Seq // its creation
	for _, before := range []int64{ofAction, -1, 1 << 40} {
		_, err := w.AuditEntries(w.Context(), cordon.AuditQuery{Limit: 1, Before: before})
		w.wantError(fmt.Sprint("before ", before), err, cordon.Invalid, cordon.CodeInvalidInput)
	}
}
