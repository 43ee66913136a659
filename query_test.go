package cordon

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var (
	noon    = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	oneTick = noon.Add(Tick)
)

// rowOf makes a row from field, value, field, value …
func rowOf(pairs ...any) func(Field) Value {
	return func(f Field) Value {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == f {
				return pairs[i+1]
			}
		}
		return nil
	}
}

func TestCompareHolds(t *testing.T) {
	// One letter for each of = ! < { > }, which stand for Eq Ne Lt Le Gt Ge: those that hold.
	symbols := map[Op]rune{Eq: '=', Ne: '!', Lt: '<', Le: '{', Gt: '>', Ge: '}'}
	const less, equal, greater, unlike = "!<{", "={}", "!>}", "!"
	tests := []struct {
		row, with Value
		want      string
	}{
		{nil, nil, "="},
		{nil, "a", unlike},
		{"a", nil, unlike},
		{nil, int64(0), unlike},
		{int64(0), nil, unlike},
		{nil, noon, unlike},
		{nil, false, unlike},
		{false, nil, unlike},
		{"", nil, unlike},
		{"", "", equal},
		{"", "a", less},
		{"a", "a", equal},
		{"a", "b", less},
		{"b", "a", greater},
		{"a", "A", greater}, // case counts
		{"ab", "b", less},
		{"z", "é", less}, // code points
		{"\uffff", "\U00010000", less},
		{int64(-2145844840), int64(-2145844840), equal},
		{int64(2), int64(10), less},
		{int64(math.MaxInt64), int64(math.MinInt64), greater},
		{noon, noon, equal},
		{noon, noon.In(time.FixedZone("", 7200)), equal},
		{noon, noon.Add(Tick - 1), equal}, // below the precision
		{noon, oneTick, less},
		{oneTick, noon, greater},
		{true, true, "="},
		{true, false, unlike},
		{false, true, unlike},
		{"1", int64(1), unlike},
		{int64(1), "1", unlike},
		{"true", true, unlike},
		{true, "true", unlike},
		{noon, "2026-11-21T12:00:00Z", unlike},
		{[]string{"a"}, "a", unlike},
	}
	for _, tt := range tests {
		got := ""
		for op := Eq; op <= Ge; op++ {
			if Holds(Compare{"f", op, tt.with}, rowOf(Field("f"), tt.row)) {
				got += string(symbols[op])
			}
		}
		if got != tt.want {
			t.Errorf("%#v against %#v: %q hold, want %q", tt.row, tt.with, got, tt.want)
		}
	}
}

