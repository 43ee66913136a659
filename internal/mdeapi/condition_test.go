package mdeapi

import (
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/cordon-project/cordon"
)

// TestForStore: of every machine, the rewritten condition says of what is kept
// what the original says of what is shown, and it names nothing that is not kept.
func TestForStore(t *testing.T) {
	now := time.Date(2026, 11, 21, 20, 0, 0, 50, time.UTC)
	rapid.Check(t, func(t *rapid.T) {
		m := machineRow{now: now}
		m.LastSeen = now.Add(-inactiveAfter).Truncate(cordon.Tick).Add(time.Duration(rapid.IntRange(-2, 2).Draw(t, "ticks")) * cordon.Tick)
		m.Facts.OSPlatform = rapid.SampledFrom([]string{"Debian", "Ubuntu"}).Draw(t, "platform")
		e := conditions(3).Draw(t, "condition")

		isKept := map[cordon.Field]cordon.Value{cordon.FieldLastSeen: m.LastSeen, cordon.FieldOSPlatform: m.Facts.OSPlatform}
		stored := func(f cordon.Field) cordon.Value {
			v, ok := isKept[f]
			if !ok {
				t.Fatalf("asks the store for %s", f)
			}
			return v
		}
		shown := func(f cordon.Field) cordon.Value {
			if v, ok := fixed[f]; ok {
				return v
			}
			if f == cordon.FieldHealthStatus {
				return m.health()
			}
			return isKept[f]
		}
		got := forStore(cordon.Query{Filter: e}, now).Filter
		switch {
		case isNever(got):
			stored = shown // its field is the id, which is kept but not drawn here
		case got != nil:
			checkParts(t, got)
		}
		if cordon.Holds(got, stored) != cordon.Holds(e, shown) {
			t.Fatalf("%+v became %+v", e, got)
		}
	})
}

// checkParts: what is true or false of every machine does not remain inside a
// condition, where a store would have to find a way to say it.
func checkParts(t *rapid.T, e cordon.Expr) {
	switch e := e.(type) {
	case nil:
		t.Fatal("a part is nil")
	case cordon.And:
		checkParts(t, e.X)
		checkParts(t, e.Y)
	case cordon.Or:
		checkParts(t, e.X)
		checkParts(t, e.Y)
	case cordon.Not:
		checkParts(t, e.X)
	case cordon.In:
		if isNever(e) {
			t.Fatal("a part is never true")
		}
	}
}

func conditions(depth int) *rapid.Generator[cordon.Expr] {
	return rapid.Custom(func(t *rapid.T) cordon.Expr {
		if depth > 0 {
			x := conditions(depth - 1)
			switch rapid.IntRange(0, 4).Draw(t, "kind") {
			case 0:
				return cordon.And{X: x.Draw(t, "x"), Y: x.Draw(t, "y")}
			case 1:
				return cordon.Or{X: x.Draw(t, "x"), Y: x.Draw(t, "y")}
			case 2:
				return cordon.Not{X: x.Draw(t, "x")}
			}
		}
		field := rapid.SampledFrom(append(slices.Sorted(maps.Keys(fixed)), cordon.FieldHealthStatus, cordon.FieldOSPlatform, cordon.FieldHealthStatus)).Draw(t, "field")
		value := rapid.SampledFrom([]cordon.Value{active, inactive, "None", "Normal", "Onboarded", "Debian", int64(0), nil}).Draw(t, "value")
		switch rapid.IntRange(0, 2).Draw(t, "leaf") {
		case 0:
			return cordon.Compare{Field: field, Op: cordon.Op(rapid.IntRange(0, int(cordon.Ge)).Draw(t, "op")), Value: value}
		case 1:
			return cordon.In{Field: field, Values: []cordon.Value{value, "Inactive"}}
		default:
			return cordon.Match{Field: field, Kind: cordon.MatchKind(rapid.IntRange(0, 2).Draw(t, "match")), Text: rapid.SampledFrom([]string{"", "In", "active", "o", "n"}).Draw(t, "text")}
		}
	})
}

func TestForStoreOrder(t *testing.T) {
	got := forStore(cordon.Query{OrderBy: []cordon.Sort{
		{Field: cordon.FieldRiskScore}, {Field: cordon.FieldHealthStatus}, {Field: cordon.FieldDNSName, Desc: true}, {Field: cordon.FieldHealthStatus, Desc: true},
	}}, time.Now()).OrderBy
	want := []cordon.Sort{{Field: cordon.FieldLastSeen, Desc: true}, {Field: cordon.FieldDNSName, Desc: true}, {Field: cordon.FieldLastSeen}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
