package odata

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/cordon-project/cordon"
)

// parser reads the value of one query option, by recursive descent with one
// token of look-ahead.
type parser struct {
	option  string // its name, in lower case
	text    string // its value, decoded
	schema  cordon.Schema
	next    int     // where the next token begins
	tok     token   // the token at hand
	depth   int     // of the nesting at hand
	terms   int     // counted so far
	element *lambda // set inside any()
}

// lambda is the variable of an any() and what it stands for.
type lambda struct {
	name string
	info cordon.FieldInfo
}

// filter = or end
func (p *parser) filter() (cordon.Expr, error) {
	if err := p.advance(); err != nil {
		return nil, err
	}
	e, err := p.or()
	if err != nil {
		return nil, err
	}
	if p.tok.kind != end {
		return nil, p.expected("'and', 'or' or the end")
	}
	return e, nil
}

// or = and *( "or" and )
func (p *parser) or() (cordon.Expr, error) {
	return p.chain("or", p.and, func(x, y cordon.Expr) cordon.Expr { return cordon.Or{X: x, Y: y} })
}

// and = not *( "and" not )
func (p *parser) and() (cordon.Expr, error) {
	return p.chain("and", p.not, func(x, y cordon.Expr) cordon.Expr { return cordon.And{X: x, Y: y} })
}

func (p *parser) chain(operator string, operand func() (cordon.Expr, error), join func(x, y cordon.Expr) cordon.Expr) (cordon.Expr, error) {
	var es []cordon.Expr
	for {
		e, err := operand()
		if err != nil {
			return nil, err
		}
		es = append(es, e)
		if !p.tok.is(operator) {
			return balance(es, join), nil
		}
		if err := p.advance(); err != nil {
			return nil, err
		}
	}
}

// balance joins a chain as a tree of the least depth, so that whoever walks or
// compiles it needs no deep stack for a long chain.
func balance(es []cordon.Expr, join func(x, y cordon.Expr) cordon.Expr) cordon.Expr {
	if len(es) == 1 {
		return es[0]
	}
	half := len(es) / 2
	return join(balance(es[:half], join), balance(es[half:], join))
}

// not = "not" not / primary
func (p *parser) not() (cordon.Expr, error) {
	if !p.tok.is("not") {
		return p.primary()
	}
	if err := p.count(1); err != nil {
		return nil, err
	}
	e, err := p.nested(p.not)
	if err != nil {
		return nil, err
	}
	return cordon.Not{X: e}, nil
}

// nested steps over the token at hand and reads what is one level deeper.
func (p *parser) nested(read func() (cordon.Expr, error)) (cordon.Expr, error) {
	if p.depth++; p.depth > MaxDepth {
		return nil, unsupported("The filter is nested more than %d levels deep.", MaxDepth)
	}
	if err := p.advance(); err != nil {
		return nil, err
	}
	e, err := read()
	p.depth--
	return e, err
}

// primary = "(" or ")" [ truth ] / function [ truth ] / condition
func (p *parser) primary() (cordon.Expr, error) {
	if p.tok.is("(") {
		e, err := p.nested(p.or)
		if err != nil {
			return nil, err
		}
		if err := p.expect(")"); err != nil {
			return nil, err
		}
		return p.truth(e)
	}
	if p.tok.kind != word {
		return nil, p.expected("a property name, a function, 'not' or '('")
	}
	name := p.tok
	if err := p.advance(); err != nil {
		return nil, err
	}
	if p.tok.is("(") {
		e, err := p.function(name)
		if err != nil {
			return nil, err
		}
		return p.truth(e)
	}
	return p.condition(name)
}

// truth = ( "eq" / "ne" ) ( "true" / "false" ), which some clients write behind
// what is true or false already
func (p *parser) truth(e cordon.Expr) (cordon.Expr, error) {
	if !p.tok.is("eq") && !p.tok.is("ne") {
		return e, nil
	}
	same := p.tok.is("eq")
	if err := p.advance(); err != nil {
		return nil, err
	}
	if !p.tok.is("true") && !p.tok.is("false") {
		return nil, p.expected("true or false")
	}
	if same == p.tok.is("true") {
		return e, p.advance()
	}
	if err := p.count(1); err != nil {
		return nil, err
	}
	return cordon.Not{X: e}, p.advance()
}

