package compile_test

import (
	"encoding/hex"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/store/sqlite/compile"
)

// things is a collection with every kind of field.
var things = compile.Table{
	Columns: "t.name", From: "things t JOIN more", CountFrom: "things t",
	Fields: map[cordon.Field]compile.Field{
		"name": {Type: cordon.TypeString, SQL: "t.name"},
		"nick": {Type: cordon.TypeString, SQL: "t.nick", Null: true},
		"size": {Type: cordon.TypeInt, SQL: "t.size"},
		"late": {Type: cordon.TypeString, SQL: "CASE WHEN t.at < ? THEN 'y' ELSE 'n' END", Args: []any{int64(9)}},
		"key":  key,
		"tags": {Type: cordon.TypeStringList, SQL: "t.id IN (SELECT id FROM tags WHERE $)", Element: "tag"},
		"some": {Type: cordon.TypeInt, SQL: "coalesce(t.some, 0)", Among: func(s *compile.SQL, values []any) { s.Write("t.some"); s.In(values) }},
	},
	Last: key,
	Way:  func(cordon.Query) compile.Way { return compile.Way{Own: []compile.Key{{Field: key, Desc: true}}} },
}

var key = compile.Field{Type: cordon.TypeString, SQL: "lower(hex(t.key))", Column: "t.key", Stored: func(s string) (any, bool) {
	b, err := hex.DecodeString(s)
	return b, err == nil
}}

func eq(f cordon.Field, v cordon.Value) cordon.Expr {
	return cordon.Compare{Field: f, Op: cordon.Eq, Value: v}
}

// TestConditions has the SQL of each condition, alone.
func TestConditions(t *testing.T) {
	for _, c := range []struct {
		filter cordon.Expr
		sql    string
		args   []any
	}{
		{nil, "1", nil},
		{eq("name", "a'b"), "(t.name IN (?))", []any{"a'b"}},
		{cordon.Compare{Field: "name", Op: cordon.Ne, Value: "a"}, "NOT (t.name IN (?))", []any{"a"}},
		{cordon.Compare{Field: "size", Op: cordon.Ge, Value: int64(7)}, "(t.size >= ?)", []any{int64(7)}},
		{cordon.Compare{Field: "size", Op: cordon.Ge, Value: "7"}, "0", nil},
		{eq("nick", nil), "(t.nick IS NULL OR 0)", nil},
		{cordon.In{Field: "nick", Values: []cordon.Value{"a", nil, int64(1), "b"}}, "(t.nick IS NULL OR t.nick IS NOT NULL AND t.nick IN (?, ?))", []any{"a", "b"}},
		{eq("name", nil), "(0)", nil},
		{eq("late", "y"), "(CASE WHEN t.at < ? THEN 'y' ELSE 'n' END IN (?))", []any{int64(9), "y"}},
		{cordon.In{Field: "key", Values: []cordon.Value{"0a", "no key"}}, "(t.key IN (?))", []any{[]byte{10}}},
		{eq("some", int64(3)), "(t.some IN (?))", []any{int64(3)}},
		{cordon.Match{Field: "nick", Kind: cordon.StartsWith, Text: "ab"}, "(t.nick IS NOT NULL AND t.nick >= ? AND t.nick < ?)", []any{"ab", "ac"}},
		{cordon.Match{Field: "name", Kind: cordon.StartsWith, Text: "\xff"}, "(instr(t.name, ?) > 0)", []any{"\xff"}},
		{cordon.Match{Field: "name", Kind: cordon.EndsWith, Text: "ab"}, "(substr(CAST(t.name AS BLOB), ?) = ?)", []any{int64(-2), []byte("ab")}},
		{cordon.Match{Field: "size", Kind: cordon.Contains, Text: "1"}, "0", nil},
		{cordon.Any{Field: "tags", X: cordon.Not{X: eq(cordon.ElementField, "x")}}, "t.id IN (SELECT id FROM tags WHERE NOT (tag IN (?)))", []any{"x"}},
		{cordon.And{X: eq("name", "a"), Y: cordon.Or{X: eq("name", "b"), Y: eq("name", "c")}}, "((t.name IN (?)) AND ((t.name IN (?)) OR (t.name IN (?))))", []any{"a", "b", "c"}},
	} {
		a, err := compile.Query(things, cordon.Query{Filter: c.filter})
		if err != nil {
			t.Errorf("%+v: %v", c.filter, err)
			continue
		}
		want := "SELECT t.name, t.key FROM things t JOIN more WHERE " + c.sql + " ORDER BY t.key DESC LIMIT ? OFFSET ?"
		if d := cmp.Diff(want, a.Page.String()); d != "" {
			t.Errorf("%+v: %s", c.filter, d)
		}
		if d := cmp.Diff(append(c.args, int64(-1), int64(0)), a.Page.Args); d != "" {
			t.Errorf("%+v: %s", c.filter, d)
		}
		want = "SELECT count(*) FROM things t"
		if c.filter != nil {
			want += " WHERE " + c.sql
		}
		if d := cmp.Diff(want, a.Total.String()); d != "" {
			t.Errorf("%+v, counted: %s", c.filter, d)
		}
	}
}

