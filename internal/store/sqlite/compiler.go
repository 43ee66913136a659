package sqlite

import (
	"fmt"
	"strings"
	"time"

	"github.com/cordon-project/cordon"
)

// compiler writes SQL and collects its arguments. Every condition that it
// writes is 0 or 1, never NULL, so that NOT means what [cordon.Holds] says, and
// needs no parentheses around it to be joined or negated.
type compiler struct {
	fields map[cordon.Field]field
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

func (c *compiler) orderBy(keys []cordon.Sort, last string) error {
	c.write(" ORDER BY ")
	for _, k := range keys {
		f, err := c.field(k.Field)
		if err != nil {
			return err
		}
		if f.typ == cordon.TypeStringList {
			return cordon.Errorf(cordon.Invalid, cordon.CodeInvalidQuery, "The property %s cannot be used in $orderby", k.Field)
		}
		c.write(f.sql, f.args...) // NULL comes first, and last in reverse order
		if k.Desc {
			c.write(" DESC")
		}
		c.write(", ")
	}
	c.write(last)
	return nil
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
		return failure(fmt.Errorf("compile condition: %T is not known", e))
	}
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
		c.where(f, ok, comparisons[e.Op], arg)
	default:
		return failure(fmt.Errorf("compile condition: operator %d is not known", e.Op))
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
		return failure(fmt.Errorf("compile condition: match %d is not known", e.Kind))
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