var matchKinds = map[string]cordon.MatchKind{
	"startswith": cordon.StartsWith,
	"endswith":   cordon.EndsWith,
	"contains":   cordon.Contains,
}

// function = name "(" property "," quoted ")"
func (p *parser) function(name token) (cordon.Expr, error) {
	kind, ok := matchKinds[cordon.Fold(name.text)]
	if !ok {
		return nil, unsupported("The function '%s' is not supported. The functions are contains, endswith and startswith.", excerpt(name.text))
	}
	if err := p.advance(); err != nil {
		return nil, err
	}
	if p.tok.kind != word {
		return nil, p.expected("a property name")
	}
	f, err := p.property(p.tok)
	if err != nil {
		return nil, err
	}
	if f.Type != cordon.TypeString {
		return nil, p.wrongType(f, "cannot be used with "+cordon.Fold(name.text))
	}
	if err := p.advance(); err != nil {
		return nil, err
	}
	if err := p.expect(","); err != nil {
		return nil, err
	}
	if p.tok.kind != quoted {
		return nil, p.expected("a text in single quotes")
	}
	m := cordon.Match{Field: f.Name, Kind: kind, Text: folded(f, p.tok.text)}
	if err := p.advance(); err != nil {
		return nil, err
	}
	if err := p.expect(")"); err != nil {
		return nil, err
	}
	return m, p.count(1)
}

var operators = map[string]cordon.Op{
	"eq": cordon.Eq, "ne": cordon.Ne, "lt": cordon.Lt, "le": cordon.Le, "gt": cordon.Gt, "ge": cordon.Ge,
}

// condition = property ( operator literal / "in" list / "/" any / [ bool ] )
func (p *parser) condition(name token) (cordon.Expr, error) {
	f, err := p.property(name)
	if err != nil {
		return nil, err
	}
	op, isOperator := operators[cordon.Fold(p.tok.text)]
	switch {
	case p.tok.is("/"):
		return p.any(f)
	case f.Type == cordon.TypeStringList:
		return nil, p.wrongType(f, fmt.Sprintf("is compared element by element: %s/any(x: x eq 'value')", f.Name))
	case p.tok.kind == word && isOperator:
		return p.comparison(f, op)
	case p.tok.is("in"):
		return p.in(f)
	case f.Type == cordon.TypeBool:
		return cordon.Compare{Field: f.Name, Op: cordon.Eq, Value: true}, p.count(1)
	default:
		return nil, p.expected("eq, ne, gt, ge, lt, le or in")
	}
}

func (p *parser) comparison(f cordon.FieldInfo, op cordon.Op) (cordon.Expr, error) {
	if f.Type == cordon.TypeBool && op != cordon.Eq && op != cordon.Ne {
		return nil, p.wrongType(f, "can only be compared with eq and ne")
	}
	if err := p.advance(); err != nil {
		return nil, err
	}
	v, err := p.literal(f)
	if err != nil {
		return nil, err
	}
	return cordon.Compare{Field: f.Name, Op: op, Value: v}, p.count(1)
}

// list = "(" literal *( "," literal ) ")"
func (p *parser) in(f cordon.FieldInfo) (cordon.Expr, error) {
	if err := p.advance(); err != nil {
		return nil, err
	}
	if !p.tok.is("(") {
		return nil, p.expected("'('")
	}
	e := cordon.In{Field: f.Name}
	for !p.tok.is(")") {
		if len(e.Values) > 0 && !p.tok.is(",") {
			return nil, p.expected("',' or ')'")
		}
		if err := p.advance(); err != nil {
			return nil, err
		}
		v, err := p.literal(f)
		if err != nil {
			return nil, err
		}
		e.Values = append(e.Values, v)
		if len(e.Values) > MaxIn {
			return nil, unsupported("The list after 'in' has more than %d values.", MaxIn)
		}
	}
	if err := p.advance(); err != nil {
		return nil, err
	}
	return e, p.count(len(e.Values))
}

