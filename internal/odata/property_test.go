package odata_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/odata"
)

// everything has a field of each type.
var everything = func() cordon.Schema {
	s := maps.Clone(odata.Machines)
	maps.Copy(s, flags)
	return s
}()

// TestRoundTrip draws a query, writes it in one of its many spellings, and
// reads it back.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := drawQuery(t)
		raw := spelling{rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "spelling"), 0))}.query(want)
		t.Logf("%s", raw)
		got, err := odata.Parse(raw, everything)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(flat(want), flat(got)); diff != "" {
			t.Fatalf("-want +got:\n%s", diff)
		}
		check(t, got.Filter, everything, 0)
	})
}

func FuzzParse(f *testing.F) {
	f.Add("$filter=computerDnsName+eq+'host1.example.org'&$top=20000&$skip=3&$count=true")
	f.Add("%24filter=lastSeen%20ge%202019-11-22T14:00:00 02:00&%24orderby=lastSeen desc,id")
	f.Add("$filter=(id in ('a','b''') AND NOT machineTags/any(t:t eq 'x' or startswith(t,'y')))or aadDeviceId eq " + guid + "&$select=id,ipAddresses")
	f.Add("$filter=rbacGroupId in (-1,null,'5')and on eq false or names/any() ne true")
	f.Add("$filter=" + strings.Repeat("not(", 40))
	f.Add("$stop=1")
	f.Add(odata.Next("$filter=id eq '\"ä'&x&=&$skip=1", cordon.Position{nil, "x", int64(1)}, 5))
	f.Add("$filter=%zz&&=")
	f.Fuzz(func(t *testing.T, raw string) {
		q, err := odata.Parse(raw, everything)
		if err != nil {
			var e *cordon.Error
			if !errors.As(err, &e) || e.Kind != cordon.Invalid || e.Code != cordon.CodeMalformedQuery && e.Code != cordon.CodeInvalidQuery {
				t.Fatalf("error %#v", err)
			}
			if len(e.Message) > 1500 || utf8.ValidString(raw) && !utf8.ValidString(e.Message) {
				t.Fatalf("message of %d bytes: %q", len(e.Message), e.Message)
			}
			return
		}
		if q.Skip < 0 || q.Top < 0 || q.Top > cordon.MaxTop || q.Rest < 0 || q.Rest > 0 && q.Top != cordon.MaxTop || !q.HasTop && q.Top != 0 {
			t.Fatalf("numbers: %+v", q)
		}
		if n := check(t, q.Filter, everything, 0); n > odata.MaxTerms {
			t.Fatalf("%d terms", n)
		}
		cordon.Holds(q.Filter, func(cordon.Field) cordon.Value { return nil })

		next := odata.Next(raw, cordon.Position{"x", int64(1)}, q.Rest)
		following, err := odata.Parse(next, everything)
		if err != nil || len(following.After) != 2 {
			t.Fatalf("%q was read, its next page %q is not: %v", raw, next, err)
		}
		q.After = nil

		plain := spelling{}.query(q)
		if len(plain) > odata.MaxLength {
			return
		}
		again, err := odata.Parse(plain, everything)
		if err != nil {
			t.Fatalf("%q was read, its canonical form %q is not: %v", raw, plain, err)
		}
		if diff := cmp.Diff(flat(q), flat(again)); diff != "" {
			t.Fatalf("%q and its canonical form %q differ:\n%s", raw, plain, diff)
		}
	})
}