// TestPages has the SQL of what is behind the condition.
func TestPages(t *testing.T) {
	by := func(f cordon.Field, desc bool) cordon.Sort { return cordon.Sort{Field: f, Desc: desc} }
	hinted := things
	hinted.Way = func(cordon.Query) compile.Way {
		return compile.Way{Own: []compile.Key{{Field: key}}, Hint: "t.open = ?", Args: []any{"y"}, Plain: true}
	}
	for _, c := range []struct {
		table compile.Table
		query cordon.Query
		sql   string
		args  []any
	}{
		{things, cordon.Query{Top: 5, HasTop: true, Skip: 3}, "1 ORDER BY t.key DESC LIMIT ? OFFSET ?", []any{int64(6), int64(3)}},
		{things, cordon.Query{HasTop: true}, "1 ORDER BY t.key DESC LIMIT ? OFFSET ?", []any{int64(0), int64(0)}},
		{things, cordon.Query{OrderBy: []cordon.Sort{by("late", true)}}, "1 ORDER BY CASE WHEN t.at < ? THEN 'y' ELSE 'n' END DESC, t.key DESC LIMIT ? OFFSET ?", []any{int64(9), int64(9), int64(-1), int64(0)}},
		{things, cordon.Query{OrderBy: []cordon.Sort{by("size", false)}, After: cordon.Position{int64(7), "0a"}},
			"1 AND (t.size, t.key) > (?, ?) ORDER BY t.size, t.key LIMIT ? OFFSET ?", []any{int64(7), []byte{10}, int64(-1), int64(0)}},
		{things, cordon.Query{Filter: cordon.Compare{Field: "size", Op: cordon.Gt, Value: int64(1)}, OrderBy: []cordon.Sort{by("size", false)}, After: cordon.Position{int64(7), "0a"}},
			"(+t.size > ?) AND (t.size, t.key) > (?, ?) ORDER BY t.size, t.key LIMIT ? OFFSET ?", []any{int64(1), int64(7), []byte{10}, int64(-1), int64(0)}},
		{things, cordon.Query{OrderBy: []cordon.Sort{by("size", true), by("nick", false)}, After: cordon.Position{int64(7), nil, "0a"}},
			"1 AND (t.size < ? OR t.size IS ? AND (t.nick IS NOT NULL OR t.nick IS ? AND (t.key > ?))) ORDER BY t.size DESC, t.nick, t.key LIMIT ? OFFSET ?", []any{int64(7), int64(7), nil, []byte{10}, int64(-1), int64(0)}},
		{things, cordon.Query{OrderBy: []cordon.Sort{by("nick", true)}, After: cordon.Position{"a", "0a"}},
			"1 AND (t.nick < ? OR t.nick IS NULL OR t.nick IS ? AND (t.key < ?)) ORDER BY t.nick DESC, t.key DESC LIMIT ? OFFSET ?", []any{"a", "a", []byte{10}, int64(-1), int64(0)}},
		{hinted, cordon.Query{OrderBy: []cordon.Sort{by("name", false)}}, "1 AND t.open = ? ORDER BY +t.name, +t.key LIMIT ? OFFSET ?", []any{"y", int64(-1), int64(0)}},
	} {
		a, err := compile.Query(c.table, c.query)
		if err != nil {
			t.Errorf("%+v: %v", c.query, err)
			continue
		}
		_, got, _ := strings.Cut(a.Page.String(), " WHERE ")
		if d := cmp.Diff(c.sql, got); d != "" {
			t.Errorf("%+v: %s", c.query, d)
		}
		if d := cmp.Diff(c.args, a.Page.Args); d != "" {
			t.Errorf("%+v: %s", c.query, d)
		}
	}
}

