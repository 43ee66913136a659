package sqlite

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cordon-project/cordon"
)

// compiler writes SQL and collects its arguments. Every condition that it
// writes is 0 or 1, never NULL, so that NOT means what [cordon.Holds] says, and
// needs no parentheses around it to be joined or negated.
type compiler struct {
	fields map[cordon.Field]field
	behind *key // the first key, if the page begins behind a position
	sql    strings.Builder
	args   []any
}

const (
	yes = "1"
	no  = "0"
)

// write appends SQL and its arguments.
func (c *compiler) write(sql string, args ...any) {
	c.sql.WriteString(sql)
	c.args = append(c.args, args...)
}

func (c *compiler) field(name cordon.Field) (field, error) {
	f, ok := c.fields[name]
	if !ok {
		return f, cordon.Errorf(cordon.Invalid, cordon.CodeInvalidQuery, "The property %s cannot be used in $filter or $orderby", name)
	}
	return f, nil
}

// order returns the keys of a page: those that the query names and what decides
// behind them, or the table's own.
func (c *compiler) order(t table, w way, by []cordon.Sort) (order []key, err error) {
	order = w.own
	if len(by) > 0 {
		order = nil
		for _, s := range by {
			f, err := c.field(s.Field)
			if err != nil {
				return nil, err
			}
			if f.typ == cordon.TypeStringList {
				return nil, cordon.Errorf(cordon.Invalid, cordon.CodeInvalidQuery, "The property %s cannot be used in $orderby", s.Field)
			}
			order = append(order, keyOf(f, s.Desc))
		}
		order = append(order, keyOf(t.last, by[len(by)-1].Desc))
	}
	if w.plain {
		order = slices.Clone(order)
		for i := range order {
			order[i].sql = "+" + order[i].sql
		}
	}
	return order, nil
}

func (c *compiler) orderBy(order []key) {
	for i, k := range order {
		c.write([]string{" ORDER BY ", ", "}[min(i, 1)])
		c.write(k.sql, k.args...) // NULL comes first, and last in reverse order
		if k.desc {
			c.write(" DESC")
		}
	}
}

// after writes that a row comes behind a position. Other than conditions this
// may be NULL instead of false, and must not be negated.
func (c *compiler) after(order []key, p cordon.Position) error {
	if len(p) != len(order) {
		return cordon.NoPosition()
	}
	args := make([]any, len(p))
	together := true // can be compared as one
	for i, k := range order {
		var ok bool
		if args[i], ok = argument(k.typ, p[i]); ok && k.column != "" {
			args[i], ok = machineKey(cordon.MachineID(p[i].(string)))
		}
		if !ok && (p[i] != nil || !k.null) {
			return cordon.NoPosition()
		}
		together = together && !k.null && k.desc == order[0].desc
	}
	if together { // as SQLite can answer it from an index
		c.write("(")
		for i, k := range order {
			c.write([]string{"", ", "}[min(i, 1)])
			c.write(k.sql, k.args...)
		}
		c.write(") "+order[0].onwards()+" ("+strings.TrimSuffix(strings.Repeat("?, ", len(args)), ", ")+")", args...)
		return nil
	}
	for i, k := range order {
		c.write("(")
		switch {
		case args[i] != nil:
			c.write(k.sql, k.args...)
			c.write(" "+k.onwards()+" ?", args[i])
			if k.null && k.desc {
				c.write(" OR "+k.sql+" IS NULL", k.args...)
			}
		case k.desc: // behind NULL there is nothing
			c.write(no)
		default:
			c.write(k.sql+" IS NOT NULL", k.args...)
		}
		if i < len(order)-1 {
			c.write(" OR "+k.sql, k.args...)
			c.write(" IS ? AND ", args[i])
		}
	}
	c.write(strings.Repeat(")", len(order)))
	return nil
}

// onwards compares what comes later in the order with what comes before.
func (k key) onwards() string {
	if k.desc {
		return "<"
	}
	return ">"
}

func (c *compiler) condition(e cordon.Expr) error {
	switch e := e.(type) {
	case nil:
		c.write(yes)
		return nil
	case cordon.And:
		return c.join(" AND ", terms(e, conjunction))
	case cordon.Or:
		return c.join(" OR ", terms(e, disjunction))
	case cordon.Not:
		c.write("NOT ")
		return c.condition(e.X)
	case cordon.Compare:
		return c.compare(e)
	case cordon.In:
		return c.in(e)
	case cordon.Match:
		return c.match(e)
	case cordon.Any:
		return c.any(e)
	default:
		return unknown("%T is not known", e)
	}
}

// unknown is the error of a part of an expression that nobody has taught this
// package.
func unknown(format string, args ...any) error {
	return &cordon.Error{Kind: cordon.Internal, Message: "The database failed", Err: fmt.Errorf("compile condition: "+format, args...)}
}

func conjunction(e cordon.Expr) (x, y cordon.Expr, ok bool) {
	a, ok := e.(cordon.And)
	return a.X, a.Y, ok
}

func disjunction(e cordon.Expr) (x, y cordon.Expr, ok bool) {
	o, ok := e.(cordon.Or)
	return o.X, o.Y, ok
}

// terms returns what a chain of one operator joins, in order.
func terms(e cordon.Expr, split func(cordon.Expr) (x, y cordon.Expr, ok bool)) []cordon.Expr {
	x, y, ok := split(e)
	if !ok {
		return []cordon.Expr{e}
	}
	return append(terms(x, split), terms(y, split)...)
}