// check holds that a filter is what the types of its fields allow and no
// deeper than the limits, and counts its terms.
func check(t rapid.TB, e cordon.Expr, s cordon.Schema, level int) int {
	field := func(name cordon.Field, v cordon.Value) {
		f, ok := s.Lookup(string(name))
		if !ok || !f.Filterable {
			t.Fatalf("field %s", name)
		}
		switch v := v.(type) {
		case nil:
			ok = true
		case string:
			ok = f.Type == cordon.TypeString && (!f.Fold || v == cordon.Fold(v)) && utf8.ValidString(v)
		case int64:
			ok = f.Type == cordon.TypeInt
		case bool:
			ok = f.Type == cordon.TypeBool
		case time.Time:
			ok = f.Type == cordon.TypeTime && v.Location() == time.UTC && v.Equal(v.Truncate(cordon.Tick))
		default:
			ok = false
		}
		if !ok {
			t.Fatalf("field %s has the value %#v", name, v)
		}
	}
	if level > 16*odata.MaxDepth {
		t.Fatal("too deep")
	}
	switch e := e.(type) {
	case nil:
		return 0
	case cordon.And:
		return check(t, e.X, s, level+1) + check(t, e.Y, s, level+1)
	case cordon.Or:
		return check(t, e.X, s, level+1) + check(t, e.Y, s, level+1)
	case cordon.Not:
		return 1 + check(t, e.X, s, level+1)
	case cordon.Compare:
		field(e.Field, e.Value)
	case cordon.Match:
		field(e.Field, e.Text)
	case cordon.In:
		if len(e.Values) == 0 || len(e.Values) > odata.MaxIn {
			t.Fatalf("list of %d values", len(e.Values))
		}
		for _, v := range e.Values {
			field(e.Field, v)
		}
		return len(e.Values)
	case cordon.Any:
		f, _ := s.Lookup(string(e.Field))
		if f.Type != cordon.TypeStringList || !f.Filterable {
			t.Fatalf("any() of %s", e.Field)
		}
		element := cordon.FieldInfo{Name: cordon.ElementField, Type: cordon.TypeString, Filterable: true, Fold: f.Fold}
		return 1 + check(t, e.X, cordon.NewSchema(element), level+1)
	default:
		t.Fatalf("expression %#v", e)
	}
	return 1
}

// flat returns q with each chain of And and of Or as one list, because how a
// chain is bracketed means nothing.
func flat(q cordon.Query) any {
	filter := flatten(q.Filter)
	q.Filter = nil
	return []any{filter, q}
}

func flatten(e cordon.Expr) any {
	switch e := e.(type) {
	case cordon.And:
		return []any{"and", chainOf[cordon.And](e, func(e cordon.And) (x, y cordon.Expr) { return e.X, e.Y })}
	case cordon.Or:
		return []any{"or", chainOf[cordon.Or](e, func(e cordon.Or) (x, y cordon.Expr) { return e.X, e.Y })}
	case cordon.Not:
		return []any{"not", flatten(e.X)}
	case cordon.Any:
		return []any{"any", e.Field, flatten(e.X)}
	}
	return e
}

func chainOf[T cordon.Expr](e cordon.Expr, sides func(T) (x, y cordon.Expr)) []any {
	if c, ok := e.(T); ok {
		x, y := sides(c)
		return append(chainOf(x, sides), chainOf(y, sides)...)
	}
	return []any{flatten(e)}
}

// What follows draws queries.

func drawQuery(t *rapid.T) cordon.Query {
	q := cordon.Query{Count: rapid.Bool().Draw(t, "count")}
	if rapid.IntRange(0, 9).Draw(t, "filtered") > 0 {
		q.Filter = drawExpr(t, everything, rapid.IntRange(0, 5).Draw(t, "height"))
	}
	if rapid.Bool().Draw(t, "hasTop") {
		q.HasTop = true
		q.Top = rapid.IntRange(0, cordon.MaxTop).Draw(t, "top")
		if q.Top == cordon.MaxTop {
			q.Rest = rapid.IntRange(0, 1<<31-1-cordon.MaxTop).Draw(t, "rest")
		}
	}
	q.Skip = rapid.IntRange(0, 1<<31-1).Draw(t, "skip")
	for _, f := range rapid.SliceOfNDistinct(rapid.SampledFrom(fieldsOf(everything, func(f cordon.FieldInfo) bool { return f.Filterable && f.Type != cordon.TypeStringList })), 0, 3, rapid.ID).Draw(t, "orderby") {
		q.OrderBy = append(q.OrderBy, cordon.Sort{Field: f, Desc: rapid.Bool().Draw(t, "desc")})
	}
	q.Select = append(q.Select, rapid.SliceOfNDistinct(rapid.SampledFrom(fieldsOf(everything, func(cordon.FieldInfo) bool { return true })), 0, 3, rapid.ID).Draw(t, "select")...)
	return q
}

