package compile

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
	SQL
	fields map[cordon.Field]Field
	behind *Key // the first key, if the page begins behind a position
}

const (
	yes = "1"
	no  = "0"
)

func (c *compiler) field(name cordon.Field) (Field, error) {
	f, ok := c.fields[name]
	if !ok {
		return f, cordon.Errorf(cordon.Invalid, cordon.CodeInvalidQuery, "The property %s cannot be used in $filter or $orderby", name)
	}
	return f, nil
}

func (c *compiler) condition(e cordon.Expr) error {
	switch e := e.(type) {
	case nil:
		c.Write(yes)
		return nil
	case cordon.And:
		return c.join(" AND ", Conjuncts(e))
	case cordon.Or:
		return c.join(" OR ", terms(e, disjunction))
	case cordon.Not:
		c.Write("NOT ")
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

// Conjuncts returns the conditions that must hold for e to hold, in order: e
// itself, or what the And that it is joins.
func Conjuncts(e cordon.Expr) []cordon.Expr { return terms(e, conjunction) }

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
	c.Write("(")
	if err := c.join(op, terms[:len(terms)/2]); err != nil {
		return err
	}
	c.Write(op)
	err := c.join(op, terms[len(terms)/2:])
	c.Write(")")
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
		c.Write("NOT ")
		c.among(f, e.Value)
	case cordon.Lt, cordon.Le, cordon.Gt, cordon.Ge:
		arg, ok := argument(f.Type, e.Value)
		if c.behind != nil && f.SQL == c.behind.SQL && c.behind.Desc == (e.Op == cordon.Lt || e.Op == cordon.Le) {
			// The position bounds the field more closely. The plus keeps SQLite from
			// taking this bound instead, and walking from there to the position.
			f.SQL = "+" + f.SQL
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
func (c *compiler) among(f Field, values ...cordon.Value) {
	var args []any
	null := false
	for _, v := range values {
		if arg, ok := argument(f.Type, v); ok {
			args = append(args, arg)
		}
		null = null || v == nil && f.Null
	}
	c.Write("(")
	if null {
		c.Write(f.SQL+" IS NULL OR ", f.Args...)
	}
	switch {
	case len(args) == 0:
		c.Write(no)
	case f.Among != nil:
		f.Among(&c.SQL, args)
	case f.Column != "":
		var stored []any
		for _, arg := range args {
			if v, ok := f.Stored(arg.(string)); ok {
				stored = append(stored, v)
			}
		}
		c.Write(f.Column)
		c.In(stored)
	default:
		if f.Null {
			c.Write(f.SQL+" IS NOT NULL AND ", f.Args...)
		}
		c.Write(f.SQL, f.Args...)
		c.In(args)
	}
	c.Write(")")
}

func (c *compiler) match(e cordon.Match) error {
	f, err := c.field(e.Field)
	if err != nil {
		return err
	}
	isString := f.Type == cordon.TypeString
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
func (c *compiler) where(f Field, ok bool, condition string, args ...any) {
	if !ok {
		c.Write(no)
		return
	}
	c.Write("(")
	if f.Null {
		c.Write(f.SQL+" IS NOT NULL AND ", f.Args...)
	}
	for _, part := range condition {
		switch part {
		case '$':
			c.Write(f.SQL, f.Args...)
		case '?':
			c.Write("?", args[0])
			args = args[1:]
		default:
			c.text.WriteRune(part)
		}
	}
	c.Write(")")
}

// any writes a condition on the elements of a list.
func (c *compiler) any(e cordon.Any) error {
	f, err := c.field(e.Field)
	if err == nil && f.Type != cordon.TypeStringList {
		err = cordon.Errorf(cordon.Invalid, cordon.CodeInvalidQuery, "The property %s is not a list", e.Field)
	}
	if err != nil {
		return err
	}
	element := compiler{fields: map[cordon.Field]Field{cordon.ElementField: {Type: cordon.TypeString, SQL: f.Element}}}
	if err := element.condition(e.X); err != nil {
		return err
	}
	before, behind, _ := strings.Cut(f.SQL, "$")
	c.Write(before+element.String()+behind, element.Args...)
	return nil
}