// join writes terms as a balanced tree: SQLite refuses expressions that are more
// than 1000 levels deep, which a plain chain would be.
func (c *compiler) join(op string, terms []cordon.Expr) error {
	if len(terms) == 1 {
		return c.condition(terms[0])
	}
	c.write("(")
	if err := c.join(op, terms[:len(terms)/2]); err != nil {
		return err
	}
	c.write(op)
	err := c.join(op, terms[len(terms)/2:])
	c.write(")")
	return err
}

// argument returns v as the database holds values of type t, and whether it is
// of that type at all.
func argument(t cordon.Type, v cordon.Value) (any, bool) {
	switch v := v.(type) {
	case string:
		return v, t == cordon.TypeString
	case int64:
		return v, t == cordon.TypeInt
	case time.Time:
		return cordon.Ticks(v), t == cordon.TypeTime
	}
	return nil, false
}

var comparisons = [...]string{cordon.Lt: "$ < ?", cordon.Le: "$ <= ?", cordon.Gt: "$ > ?", cordon.Ge: "$ >= ?"}

func (c *compiler) compare(e cordon.Compare) error {
	f, err := c.field(e.Field)
	if err != nil {
		return err
	}
	switch e.Op {
	case cordon.Eq:
		c.among(f, e.Value)
	case cordon.Ne:
		c.write("NOT ")
		c.among(f, e.Value)
	case cordon.Lt, cordon.Le, cordon.Gt, cordon.Ge:
		arg, ok := argument(f.typ, e.Value)
		if c.behind != nil && f.sql == c.behind.sql && c.behind.desc == (e.Op == cordon.Lt || e.Op == cordon.Le) {
			// The position bounds the field more closely. The plus keeps SQLite from
			// taking this bound instead, and walking from there to the position.
			f.sql = "+" + f.sql
		}
		c.where(f, ok, comparisons[e.Op], arg)
	default:
		return unknown("operator %d is not known", e.Op)
	}
	return nil
}

func (c *compiler) in(e cordon.In) error {
	f, err := c.field(e.Field)
	if err == nil {
		c.among(f, e.Values...)
	}
	return err
}

// among writes that f equals one of the values.
func (c *compiler) among(f field, values ...cordon.Value) {
	var args []any
	null := false
	for _, v := range values {
		if arg, ok := argument(f.typ, v); ok {
			args = append(args, arg)
		}
		null = null || v == nil && f.null
	}
	c.write("(")
	if null {
		c.write(f.sql+" IS NULL OR ", f.args...)
	}
	switch {
	case len(args) == 0:
		c.write(no)
	case f.among != nil:
		f.among(c, args)
	default:
		if f.null {
			c.write(f.sql+" IS NOT NULL AND ", f.args...)
		}
		c.write(f.sql, f.args...)
		c.list(args)
	}
	c.write(")")
}

// list writes that what stands before it is one of the arguments.
func (c *compiler) list(args []any) {
	c.write(" IN ("+strings.TrimSuffix(strings.Repeat("?, ", len(args)), ", ")+")", args...)
}

func (c *compiler) match(e cordon.Match) error {
	f, err := c.field(e.Field)
	if err != nil {
		return err
	}
	isString := f.typ == cordon.TypeString
	end, bounded := after(e.Text)
	switch {
	case e.Kind == cordon.StartsWith && bounded:
		// One range in the order of bytes. A function would stop at a NUL, and
		// could not be answered from an index.
		c.where(f, isString, "$ >= ? AND $ < ?", e.Text, end)
	case e.Kind == cordon.EndsWith && e.Text != "":
		c.where(f, isString, "substr(CAST($ AS BLOB), ?) = ?", int64(-len(e.Text)), []byte(e.Text))
	case e.Kind <= cordon.Contains:
		c.where(f, isString, "instr($, ?) > 0", e.Text)
	default:
		return unknown("match %d is not known", e.Kind)
	}
	return nil
}

// after returns the smallest string that is greater than all that begin with
// prefix. There is none if prefix is empty.
func after(prefix string) (string, bool) {
	b := []byte(prefix)
	for len(b) > 0 {
		if b[len(b)-1]++; b[len(b)-1] != 0 {
			return string(b), true
		}
		b = b[:len(b)-1] // it was 0xff
	}
	return "", false
}

// where writes a condition on f, which a null does not fulfil. In the condition
// $ stands for the field and ? for the next argument. If not ok, nothing fulfils it.
func (c *compiler) where(f field, ok bool, condition string, args ...any) {
	if !ok {
		c.write(no)
		return
	}
	c.write("(")
	if f.null {
		c.write(f.sql+" IS NOT NULL AND ", f.args...)
	}
	for _, part := range condition {
		switch part {
		case '$':
			c.write(f.sql, f.args...)
		case '?':
			c.write("?", args[0])
			args = args[1:]
		default:
			c.sql.WriteRune(part)
		}
	}
	c.write(")")
}

// any writes a condition on the elements of a list.
func (c *compiler) any(e cordon.Any) error {
	f, err := c.field(e.Field)
	if err == nil && f.typ != cordon.TypeStringList {
		err = cordon.Errorf(cordon.Invalid, cordon.CodeInvalidQuery, "The property %s is not a list", e.Field)
	}
	if err != nil {
		return err
	}
	element := compiler{fields: map[cordon.Field]field{cordon.ElementField: {typ: cordon.TypeString, sql: f.element}}}
	if err := element.condition(e.X); err != nil {
		return err
	}
	before, behind, _ := strings.Cut(f.sql, "$")
	c.write(before+element.sql.String()+behind, element.args...)
	return nil
}