func fieldsOf(s cordon.Schema, is func(cordon.FieldInfo) bool) []cordon.Field {
	var fields []cordon.Field
	for _, f := range s {
		if is(f) {
			fields = append(fields, f.Name)
		}
	}
	slices.Sort(fields)
	return fields
}

func drawExpr(t *rapid.T, s cordon.Schema, height int) cordon.Expr {
	if height > 0 {
		switch rapid.IntRange(0, 3).Draw(t, "node") {
		case 0:
			return cordon.And{X: drawExpr(t, s, height-1), Y: drawExpr(t, s, height-1)}
		case 1:
			return cordon.Or{X: drawExpr(t, s, height-1), Y: drawExpr(t, s, height-1)}
		case 2:
			return cordon.Not{X: drawExpr(t, s, height-1)}
		}
	}
	name := rapid.SampledFrom(fieldsOf(s, func(f cordon.FieldInfo) bool { return f.Filterable })).Draw(t, "field")
	f, _ := s.Lookup(string(name))
	if f.Type == cordon.TypeStringList {
		a := cordon.Any{Field: name}
		if rapid.Bool().Draw(t, "lambda") {
			element := cordon.FieldInfo{Name: cordon.ElementField, Type: cordon.TypeString, Filterable: true, Fold: f.Fold}
			a.X = drawExpr(t, cordon.NewSchema(element), min(height, 2))
		}
		return a
	}
	leaf := rapid.IntRange(0, 2).Draw(t, "leaf")
	switch {
	case leaf == 0 && f.Type == cordon.TypeString:
		return cordon.Match{Field: name, Kind: cordon.MatchKind(rapid.IntRange(0, 2).Draw(t, "kind")), Text: drawText(t, f)}
	case leaf == 1:
		in := cordon.In{Field: name}
		for range rapid.IntRange(1, 4).Draw(t, "values") {
			in.Values = append(in.Values, drawValue(t, f))
		}
		return in
	}
	ops := 5
	if f.Type == cordon.TypeBool {
		ops = 1
	}
	return cordon.Compare{Field: name, Op: cordon.Op(rapid.IntRange(0, ops).Draw(t, "op")), Value: drawValue(t, f)}
}

func drawText(t *rapid.T, f cordon.FieldInfo) string {
	s := rapid.OneOf(
		rapid.SampledFrom([]string{"", "'", "''", "x' or id eq 'y", "Active", " a ", "100%", "a+b&c=d#e", "%27", guid, strings.ToUpper(guid), "漢字", "😀"}),
		rapid.StringOf(rapid.RuneFrom([]rune("abAB09 '%+&=#();/\\\t\n_éſ\u212a"))),
	).Draw(t, "text")
	if f.Fold {
		return cordon.Fold(s)
	}
	return s
}

func drawValue(t *rapid.T, f cordon.FieldInfo) cordon.Value {
	if rapid.IntRange(0, 9).Draw(t, "null") == 0 {
		return nil
	}
	switch f.Type {
	case cordon.TypeString:
		return drawText(t, f)
	case cordon.TypeInt:
		return rapid.Int64().Draw(t, "int")
	case cordon.TypeBool:
		return rapid.Bool().Draw(t, "bool")
	default:
		second := rapid.Int64Range(-62_000_000_000, 253_000_000_000).Draw(t, "second") // years 5 to 9987
		return time.Unix(second, 100*rapid.Int64Range(0, 9_999_999).Draw(t, "tick")).UTC()
	}
}