// any = "any" "(" [ name ":" or ] ")"
func (p *parser) any(f cordon.FieldInfo) (cordon.Expr, error) {
	if f.Type != cordon.TypeStringList {
		return nil, p.wrongType(f, "has no parts or elements to ask for with '/'")
	}
	if err := p.advance(); err != nil {
		return nil, err
	}
	if !p.tok.is("any") {
		return nil, p.expected("any(...)")
	}
	if err := p.advance(); err != nil {
		return nil, err
	}
	if !p.tok.is("(") {
		return nil, p.expected("'('")
	}
	x, err := p.nested(func() (cordon.Expr, error) {
		if p.tok.is(")") {
			return nil, nil
		}
		if p.tok.kind != word {
			return nil, p.expected("a name for the element, as in any(x: x eq 'value')")
		}
		name := p.tok.text
		if err := p.advance(); err != nil {
			return nil, err
		}
		if err := p.expect(":"); err != nil {
			return nil, err
		}
		p.element = &lambda{name, cordon.FieldInfo{Name: cordon.ElementField, Type: cordon.TypeString, Filterable: true, Fold: f.Fold}}
		return p.or()
	})
	if err != nil {
		return nil, err
	}
	p.element = nil
	if err := p.expect(")"); err != nil {
		return nil, err
	}
	e, err := p.truth(cordon.Any{Field: f.Name, X: x})
	if err != nil {
		return nil, err
	}
	return e, p.count(1)
}

// property resolves a name, which has to be one that the option can use.
func (p *parser) property(name token) (cordon.FieldInfo, error) {
	if p.element != nil {
		if cordon.Fold(name.text) != cordon.Fold(p.element.name) {
			return cordon.FieldInfo{}, unsupported("Inside any() only the element '%s' can be used, not '%s'.", excerpt(p.element.name), excerpt(name.text))
		}
		return p.element.info, nil
	}
	f, ok := p.schema.Lookup(name.text)
	if !ok {
		return f, unsupported("Could not find a property named '%s'. Those that can be used are %s.", excerpt(name.text), p.properties())
	}
	if !f.Filterable {
		return f, unsupported("The property '%s' cannot be used in the %s query option. Those that can be used are %s.", f.Name, p.option, p.properties())
	}
	return f, nil
}