func TestHolds(t *testing.T) {
	row := rowOf(Field("s"), "Alpha", Field("n"), int64(7), Field("none"), nil,
		Field("tags"), []string{"red", "blue"}, Field("untagged"), []string{})
	yes, no := Compare{"n", Eq, int64(7)}, Compare{"n", Eq, int64(8)}
	element := func(s string) Expr { return Compare{ElementField, Eq, s} }
	tests := []struct {
		expr Expr
		want bool
	}{
		{nil, true},
		{And{yes, yes}, true}, {And{yes, no}, false}, {And{no, yes}, false}, {And{no, no}, false},
		{Or{yes, yes}, true}, {Or{yes, no}, true}, {Or{no, yes}, true}, {Or{no, no}, false},
		{Not{yes}, false}, {Not{no}, true},

		// Two-valued also where a field is null.
		{Not{Compare{"none", Eq, "x"}}, true},
		{Not{Compare{"none", Lt, "x"}}, true},
		{Or{Compare{"none", Lt, "x"}, Compare{"none", Ge, "x"}}, false},
		{Not{Match{"none", Contains, "x"}}, true},

		{In{"s", nil}, false},
		{In{"none", nil}, false},
		{In{"s", []Value{"Beta", "Alpha"}}, true},
		{In{"s", []Value{"alpha"}}, false},
		{In{"s", []Value{nil}}, false},
		{In{"none", []Value{"Alpha", nil}}, true},
		{In{"none", []Value{"Alpha"}}, false},
		{In{"n", []Value{"7", int64(7)}}, true},

		{Match{"s", StartsWith, "Al"}, true},
		{Match{"s", StartsWith, "al"}, false},
		{Match{"s", StartsWith, "ha"}, false},
		{Match{"s", EndsWith, "ha"}, true},
		{Match{"s", EndsWith, "Al"}, false},
		{Match{"s", Contains, "lph"}, true},
		{Match{"s", Contains, "%"}, false}, // no wildcards
		{Match{"s", Contains, "_"}, false},
		{Match{"s", Contains, ""}, true},
		{Match{"none", Contains, ""}, false},
		{Match{"n", Contains, "7"}, false},

		{Any{"tags", nil}, true},
		{Any{"untagged", nil}, false},
		{Any{"none", nil}, false},
		{Any{"tags", element("blue")}, true},
		{Any{"tags", element("green")}, false},
		{Any{"untagged", Not{element("green")}}, false},
		{Any{"tags", Not{element("blue")}}, true},
		{Any{"tags", And{element("red"), element("blue")}}, false}, // of one element
		{And{Any{"tags", element("red")}, Any{"tags", element("blue")}}, true},
		{Any{"tags", Match{ElementField, StartsWith, "bl"}}, true},
		{Any{"tags", In{ElementField, []Value{"x", "red"}}}, true},
		{Any{"none", Compare{ElementField, Ne, "x"}}, false},
	}
	for _, tt := range tests {
		if got := Holds(tt.expr, row); got != tt.want {
			t.Errorf("Holds(%+v) = %t, want %t", tt.expr, got, tt.want)
		}
	}
}

func anyValue() *rapid.Generator[Value] {
	return rapid.Custom(func(t *rapid.T) Value {
		switch rapid.IntRange(0, 4).Draw(t, "type") {
		case 0:
			return nil
		case 1:
			return rapid.SampledFrom([]string{"", "a", "A", "ab", "b", "é"}).Draw(t, "string")
		case 2:
			return rapid.Int64Range(-2, 2).Draw(t, "int")
		case 3:
			return noon.Add(time.Duration(rapid.IntRange(-3, 3).Draw(t, "steps")) * Tick / 2)
		default:
			return rapid.Bool().Draw(t, "bool")
		}
	})
}

// TestConditionLaws holds what rewriting a condition, in a store for one, may
// rely on.
func TestConditionLaws(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v, w := anyValue().Draw(t, "v"), anyValue().Draw(t, "w")
		x := Compare{"f", Op(rapid.IntRange(0, 5).Draw(t, "op")), w}
		y := Match{"f", MatchKind(rapid.IntRange(0, 2).Draw(t, "kind")), "a"}
		row := rowOf(Field("f"), v)
		same := func(law string, a, b Expr) {
			t.Helper()
			if Holds(a, row) != Holds(b, row) {
				t.Fatalf("%s: %+v and %+v differ", law, a, b)
			}
		}
		same("ne is not eq", Compare{"f", Ne, w}, Not{Compare{"f", Eq, w}})
		same("double negation", x, Not{Not{x}})
		same("De Morgan", Not{And{x, y}}, Or{Not{x}, Not{y}})
		same("De Morgan", Not{Or{x, y}}, And{Not{x}, Not{y}})
		same("in is eq or eq", In{"f", []Value{w, "b"}}, Or{Compare{"f", Eq, w}, Compare{"f", Eq, "b"}})
		if Holds(Or{x, Not{x}}, row) != true {
			t.Fatalf("%+v is neither true nor false", x)
		}
		if _, isBool := v.(bool); !isBool && v != nil && w != nil {
			same("le is lt or eq", Compare{"f", Le, w}, Or{Compare{"f", Lt, w}, Compare{"f", Eq, w}})
			same("ge is gt or eq", Compare{"f", Ge, w}, Or{Compare{"f", Gt, w}, Compare{"f", Eq, w}})
		}
	})
}