// What follows writes queries.

// spelling writes a query as a query string, in one spelling of many. The zero
// spelling is the plain one.
type spelling struct{ *rand.Rand }

// oneIn is true now and then, never in the plain spelling.
func (s spelling) oneIn(n int) bool { return s.Rand != nil && s.IntN(n) == 0 }

func (s spelling) query(q cordon.Query) string {
	var params []string
	add := func(name, value string) { params = append(params, s.escape(s.anyCase(name))+"="+s.escape(value)) }
	if q.Filter != nil {
		add("$filter", s.join(s.or(q.Filter)))
	}
	if q.HasTop {
		add("$top", strconv.Itoa(q.Top+q.Rest))
	}
	if q.Skip != 0 || s.oneIn(2) {
		add("$skip", strconv.Itoa(q.Skip))
	}
	if q.Count || s.oneIn(2) {
		add("$count", s.anyCase(strconv.FormatBool(q.Count)))
	}
	var tokens []string
	for _, o := range q.OrderBy {
		tokens = append(tokens, ",", s.anyCase(string(o.Field)))
		if o.Desc {
			tokens = append(tokens, s.anyCase("desc"))
		} else if s.oneIn(2) {
			tokens = append(tokens, s.anyCase("asc"))
		}
	}
	if len(tokens) > 0 {
		add("$orderby", s.join(tokens[1:]))
	}
	tokens = nil
	for _, f := range q.Select {
		tokens = append(tokens, ",", s.anyCase(string(f)))
	}
	if len(tokens) > 0 {
		add("$select", s.join(tokens[1:]))
	}
	if s.oneIn(2) {
		params = append(params, "client-request-id="+guid, "", "x")
	}
	if s.Rand != nil {
		s.Shuffle(len(params), func(i, j int) { params[i], params[j] = params[j], params[i] })
	}
	return strings.Join(params, "&")
}

func (s spelling) or(e cordon.Expr) []string {
	if o, ok := e.(cordon.Or); ok {
		return slices.Concat(s.or(o.X), []string{s.anyCase("or")}, s.or(o.Y))
	}
	return s.and(e)
}

func (s spelling) and(e cordon.Expr) []string {
	if a, ok := e.(cordon.And); ok {
		return slices.Concat(s.and(a.X), []string{s.anyCase("and")}, s.and(a.Y))
	}
	return s.unary(e)
}

func (s spelling) unary(e cordon.Expr) []string {
	if s.oneIn(12) {
		return s.brackets(e)
	}
	switch e := e.(type) {
	case cordon.Not:
		switch e.X.(type) {
		case cordon.Match, cordon.Any:
			if s.oneIn(3) {
				return append(s.unary(e.X), s.anyCase("eq"), s.anyCase("false"))
			}
		case cordon.And, cordon.Or:
			if s.oneIn(3) {
				return append(s.brackets(e.X), s.anyCase("ne"), s.anyCase("true"))
			}
		}
		return append([]string{s.anyCase("not")}, s.unary(e.X)...)
	case cordon.Compare:
		f := infoOf(e.Field)
		if f.Type == cordon.TypeBool && e.Op == cordon.Eq && e.Value == true && s.oneIn(2) {
			return []string{s.name(e.Field)}
		}
		return []string{s.name(e.Field), s.anyCase([]string{"eq", "ne", "lt", "le", "gt", "ge"}[e.Op]), s.value(f, e.Value)}
	case cordon.In:
		tokens := []string{s.name(e.Field), s.anyCase("in"), "("}
		for i, v := range e.Values {
			if i > 0 {
				tokens = append(tokens, ",")
			}
			tokens = append(tokens, s.value(infoOf(e.Field), v))
		}
		return append(tokens, ")")
	case cordon.Match:
		return []string{s.anyCase([]string{"startswith", "endswith", "contains"}[e.Kind]), "(", s.name(e.Field), ",", s.quote(infoOf(e.Field), e.Text), ")"}
	case cordon.Any:
		tokens := []string{s.anyCase(string(e.Field)), "/", s.anyCase("any"), "("}
		if e.X != nil {
			tokens = append(tokens, s.name(cordon.ElementField), ":")
			tokens = append(tokens, s.or(e.X)...)
		}
		return append(tokens, ")")
	default:
		return s.brackets(e)
	}
}