func TestRefused(t *testing.T) {
	size := []cordon.Sort{{Field: "size"}}
	for name, c := range map[string]struct {
		query cordon.Query
		kind  cordon.Kind
	}{
		"no such field":          {cordon.Query{Filter: eq("colour", "red")}, cordon.Invalid},
		"no such field, in list": {cordon.Query{Filter: cordon.Any{Field: "tags", X: eq("name", "x")}}, cordon.Invalid},
		"not a list":             {cordon.Query{Filter: cordon.Any{Field: "name", X: eq(cordon.ElementField, "x")}}, cordon.Invalid},
		"order by a list":        {cordon.Query{OrderBy: []cordon.Sort{{Field: "tags"}}}, cordon.Invalid},
		"order by nothing known": {cordon.Query{OrderBy: []cordon.Sort{{Field: "colour"}}}, cordon.Invalid},
		"short position":         {cordon.Query{OrderBy: size, After: cordon.Position{int64(1)}}, cordon.Invalid},
		"position of a type":     {cordon.Query{OrderBy: size, After: cordon.Position{"1", "0a"}}, cordon.Invalid},
		"position that is null":  {cordon.Query{OrderBy: size, After: cordon.Position{nil, "0a"}}, cordon.Invalid},
		"position without key":   {cordon.Query{OrderBy: size, After: cordon.Position{int64(1), "x"}}, cordon.Invalid},
		"unknown operator":       {cordon.Query{Filter: cordon.Compare{Field: "size", Op: 99, Value: int64(1)}}, cordon.Internal},
		"unknown match":          {cordon.Query{Filter: cordon.Match{Field: "name", Kind: 99}}, cordon.Internal},
	} {
		if a, err := compile.Query(things, c.query); err == nil || cordon.KindOf(err) != c.kind {
			t.Errorf("%s: %+v, %v", name, a, err)
		}
	}
}

// TestLongChain holds that a chain that is as long as it likes is not deep:
// SQLite refuses expressions of more than 1000 levels.
func TestLongChain(t *testing.T) {
	var e cordon.Expr = eq("name", "a")
	for range 5000 {
		e = cordon.And{X: e, Y: eq("name", "a")}
	}
	a, err := compile.Query(things, cordon.Query{Filter: e})
	if err != nil {
		t.Fatal(err)
	}
	depth, deepest := 0, 0
	for _, c := range a.Page.String() {
		switch c {
		case '(':
			depth++
		case ')':
			depth--
		}
		deepest = max(deepest, depth)
	}
	if n := len(compile.Conjuncts(e)); deepest > 20 || n != 5001 || len(a.Total.Args) != n {
		t.Errorf("%d levels, %d conditions", deepest, n)
	}
}

// TestNothingFromOutside holds that what a caller sends is an argument, and
// never text.
func TestNothingFromOutside(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`outside['"?$;)\x00-]{0,5}`).Draw(t, "text")
		var filter cordon.Expr = eq("name", text)
		switch rapid.IntRange(0, 3).Draw(t, "condition") {
		case 0:
			filter = cordon.Match{Field: "nick", Kind: rapid.SampledFrom([]cordon.MatchKind{cordon.StartsWith, cordon.EndsWith, cordon.Contains}).Draw(t, "kind"), Text: text}
		case 1:
			filter = cordon.Any{Field: "tags", X: eq(cordon.ElementField, text)}
		case 2:
			filter = cordon.In{Field: "key", Values: []cordon.Value{text, hex.EncodeToString([]byte(text))}}
		}
		a, err := compile.Query(things, cordon.Query{Filter: filter, OrderBy: []cordon.Sort{{Field: "nick", Desc: rapid.Bool().Draw(t, "desc")}}, After: cordon.Position{text, "0a"}})
		if err != nil {
			t.Fatal(err)
		}
		for _, sql := range []*compile.SQL{a.Total, a.Page} {
			if strings.Contains(sql.String(), "outside") || strings.Count(sql.String(), "?") != len(sql.Args) {
				t.Fatalf("%s with %q", sql, sql.Args)
			}
		}
	})
}
