package compile

import (
	"cmp"
	"slices"
	"strings"

	"github.com/cordon-project/cordon"
)

// order returns the keys of a page: those that the query names and what decides
// behind them, or the table's own.
func (c *compiler) order(t Table, w Way, by []cordon.Sort) (order []Key, err error) {
	order = slices.Clone(w.Own)
	if len(by) > 0 {
		order = nil
		for _, s := range by {
			f, err := c.field(s.Field)
			if err != nil {
				return nil, err
			}
			if f.Type == cordon.TypeStringList {
				return nil, cordon.Errorf(cordon.Invalid, cordon.CodeInvalidQuery, "The property %s cannot be used in $orderby", s.Field)
			}
			order = append(order, Key{f, s.Desc})
		}
		order = append(order, Key{t.Last, by[len(by)-1].Desc})
	}
	for i := range order {
		k := &order[i]
		k.SQL = cmp.Or(k.Column, k.SQL)
		if w.Plain {
			k.SQL = "+" + k.SQL
		}
	}
	return order, nil
}

func (c *compiler) orderBy(order []Key) {
	for i, k := range order {
		c.Write([]string{" ORDER BY ", ", "}[min(i, 1)])
		c.Write(k.SQL, k.Args...) // NULL comes first, and last in reverse order
		if k.Desc {
			c.Write(" DESC")
		}
	}
}

// after writes that a row comes behind a position. Other than conditions this
// may be NULL instead of false, and must not be negated.
func (c *compiler) after(order []Key, p cordon.Position) error {
	if len(p) != len(order) {
		return cordon.NoPosition()
	}
	args := make([]any, len(p))
	together := true // can be compared as one
	for i, k := range order {
		var ok bool
		if args[i], ok = argument(k.Type, p[i]); ok && k.Column != "" {
			args[i], ok = k.Stored(p[i].(string))
		}
		if !ok && (p[i] != nil || !k.Null) {
			return cordon.NoPosition()
		}
		together = together && !k.Null && k.Desc == order[0].Desc
	}
	if together { // as SQLite can answer it from an index
		c.Write("(")
		for i, k := range order {
			c.Write([]string{"", ", "}[min(i, 1)])
			c.Write(k.SQL, k.Args...)
		}
		c.Write(") "+order[0].onwards()+" ("+strings.TrimSuffix(strings.Repeat("?, ", len(args)), ", ")+")", args...)
		return nil
	}
	for i, k := range order {
		c.Write("(")
		switch {
		case args[i] != nil:
			c.Write(k.SQL, k.Args...)
			c.Write(" "+k.onwards()+" ?", args[i])
			if k.Null && k.Desc {
				c.Write(" OR "+k.SQL+" IS NULL", k.Args...)
			}
		case k.Desc: // behind NULL there is nothing
			c.Write(no)
		default:
			c.Write(k.SQL+" IS NOT NULL", k.Args...)
		}
		if i < len(order)-1 {
			c.Write(" OR "+k.SQL, k.Args...)
			c.Write(" IS ? AND ", args[i])
		}
	}
	c.Write(strings.Repeat(")", len(order)))
	return nil
}

// onwards compares what comes later in the order with what comes before.
func (k Key) onwards() string {
	if k.Desc {
		return "<"
	}
	return ">"
}
