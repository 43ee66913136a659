package storetest

import (
	"time"

	"github.com/cordon-project/cordon"
)

func testFindings(w *world) {
	told := func(kind cordon.FindingKind, series string, sequence, total uint64) cordon.Findings {
		return cordon.Findings{Kind: kind, Series: series, Sequence: sequence, Since: Noon, At: Noon.Add(time.Minute), Total: total, Files: []cordon.Finding{
			{Path: `/tmp/ünï"\x1b`, SHA256: "ab", Owner: "dpkg:x", Reason: "it is not in the trust set", Count: total, First: Noon, Last: Noon.Add(1)}}}
	}
	other := w.enrol("other.example.org")
	put := func(m cordon.MachineID, s cordon.Findings) {
		w.Helper()
		if err := w.PutFindings(w.Context(), m, s); err != nil {
			w.Fatal(err)
		}
	}
	want := func(what string, m cordon.MachineID, want cordon.Findings) {
		w.Helper()
		got, err := w.Store.Findings(w.Context(), m, want.Kind)
		if err != nil {
			w.Fatal(err)
		}
		w.diff(what, want, got)
	}
	id := w.machine.ID
	_, err := w.Store.Findings(w.Context(), id, cordon.Blocked)
	w.wantError("Findings", err, cordon.NotFound, "")
	err = w.PutFindings(w.Context(), Machine("stranger", "").ID, told(cordon.Blocked, "a", 1, 1))
	w.wantError("PutFindings", err, cordon.NotFound, "")

	put(id, told(cordon.Blocked, "a", 1, 5))
	put(id, told(cordon.Audited, "a", 1, 6))
	want("first", id, told(cordon.Blocked, "a", 1, 5))
	want("another kind", id, told(cordon.Audited, "a", 1, 6))
	_, err = w.Store.Findings(w.Context(), other.ID, cordon.Blocked)
	w.wantError("another machine", err, cordon.NotFound, "")
	put(id, told(cordon.Blocked, "a", 3, 7))
	put(id, told(cordon.Blocked, "a", 2, 6))
	put(id, told(cordon.Blocked, "a", 3, 8))
	want("older and same ones change nothing", id, told(cordon.Blocked, "a", 3, 7))
	put(id, told(cordon.Blocked, "b", 1, 1))
	want("a new series replaces", id, told(cordon.Blocked, "b", 1, 1))
	empty := cordon.Findings{Kind: cordon.Running, Series: "b", Sequence: 1, Since: Noon, At: Noon, Files: []cordon.Finding{}}
	put(id, empty)
	want("none", id, empty)

	// Of many at once the newest stays.
	together(func(i int) { put(id, told(cordon.Blocked, "c", uint64(i+1), uint64(i))) })
	want("many at once", id, told(cordon.Blocked, "c", callers, callers-1))
}