// properties lists what the option can name.
func (p *parser) properties() string {
	var names []string
	for _, f := range p.schema {
		sortable := f.Filterable && f.Type != cordon.TypeStringList
		if sortable || f.Filterable && p.option == "$filter" || p.option == "$select" {
			names = append(names, string(f.Name))
		}
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// literal reads a value that can be compared with f.
func (p *parser) literal(f cordon.FieldInfo) (cordon.Value, error) {
	v, ok := value(f, p.tok)
	switch {
	case ok:
		return v, p.advance()
	case p.tok.kind == end || p.tok.kind == punct:
		return nil, p.expected("a value")
	}
	if p.tok.kind == word {
		if _, ok := p.schema.Lookup(p.tok.text); ok {
			return nil, unsupported("'%s' cannot be compared with another property, only with a value.", p.nameOf(f))
		}
	}
	return nil, p.wrongType(f, fmt.Sprintf("cannot be compared with %s; it takes %s or null", excerpt(p.tok.text), typeWords[f.Type]))
}

var typeWords = map[cordon.Type]string{
	cordon.TypeString: "text in single quotes",
	cordon.TypeInt:    "a whole number",
	cordon.TypeBool:   "true, false",
	cordon.TypeTime:   "a date and time such as 2018-08-01T00:00:00Z",
}

var guid = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)

// value is what a token means as a value of f. Numbers and dates may stand in
// quotes and GUIDs may stand without.
func value(f cordon.FieldInfo, t token) (cordon.Value, bool) {
	literal := t.kind == quoted || t.kind == bare
	switch {
	case t.is("null"):
		return nil, true
	case f.Type == cordon.TypeBool && (t.is("true") || t.is("false")):
		return t.is("true"), true
	case f.Type == cordon.TypeString && (t.kind == quoted || t.kind == bare && guid.MatchString(t.text)):
		return folded(f, t.text), true
	case f.Type == cordon.TypeInt && literal:
		n, err := strconv.ParseInt(t.text, 10, 64)
		return n, err == nil
	case f.Type == cordon.TypeTime && literal:
		return parseTime(t.text)
	}
	return nil, false
}

func folded(f cordon.FieldInfo, s string) string {
	if f.Fold {
		return cordon.Fold(s)
	}
	return s
}

// timeLayouts are the accepted spellings; seconds may have a fraction in each.
var timeLayouts = []string{
	"2006-01-02T15:04:05Z07:00", "2006-01-02T15:04:05",
	"2006-01-02T15:04Z07:00", "2006-01-02T15:04",
	"2006-01-02Z07:00", "2006-01-02",
}

// parseTime reads a date with or without a time of day; without an offset it is UTC.
func parseTime(s string) (cordon.Value, bool) {
	s = strings.ToUpper(s)
	for _, layout := range timeLayouts {
		if t, err := time.Parse(layout, s); err == nil {
			return t.UTC().Truncate(cordon.Tick), true
		}
	}
	return nil, false
}

// orderBy = property [ "asc" / "desc" ] *( "," property [ "asc" / "desc" ] )
func (p *parser) orderBy() ([]cordon.Sort, error) {
	var by []cordon.Sort
	err := p.names(func(name token) error {
		f, err := p.property(name)
		if err != nil {
			return err
		}
		if f.Type == cordon.TypeStringList {
			return p.wrongType(f, "is a list and has no order")
		}
		if slices.ContainsFunc(by, func(s cordon.Sort) bool { return s.Field == f.Name }) {
			return malformed("Duplicate property named '%s' is not supported in '$orderby'.", f.Name)
		}
		s := cordon.Sort{Field: f.Name, Desc: p.tok.is("desc")}
		by = append(by, s)
		if s.Desc || p.tok.is("asc") {
			return p.advance()
		}
		return nil
	})
	return by, err
}

// selection = "*" / name *( "," name )
func (p *parser) selection() ([]cordon.Field, error) {
	var fields []cordon.Field
	if p.text == "*" {
		return nil, nil
	}
	err := p.names(func(name token) error {
		f, ok := p.schema.Lookup(name.text)
		if !ok {
			return unsupported("Could not find a property named '%s'. Those that can be used are %s.", excerpt(name.text), p.properties())
		}
		if !slices.Contains(fields, f.Name) {
			fields = append(fields, f.Name)
		}
		return nil
	})
	return fields, err
}

// names reads a list of names to the end. With each it calls read, which may
// read on from the token behind the name.
func (p *parser) names(read func(name token) error) error {
	for {
		if err := p.advance(); err != nil {
			return err
		}
		name := p.tok
		if name.kind != word {
			return p.expected("a property name")
		}
		if err := p.advance(); err != nil {
			return err
		}
		if err := read(name); err != nil {
			return err
		}
		switch {
		case p.tok.kind == end:
			return nil
		case !p.tok.is(","):
			return p.expected("',' or the end")
		}
	}
}

// count adds terms to the size of the filter.
func (p *parser) count(n int) error {
	if p.terms += n; p.terms > MaxTerms {
		return unsupported("The filter has more than %d comparisons, functions, nots and list values.", MaxTerms)
	}
	return nil
}

// expect steps over a punctuation mark.
func (p *parser) expect(mark string) error {
	if !p.tok.is(mark) {
		return p.expected("'" + mark + "'")
	}
	return p.advance()
}

// expected is the error about the token at hand, where what was wanted.
func (p *parser) expected(what string) error {
	found := "the end"
	if p.tok.kind != end {
		found = "'" + excerpt(p.tok.text) + "'"
	}
	return p.syntaxError(p.tok.pos, "expected %s, found %s", what, found)
}

// syntaxError is about the byte offset pos; it tells the position in
// characters, from 1.
func (p *parser) syntaxError(pos int, format string, args ...any) error {
	return malformed("Syntax error at position %d in '%s': %s.", utf8.RuneCountInString(p.text[:pos])+1, p.option, fmt.Sprintf(format, args...))
}

func (p *parser) wrongType(f cordon.FieldInfo, why string) error {
	return unsupported("'%s' %s.", p.nameOf(f), why)
}

// nameOf is what the caller calls f.
func (p *parser) nameOf(f cordon.FieldInfo) string {
	if f.Name == cordon.ElementField {
		return excerpt(p.element.name)
	}
	return string(f.Name)
}
