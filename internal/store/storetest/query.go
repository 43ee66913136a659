package storetest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/odata"
)

// ActionRow is an action as queries see it.
func ActionRow(a cordon.Action) func(cordon.Field) cordon.Value {
	row := map[cordon.Field]cordon.Value{
		cordon.FieldID: cordon.Fold(string(a.ID)), cordon.FieldType: string(a.Type), cordon.FieldStatus: string(a.Status),
		cordon.FieldMachineID: cordon.Fold(string(a.Machine)), cordon.FieldRequestor: a.Requestor,
		cordon.FieldCreated: a.Created, cordon.FieldUpdated: a.Updated,
	}
	return func(f cordon.Field) cordon.Value { return row[f] }
}

// MachineRow is a machine as queries see it at a time. What a machine does not
// say is null. What Cordon does not know has the value that Defender shows
// where it has nothing to say.
func MachineRow(m cordon.Machine, now time.Time) func(cordon.Field) cordon.Value {
	orNull := func(s string) cordon.Value {
		if s == "" {
			return nil
		}
		return s
	}
	tags := []string{}
	for _, tag := range m.Tags {
		tags = append(tags, cordon.Fold(tag))
	}
	health := "Active"
	if now.Sub(m.LastSeen) > 7*24*time.Hour {
		health = "Inactive"
	}
	row := map[cordon.Field]cordon.Value{
		cordon.FieldID: cordon.Fold(string(m.ID)), cordon.FieldDNSName: orNull(cordon.Fold(m.Facts.DNSName)),
		cordon.FieldVersion: orNull(m.Facts.OSVersion), cordon.FieldDeviceID: orNull(cordon.Fold(m.DeviceID)), cordon.FieldLastSeen: m.LastSeen,
		cordon.FieldLastIP: orNull(m.Facts.LastIP), cordon.FieldOSPlatform: orNull(m.Facts.OSPlatform), cordon.FieldHealthStatus: health,
		cordon.FieldDeviceValue: string(m.Value), cordon.FieldExposureLevel: "None", cordon.FieldRiskScore: "None",
		cordon.FieldOnboardingStatus: "Onboarded", cordon.FieldGroupID: m.Group.ID, cordon.FieldTags: tags,
	}
	return func(f cordon.Field) cordon.Value { return row[f] }
}

// RunQueries holds a store to the meaning of queries: with random conditions,
// orderings and pages over rows that are as awkward as rows can be.
func RunQueries(t *testing.T, open Open) {
	s := open(t)
	machines := populate(t, s)
	slices.SortFunc(machines, func(a, b cordon.Machine) int { return strings.Compare(string(a.ID), string(b.ID)) })
	actions := act(t, s, machines)

	t.Run("Actions", func(t *testing.T) {
		list := func(q cordon.Query) ([]cordon.Action, cordon.Listing, error) { return s.Actions(t.Context(), q) }
		runQueries(t, odata.MachineActions, actions, true, ActionRow, list)
	})
	t.Run("Machines", func(t *testing.T) {
		row := func(m cordon.Machine) func(cordon.Field) cordon.Value { return MachineRow(m, Noon) }
		list := func(q cordon.Query) ([]cordon.Machine, cordon.Listing, error) { return s.Machines(t.Context(), q) }
		runQueries(t, odata.Machines, machines, false, row, list)
	})
}

