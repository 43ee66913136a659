package storetest

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/odata"
)

// RunPages holds a store to the promise of [cordon.Position]: pages that follow
// each other show every row that was there all along, and kept its place, exactly
// once, while rows come, change and go.
func RunPages(t *testing.T, open Open) {
	s := open(t)
	turn := 0 // each draw has machines of its own
	t.Run("Actions", func(t *testing.T) {
		rapid.Check(t, func(r *rapid.T) {
			turn++
			var ids []cordon.Value
			for i := range rapid.IntRange(1, 3).Draw(r, "machines") {
				m := Machine(fmt.Sprint("pages", turn, i), "host")
				if _, err := s.EnrolMachine(t.Context(), m); err != nil {
					r.Fatal(err)
				}
				ids = append(ids, string(m.ID))
			}
			w := walk[cordon.Action]{
				T: r, row: ActionRow, filter: cordon.In{Field: cordon.FieldMachineID, Values: ids}, fields: sortable(odata.MachineActions),
				list: func(q cordon.Query) ([]cordon.Action, cordon.Listing, error) { return s.Actions(t.Context(), q) },
			}
			if status := rapid.SampledFrom([]cordon.Status{"", "", "", cordon.Pending, cordon.Succeeded}).Draw(r, "only"); status != "" {
				w.filter = cordon.And{X: w.filter, Y: cordon.Compare{Field: cordon.FieldStatus, Value: string(status)}}
			}
			if rapid.Bool().Draw(r, "of a time") {
				w.filter = cordon.And{X: w.filter, Y: cordon.And{
					X: cordon.Compare{Field: cordon.FieldCreated, Op: cordon.Ge, Value: moment(rapid.IntRange(-1, 4).Draw(r, "from"))},
					Y: cordon.Compare{Field: cordon.FieldCreated, Op: cordon.Lt, Value: moment(rapid.IntRange(4, 9).Draw(r, "to"))},
				}}
			}
			create := func() {
				id := rapid.SampledFrom(ids).Draw(r, "machine").(string)
				d := Draft(cordon.MachineID(id), cordon.ActionType(rapid.SampledFrom([]string{"Isolate", "isolate", "Offboard"}).Draw(r, "type")))
				d.Requestor = rapid.SampledFrom(words).Draw(r, "requestor")
				d.Created = moment(rapid.IntRange(0, moments-1).Draw(r, "created"))
				if _, err := s.CreateAction(t.Context(), d); err != nil && cordon.CodeOf(err) != cordon.CodeActionInProgress {
					r.Fatal(err)
				}
			}
			change := func() {
				all := w.all(cordon.In{Field: cordon.FieldMachineID, Values: ids})
				if len(all) == 0 {
					return
				}
				id := rapid.SampledFrom(all).Draw(r, "action").ID
				status := rapid.SampledFrom([]cordon.Status{cordon.InProgress, cordon.Succeeded, cordon.Succeeded, cordon.Failed}).Draw(r, "status")
				updated := moment(rapid.IntRange(0, moments-1).Draw(r, "updated"))
				if _, err := s.ChangeAction(t.Context(), id, func(a cordon.Action) (cordon.Action, []cordon.AuditEntry, error) {
					if a.Status.Terminal() { // it stays, so that no two open ones meet
						status = a.Status
					}
					a.Status, a.Updated = status, updated
					return a, nil, nil
				}); err != nil {
					r.Fatal(err)
				}
			}
			for range rapid.IntRange(0, 25).Draw(r, "rows") {
				create()
				change()
			}
			w.through(create, change, change)
		})
	})
	t.Run("Machines", func(t *testing.T) {
		rapid.Check(t, func(r *rapid.T) {
			turn++
			var fleet []cordon.Machine
			var ids []cordon.Value
			for i := range 16 {
				fleet = append(fleet, Machine(fmt.Sprint("pages", turn, i), ""))
				ids = append(ids, string(fleet[i].ID))
			}
			w := walk[cordon.Machine]{
				T: r, filter: cordon.In{Field: cordon.FieldID, Values: ids}, fields: sortable(odata.Machines),
				row:  func(m cordon.Machine) func(cordon.Field) cordon.Value { return MachineRow(m, Noon) },
				list: func(q cordon.Query) ([]cordon.Machine, cordon.Listing, error) { return s.Machines(t.Context(), q) },
			}
			enrol := func() { // or a change of what it says
				m := rapid.SampledFrom(fleet).Draw(r, "machine")
				names := append([]string{"", "", "a", "B", "b"}, words...)
				m.Facts.DNSName, m.Facts.OSVersion = rapid.SampledFrom(names).Draw(r, "name"), rapid.SampledFrom(names).Draw(r, "version")
				m.Facts.OSPlatform, m.Facts.LastIP = rapid.SampledFrom(names[:4]).Draw(r, "platform"), rapid.SampledFrom(names[:4]).Draw(r, "ip")
				m.LastSeen = moment(rapid.IntRange(0, moments-1).Draw(r, "seen"))
				if _, err := s.EnrolMachine(t.Context(), m); err != nil {
					r.Fatal(err)
				}
			}
			for range rapid.IntRange(0, 16).Draw(r, "rows") {
				enrol()
			}
			if rapid.Bool().Draw(r, "named only") {
				w.filter = cordon.And{X: w.filter, Y: cordon.Compare{Field: cordon.FieldDNSName, Op: cordon.Ne}}
			}
			w.through(enrol)
		})
	})
	t.Run("Foreign", func(t *testing.T) { testForeignPositions(t, s) })
}