func (s spelling) brackets(e cordon.Expr) []string {
	return slices.Concat([]string{"("}, s.or(e), []string{")"})
}

func infoOf(name cordon.Field) cordon.FieldInfo {
	if name == cordon.ElementField {
		return cordon.FieldInfo{Type: cordon.TypeString} // may be of a list that does not fold
	}
	f, _ := everything.Lookup(string(name))
	return f
}

func (s spelling) name(f cordon.Field) string {
	if f == cordon.ElementField {
		return s.anyCase("element")
	}
	return s.anyCase(string(f))
}

func (s spelling) quote(f cordon.FieldInfo, text string) string {
	if f.Fold {
		text = s.anyCase(text)
	}
	return "'" + strings.ReplaceAll(text, "'", "''") + "'"
}

var guidForm = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)

func (s spelling) value(f cordon.FieldInfo, v cordon.Value) string {
	switch v := v.(type) {
	case nil:
		return s.anyCase("null")
	case string:
		if guidForm.MatchString(v) && s.oneIn(2) {
			if f.Fold {
				v = s.anyCase(v)
			}
			return v
		}
		return s.quote(f, v)
	case time.Time:
		layout := "2006-01-02T15:04:05.9999999Z07:00"
		if s.oneIn(2) {
			v = v.In(time.FixedZone("", (s.IntN(24*4)-12*4)*15*60))
		}
		if s.oneIn(2) {
			layout = "2006-01-02T15:04:05.000000000Z07:00"
		}
		if s.oneIn(3) {
			return "'" + v.Format(layout) + "'"
		}
		return v.Format(layout)
	default:
		if _, isInt := v.(int64); isInt && s.oneIn(3) {
			return fmt.Sprintf("'%d'", v)
		}
		return s.anyCase(fmt.Sprint(v))
	}
}

// anyCase changes the case of ASCII letters at random.
func (s spelling) anyCase(text string) string {
	if !s.oneIn(2) {
		return text
	}
	b := []byte(text)
	for i, c := range b {
		if c|0x20 >= 'a' && c|0x20 <= 'z' && s.oneIn(2) {
			b[i] ^= 0x20
		}
	}
	return string(b)
}

// join writes tokens, with blanks where there must be one and at random where
// there may be.
func (s spelling) join(tokens []string) string {
	var b strings.Builder
	blanks := func(must bool) {
		if must || s.Rand == nil {
			b.WriteByte(' ')
		}
		for s.oneIn(3) {
			b.WriteByte(" \t\r\n"[s.IntN(4)])
		}
	}
	needsBlank := regexp.MustCompile(`[0-9A-Za-z_]$`)
	startsWord := regexp.MustCompile(`^[-0-9A-Za-z_]`)
	for i, token := range tokens {
		if i > 0 {
			blanks(needsBlank.MatchString(tokens[i-1]) && startsWord.MatchString(token))
		}
		b.WriteString(token)
	}
	return b.String()
}

// escape percent-encodes what must be and at random what may be.
func (s spelling) escape(text string) string {
	var b strings.Builder
	for i := range len(text) {
		switch c := text[i]; {
		case c == ' ' && s.oneIn(2):
			b.WriteByte('+')
		case strings.IndexByte("&%+#=", c) >= 0 || c < ' ' || s.oneIn(6):
			fmt.Fprintf(&b, "%%%02x", c)
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}