// words are what texts of the rows and of the queries are made of.
var words = []string{"a", "A", "b", "B", "ab", "aB", "%", "_", "*", "?", "[a]", `\`, "'", `"`, " ", ".", "-", "ä", "Ä", "ß", "İ", "漢", "😀", "\u00ff", "\uffff", "\x00", "\x01", "0", "10", "9"}

// populate enrols machines and returns them as they are then.
func populate(t *testing.T, s cordon.Store) []cordon.Machine {
	r := rand.New(rand.NewPCG(1, 2))
	text := func() string {
		switch n := r.IntN(8); {
		case n == 0:
			return ""
		case n < 4:
			return words[r.IntN(len(words))]
		default:
			return words[r.IntN(len(words))] + words[r.IntN(len(words))] + words[r.IntN(6)]
		}
	}
	groups := make([]cordon.Group, 4) // the first is none
	for i := range groups[1:] {
		g, err := s.CreateGroup(t.Context(), fmt.Sprint("group ", i), cordon.AuditEntry{At: Noon})
		if err != nil {
			t.Fatal(err)
		}
		groups[i+1] = g.Group
	}
	var all []cordon.Machine
	for i := range 60 {
		m := Machine(fmt.Sprint("population", i), text())
		m.Facts.OSPlatform, m.Facts.OSVersion, m.Facts.LastIP = text(), text(), text()
		if r.IntN(4) == 0 {
			m.DeviceID = ""
		}
		m.LastSeen = moment(r.IntN(moments))
		if _, err := s.EnrolMachine(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		if r.IntN(3) == 0 {
			m.Observed.Generation, m.Generation = 7, 7
			if err := s.MachineSaid(t.Context(), m.ID, nil, m.Observed, m.LastSeen); err != nil {
				t.Fatal(err)
			}
		}
		m.Value = []cordon.DeviceValue{cordon.LowValue, cordon.NormalValue, cordon.HighValue}[r.IntN(3)]
		for range r.IntN(4) {
			m.Tags = append(m.Tags, strings.TrimSpace(text())+"-")
		}
		m.Tags, _ = cordon.NormalizeTags(m.Tags) // where one of them cannot be a tag the machine has none
		labels := m.Labels
		if _, err := s.ChangeLabels(t.Context(), []cordon.MachineID{m.ID}, func(cordon.Machine) (cordon.Labels, []cordon.AuditEntry, error) {
			return labels, nil, nil
		}); err != nil {
			t.Fatal(err)
		}
		m.Group = groups[r.IntN(len(groups))]
		if _, err := s.ChangeGroups(t.Context(), []cordon.MachineID{m.ID}, into(m.Group.ID)); err != nil {
			t.Fatal(err)
		}
		all = append(all, m)
	}
	return all
}

const moments = 9

// moment returns one of some moments around the one at which a machine becomes inactive.
func moment(i int) time.Time {
	return Noon.Add(-7*24*time.Hour + time.Duration(i-moments/2)*cordon.Tick)
}

// act creates actions on the machines, oldest first, and returns both as they are then.
func act(t *testing.T, s cordon.Store, machines []cordon.Machine) []cordon.Action {
	r := rand.New(rand.NewPCG(3, 4))
	var all []cordon.Action
	for i := range 150 {
		m := &machines[r.IntN(20)]
		d := Draft(m.ID, []cordon.ActionType{cordon.RestrictCodeExecution, cordon.UnrestrictCodeExecution, "Isolate", "isolate"}[r.IntN(4)])
		d.Requestor = words[r.IntN(len(words))] + words[r.IntN(4)]
		d.Created = moment(i * moments / 150) // the same for many
		a, err := s.CreateAction(t.Context(), d)
		if cordon.CodeOf(err) == cordon.CodeActionInProgress {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		m.Generation = a.Generation
		status := []cordon.Status{cordon.Pending, cordon.InProgress, cordon.Succeeded, cordon.Failed, cordon.TimeOut, cordon.Cancelled}[r.IntN(6)]
		updated := moment(r.IntN(moments))
		if a, err = s.ChangeAction(t.Context(), a.ID, func(a cordon.Action) (cordon.Action, []cordon.AuditEntry, error) {
			a.Status, a.Updated = status, updated
			return a, nil, nil
		}); err != nil {
			t.Fatal(err)
		}
		all = append(all, a)
	}
	return all
}

// runQueries compares answers with what rows, in the order of their creation, have
// to give. The collection's own order is the same, or its reverse.
func runQueries[T any](t *testing.T, schema cordon.Schema, rows []T, reversed bool, row func(T) func(cordon.Field) cordon.Value, list func(cordon.Query) ([]T, cordon.Listing, error)) {
	d := drawer{values: make(map[cordon.Field][]cordon.Value)}
	for _, f := range schema {
		if f.Filterable {
			d.fields = append(d.fields, f)
			for _, r := range rows {
				d.values[f.Name] = append(d.values[f.Name], row(r)(f.Name))
			}
		}
	}
	slices.SortFunc(d.fields, func(a, b cordon.FieldInfo) int { return strings.Compare(string(a.Name), string(b.Name)) })
	backwards := slices.Clone(rows)
	slices.Reverse(backwards)
	own := rows
	if reversed {
		own = backwards
	}
	check := func(t rapid.TB, q cordon.Query) {
		t.Helper()
		all := own
		if n := len(q.OrderBy); n > 0 {
			all = rows
			if q.OrderBy[n-1].Desc {
				all = backwards
			}
		}
		matching := slices.DeleteFunc(slices.Clone(all), func(r T) bool { return !cordon.Holds(q.Filter, row(r)) })
		count := 0
		if q.Count {
			count = len(matching)
		}
		slices.SortStableFunc(matching, func(a, b T) int { return cordon.CompareRows(q.OrderBy, row(a), row(b)) })
		matching = matching[min(q.Skip, len(matching)):]
		more := q.HasTop && q.Top > 0 && q.Top < len(matching)
		if q.HasTop {
			matching = matching[:min(q.Top, len(matching))]
		}
		got, l, err := list(q)
		if err != nil {
			t.Fatalf("%+v: %v", q, err)
		}
		id := func(r T) cordon.Value { return row(r)(cordon.FieldID) }
		if !slices.EqualFunc(matching, got, func(a, b T) bool { return id(a) == id(b) }) {
			t.Fatalf("%+v (-want +got):\n%s", q, cmp.Diff(matching, got))
		}
		if l.Count != count || (l.Next != nil) != more {
			t.Fatalf("%+v: %+v, want a count of %d and more: %t", q, l, count, more)
		}
	}

	t.Run("All", func(t *testing.T) {
		got, _, err := list(cordon.Query{})
		if diff := cmp.Diff(own, got); diff != "" || err != nil {
			t.Fatalf("error %v (-want +got):\n%s", err, diff)
		}
	})
	t.Run("Random", func(t *testing.T) {
		rapid.Check(t, func(t *rapid.T) { check(t, d.query(t)) })
	})
	t.Run("EveryField", func(t *testing.T) {
		for _, f := range d.fields {
			for _, v := range append([]cordon.Value{nil, "", "a", int64(0), int64(1), true, Noon}, d.values[f.Name][:10]...) {
				for op := cordon.Eq; op <= cordon.Ge; op++ {
					check(t, cordon.Query{Filter: cordon.Compare{Field: f.Name, Op: op, Value: v}})
				}
				check(t, cordon.Query{Filter: cordon.In{Field: f.Name, Values: []cordon.Value{v, nil}}})
				if s, ok := v.(string); ok {
					for kind := cordon.StartsWith; kind <= cordon.Contains; kind++ {
						check(t, cordon.Query{Filter: cordon.Match{Field: f.Name, Kind: kind, Text: s}})
					}
				}
			}
			if f.Type == cordon.TypeStringList {
				check(t, cordon.Query{Filter: cordon.Any{Field: f.Name}})
				continue
			}
			for _, desc := range []bool{false, true} {
				check(t, cordon.Query{OrderBy: []cordon.Sort{{Field: f.Name, Desc: desc}}})
			}
		}
	})
	t.Run("Large", func(t *testing.T) {
		// As many terms as the parser lets through, in a chain and in a list.
		f := d.fields[0].Name
		var and, or cordon.Expr = cordon.Compare{Field: f, Op: cordon.Ne}, cordon.Compare{Field: f, Op: cordon.Eq, Value: "x"}
		var in []cordon.Value
		for i := range odata.MaxTerms {
			v := d.values[f][i%len(d.values[f])]
			and = cordon.And{X: and, Y: cordon.Compare{Field: f, Op: cordon.Ne, Value: "x"}}
			or = cordon.Or{X: or, Y: cordon.Compare{Field: f, Op: cordon.Eq, Value: v}}
			in = append(in, v)
		}
		var not cordon.Expr = cordon.Compare{Field: f, Op: cordon.Eq, Value: d.values[f][0]}
		for range odata.MaxDepth {
			not = cordon.Not{X: not}
		}
		for _, e := range []cordon.Expr{and, or, cordon.In{Field: f, Values: in}, not} {
			check(t, cordon.Query{Filter: e, Count: true})
		}
	})
	t.Run("UnknownField", func(t *testing.T) {
		for _, q := range []cordon.Query{
			{Filter: cordon.Compare{Field: "nonsense", Value: "x"}},
			{Filter: cordon.Not{X: cordon.In{Field: "ID"}}}, // fields have one spelling
			{Filter: cordon.Or{Y: cordon.Match{Field: "1) OR (1", Text: "x"}}},
			{Filter: cordon.Any{Field: "nonsense"}},
			{OrderBy: []cordon.Sort{{Field: "id; DROP TABLE actions"}}},
		} {
			if _, _, err := list(q); cordon.KindOf(err) != cordon.Invalid || cordon.CodeOf(err) != cordon.CodeInvalidQuery {
				t.Errorf("%+v: error %v", q, err)
			}
		}
	})
}

// drawer draws queries over some fields.
type drawer struct {
	fields []cordon.FieldInfo
	values map[cordon.Field][]cordon.Value // of the rows
}

func (d drawer) query(t *rapid.T) cordon.Query {
	q := cordon.Query{Count: rapid.Bool().Draw(t, "count"), Skip: rapid.SampledFrom([]int{0, 0, 0, 1, 5, 1000}).Draw(t, "skip")}
	if rapid.IntRange(0, 9).Draw(t, "filtered") > 0 {
		q.Filter = d.condition(t, 3)
	}
	for range rapid.IntRange(0, 2).Draw(t, "keys") {
		if f := d.field(t); f.Type != cordon.TypeStringList {
			q.OrderBy = append(q.OrderBy, cordon.Sort{Field: f.Name, Desc: rapid.Bool().Draw(t, "desc")})
		}
	}
	if q.HasTop = rapid.Bool().Draw(t, "limited"); q.HasTop {
		q.Top = rapid.SampledFrom([]int{0, 1, 3, 10, cordon.MaxTop}).Draw(t, "top")
	}
	return q
}

// elements draws conditions on the elements of a list.
func (d drawer) elements(f cordon.FieldInfo) drawer {
	e := cordon.FieldInfo{Name: cordon.ElementField, Type: cordon.TypeString, Fold: f.Fold}
	values := []cordon.Value{""}
	for _, list := range d.values[f.Name] {
		for _, s := range list.([]string) {
			values = append(values, s)
		}
	}
	return drawer{fields: []cordon.FieldInfo{e}, values: map[cordon.Field][]cordon.Value{e.Name: values}}
}

func (d drawer) field(t *rapid.T) cordon.FieldInfo {
	return rapid.SampledFrom(d.fields).Draw(t, "field")
}

// value draws a value to compare f with: often one that a row has, or nearly.
func (d drawer) value(t *rapid.T, f cordon.FieldInfo) cordon.Value {
	kind := rapid.IntRange(0, 9).Draw(t, "kind")
	switch {
	case kind == 0:
		return nil
	case kind == 1:
		return rapid.SampledFrom([]cordon.Value{"", "a", "0", int64(0), true, false, Noon, int64(-1)}).Draw(t, "any value")
	case f.Type == cordon.TypeTime:
		return moment(rapid.IntRange(-1, moments).Draw(t, "moment")).Add(time.Duration(rapid.IntRange(0, 99).Draw(t, "ns")))
	case f.Type == cordon.TypeInt:
		return rapid.Int64Range(-1, 1).Draw(t, "int")
	case kind < 7:
		return rapid.SampledFrom(d.values[f.Name]).Draw(t, "value of a row")
	default:
		return d.text(t, f)
	}
}

// text draws a string: pieces of what rows have, or pieces of what they are made of.
func (d drawer) text(t *rapid.T, f cordon.FieldInfo) string {
	s, _ := rapid.SampledFrom(d.values[f.Name]).Draw(t, "text of a row").(string)
	runes := []rune(s)
	switch rapid.IntRange(0, 4).Draw(t, "piece") {
	case 0:
		s = string(runes[:rapid.IntRange(0, len(runes)).Draw(t, "end")])
	case 1:
		s = string(runes[rapid.IntRange(0, len(runes)).Draw(t, "begin"):])
	case 2:
		begin := rapid.IntRange(0, len(runes)).Draw(t, "begin")
		s = string(runes[begin:rapid.IntRange(begin, len(runes)).Draw(t, "end")])
	case 3:
		s += rapid.SampledFrom(words).Draw(t, "more")
	case 4:
		s = strings.Join(rapid.SliceOfN(rapid.SampledFrom(words), 0, 2).Draw(t, "words"), "")
	}
	if f.Fold {
		s = cordon.Fold(s)
	}
	return s
}

func (d drawer) condition(t *rapid.T, depth int) cordon.Expr {
	kind := rapid.IntRange(0, 9).Draw(t, "condition")
	if depth == 0 {
		kind %= 5
	}
	f := d.field(t)
	switch {
	case f.Type == cordon.TypeStringList:
		if kind == 0 {
			return cordon.Any{Field: f.Name}
		}
		return cordon.Any{Field: f.Name, X: d.elements(f).condition(t, min(depth, 1))}
	case kind < 3:
		return cordon.Compare{Field: f.Name, Op: cordon.Op(rapid.IntRange(0, 5).Draw(t, "op")), Value: d.value(t, f)}
	case kind == 3:
		in := cordon.In{Field: f.Name}
		for range rapid.IntRange(0, 3).Draw(t, "values") {
			in.Values = append(in.Values, d.value(t, f))
		}
		return in
	case kind == 4:
		return cordon.Match{Field: f.Name, Kind: cordon.MatchKind(rapid.IntRange(0, 2).Draw(t, "match")), Text: d.text(t, f)}
	case kind < 7:
		return cordon.And{X: d.condition(t, depth-1), Y: d.condition(t, depth-1)}
	case kind < 9:
		return cordon.Or{X: d.condition(t, depth-1), Y: d.condition(t, depth-1)}
	default:
		return cordon.Not{X: d.condition(t, depth-1)}
	}
}