func sortable(schema cordon.Schema) (fields []cordon.Field) {
	for _, f := range schema {
		if f.Filterable && f.Type != cordon.TypeStringList {
			fields = append(fields, f.Name)
		}
	}
	slices.Sort(fields)
	return fields
}

// walk is a way through the pages of an answer.
type walk[T any] struct {
	*rapid.T
	filter cordon.Expr
	fields []cordon.Field // to order by
	row    func(T) func(cordon.Field) cordon.Value
	list   func(cordon.Query) ([]T, cordon.Listing, error)
}

func (w *walk[T]) all(filter cordon.Expr) []T {
	all, _, err := w.list(cordon.Query{Filter: filter})
	if err != nil {
		w.Fatal(err)
	}
	return all
}

// through goes through the pages, with some changes between one and the next.
func (w *walk[T]) through(changes ...func()) {
	q := cordon.Query{Filter: w.filter, HasTop: true, Top: rapid.IntRange(1, 6).Draw(w.T, "top")}
	for range rapid.IntRange(0, 3).Draw(w.T, "keys") {
		q.OrderBy = append(q.OrderBy, cordon.Sort{Field: rapid.SampledFrom(w.fields).Draw(w.T, "key"), Desc: rapid.Bool().Draw(w.T, "desc")})
	}
	id := func(r T) string { return w.row(r)(cordon.FieldID).(string) }
	place := func(r T) string {
		var b strings.Builder
		for _, s := range q.OrderBy {
			v := w.row(r)(s.Field)
			if at, ok := v.(time.Time); ok {
				v = cordon.Ticks(at)
			}
			fmt.Fprintf(&b, "%q ", fmt.Sprintf("%T %[1]v", v))
		}
		return b.String()
	}
	stayed := make(map[string]string) // the places of rows that were there all along
	for _, r := range w.all(w.filter) {
		stayed[id(r)] = place(r)
	}
	shown := make(map[string]string) // the places in which rows were shown
	var before []T
	for pages := 0; ; pages++ {
		rows, l, err := w.list(q)
		if err != nil || len(rows) > q.Top || pages > 200 {
			w.Fatalf("%+v: page %d: %d rows, %v", q, pages, len(rows), err)
		}
		for _, r := range rows {
			if !cordon.Holds(w.filter, w.row(r)) {
				w.Fatalf("%+v: page %d has %+v, which the filter does not let through", q, pages, r)
			}
			if at, again := shown[id(r)]; again && at == place(r) {
				w.Fatalf("%+v: page %d repeats %s", q, pages, id(r))
			}
			if n := len(before); n > 0 && cordon.CompareRows(q.OrderBy, w.row(before[n-1]), w.row(r)) > 0 {
				w.Fatalf("%+v: page %d goes back to %+v", q, pages, r)
			}
			shown[id(r)], before = place(r), append(before, r)
		}
		if l.Next == nil {
			break
		}
		if len(rows) < q.Top {
			w.Fatalf("%+v: page %d has %d rows, and there are more", q, pages, len(rows))
		}
		for range rapid.IntRange(0, 4).Draw(w.T, "changes") {
			rapid.SampledFrom(changes).Draw(w.T, "change")()
			there := make(map[string]string)
			for _, r := range w.all(w.filter) {
				there[id(r)] = place(r)
			}
			for r, at := range stayed {
				if now, ok := there[r]; !ok || now != at {
					delete(stayed, r)
				}
			}
		}
		q.After = l.Next
	}
	for r := range stayed {
		if _, ok := shown[r]; !ok {
			w.Fatalf("%+v: %s was there all along, and on no page", q, r)
		}
	}
}

// testForeignPositions: what is no position of a query is refused, or begins
// somewhere in its answer.
func testForeignPositions(t *testing.T, s cordon.Store) {
	kinds := []cordon.Value{nil, "a", "\x00", int64(1), int64(-1 << 63), Noon, true, []string{"a"}, 1.5}
	rapid.Check(t, func(r *rapid.T) {
		q := cordon.Query{HasTop: true, Top: 3, Filter: cordon.Compare{Field: cordon.FieldID, Op: cordon.Lt, Value: "8"}}
		p := cordon.Position(rapid.SliceOfN(rapid.SampledFrom(kinds), 0, 4).Draw(r, "position"))
		q.After = append(cordon.Position{}, p...)
		if rapid.Bool().Draw(r, "machines") {
			q.OrderBy = []cordon.Sort{{Field: cordon.FieldDNSName}, {Field: cordon.FieldLastSeen, Desc: true}}[:rapid.IntRange(0, 2).Draw(r, "keys")]
			rows, _, err := s.Machines(t.Context(), q)
			checkForeign(r, q, len(rows), err, func(i int) string { return string(rows[i].ID) })
			return
		}
		q.OrderBy = []cordon.Sort{{Field: cordon.FieldRequestor}, {Field: cordon.FieldUpdated, Desc: true}}[:rapid.IntRange(0, 2).Draw(r, "keys")]
		rows, _, err := s.Actions(t.Context(), q)
		checkForeign(r, q, len(rows), err, func(i int) string { return string(rows[i].ID) })
	})
}

func checkForeign(t *rapid.T, q cordon.Query, rows int, err error, id func(int) string) {
	if err != nil && (cordon.KindOf(err) != cordon.Invalid || cordon.CodeOf(err) != cordon.CodeMalformedQuery) {
		t.Fatalf("%+v: %v", q, err)
	}
	if good := len(q.After) > len(q.OrderBy); err == nil && !good {
		t.Fatalf("%+v: a position of too few values was accepted", q)
	}
	for i := range rows {
		if id(i) >= "8" {
			t.Fatalf("%+v: the filter does not let %s through", q, id(i))
		}
	}
}