func TestCompareRows(t *testing.T) {
	ordered := []Value{nil, "", "A", "B", "a"}
	for i, v := range ordered {
		for j, w := range ordered {
			a, b := rowOf(Field("f"), v), rowOf(Field("f"), w)
			if got := CompareRows([]Sort{{Field: "f"}}, a, b); sign(got) != sign(i-j) {
				t.Errorf("CompareRows(%#v, %#v) = %d", v, w, got)
			}
			if got := CompareRows([]Sort{{Field: "f", Desc: true}}, a, b); sign(got) != sign(j-i) {
				t.Errorf("descending: CompareRows(%#v, %#v) = %d", v, w, got)
			}
		}
	}

	type pair struct {
		a int64
		b Value
	}
	pairs := []pair{{2, false}, {1, true}, {1, nil}, {1, false}, {2, nil}}
	row := func(p pair) func(Field) Value { return rowOf(Field("a"), p.a, Field("b"), p.b) }
	slices.SortStableFunc(pairs, func(x, y pair) int {
		return CompareRows([]Sort{{Field: "a", Desc: true}, {Field: "b"}}, row(x), row(y))
	})
	if got, want := fmt.Sprint(pairs), "[{2 <nil>} {2 false} {1 <nil>} {1 false} {1 true}]"; got != want {
		t.Errorf("by a desc, b: %s, want %s", got, want)
	}
	if got := CompareRows(nil, row(pairs[0]), row(pairs[1])); got != 0 {
		t.Errorf("without keys: %d, want 0", got)
	}
}

func sign(n int) int { return max(-1, min(1, n)) }

func TestTicks(t *testing.T) {
	tests := []struct {
		time string
		want int64
	}{
		{"1970-01-01T00:00:00Z", 0},
		{"1970-01-01T00:00:00.0000001Z", 1},
		{"1970-01-01T00:00:00.000000199Z", 1},
		{"1969-12-31T23:59:59.999999999Z", -1},
		{"1969-12-31T23:59:59.9999998Z", -2},
		{"2024-10-21T11:27:58.1447302Z", 17295100781447302},
		{"0001-01-01T00:00:00Z", -621355968000000000},
		{"9999-12-31T23:59:59.9999999Z", 2534023007999999999},
	}
	for _, tt := range tests {
		tm, err := time.Parse(time.RFC3339Nano, tt.time)
		if err != nil {
			t.Fatal(err)
		}
		if got := Ticks(tm); got != tt.want {
			t.Errorf("Ticks(%s) = %d, want %d", tt.time, got, tt.want)
		}
		if back := TimeOfTicks(tt.want); back != tm.Add(-time.Duration(tm.Nanosecond()%int(Tick))) {
			t.Errorf("%d ticks are %s, which %s is", tt.want, back, tt.time)
		}
	}
}

func TestFold(t *testing.T) {
	if got, want := Fold("HoZt-01.ÄÖ.Example\xff@[`{\u212a"), "hozt-01.ÄÖ.example\xff@[`{\u212a"; got != want { // the Kelvin sign is no K
		t.Errorf("Fold = %q, want %q", got, want)
	}
}

func TestSchemaLookup(t *testing.T) {
	s := NewSchema(FieldInfo{Name: "lastSeen", Type: TypeTime, Filterable: true})
	if f, ok := s.Lookup("LASTSEEN"); !ok || f.Name != "lastSeen" || f.Type != TypeTime {
		t.Errorf("Lookup(LASTSEEN) = %+v, %t", f, ok)
	}
	if _, ok := s.Lookup("laſtSeen"); ok { // a long s folds to s in Unicode only
		t.Error("Lookup found a name with a foreign letter")
	}
}
