// Package compile writes the SQL that answers a [cordon.Query], for a collection
// of which it is told the tables and the columns. It asks no database anything.
//
// It promises that the SQL means what [cordon.Holds] and [cordon.CompareRows]
// say, that what callers send is in the arguments and never in the text, and that
// SQLite can answer from its indexes what a [Way] says that it can.
package compile

import (
	"strings"

	"github.com/cordon-project/cordon"
)

// Table is a collection as queries see it.
type Table struct {
	Columns, From string // of a page
	CountFrom     string // of its filter alone
	Fields        map[cordon.Field]Field
	Last          Field // decides where the keys of a query leave the order open; no two rows have the same
	Way           func(cordon.Query) Way
}

// Way is how a page of a collection is best found.
type Way struct {
	Own   []Key  // the collection's own order
	Hint  string // a condition that the filter implies and an index can answer, or empty
	Args  []any  // of Hint
	Plain bool   // few rows match: they are to be sorted, and no index to be gone through in order
}

// Key is a key of an order. Its field is never a list.
type Key struct {
	Field
	Desc bool
}

// Field is a field of a collection.
type Field struct {
	Type cordon.Type
	Null bool   // may be NULL
	SQL  string // its value, in the form in which queries see it
	Args []any  // of SQL
	// Element is the value of one element of a list, whose SQL is then a condition:
	// that there is an element for which the condition at $ holds.
	Element string
	// Column, if set, is one of which SQL shows the values in another form. It is in
	// the same order, and indexes have it.
	Column string
	// Stored returns what Column has for a value, if it can have it at all.
	Stored func(string) (any, bool)
	// Among, if set, writes that the field is one of some values in a way that
	// can be answered from an index, where neither SQL nor Column can.
	Among func(s *SQL, values []any)
}

// SQL is text with its arguments. The zero value is empty.
type SQL struct {
	text strings.Builder
	Args []any // of all that was written, in order
}

// Write appends text and its arguments.
func (s *SQL) Write(text string, args ...any) {
	s.text.WriteString(text)
	s.Args = append(s.Args, args...)
}

// In writes that what stands before it is one of the arguments.
func (s *SQL) In(args []any) {
	s.Write(" IN ("+strings.TrimSuffix(strings.Repeat("?, ", len(args)), ", ")+")", args...)
}

// String returns the text.
func (s *SQL) String() string { return s.text.String() }

// Answer is what a [cordon.Query] asks for.
type Answer struct {
	// Total counts the rows that the filter lets through.
	Total *SQL
	// Page has the table's columns and behind them a column for each key of Order,
	// and one row more than was asked for, to show that there is one.
	Page  *SQL
	Order []Key
}

// Query compiles q for t. What t does not have is an error of kind Invalid.
func Query(t Table, q cordon.Query) (*Answer, error) {
	w := t.Way(q)
	where := func(behind *Key) (*compiler, error) {
		c := &compiler{fields: t.Fields, behind: behind}
		err := c.condition(q.Filter)
		if w.Hint != "" {
			c.Write(" AND "+w.Hint, w.Args...)
		}
		return c, err
	}
	total, page := &compiler{}, &compiler{fields: t.Fields}
	order, err := page.order(t, w, q.OrderBy)
	if err != nil {
		return nil, err
	}
	all, err := where(nil)
	if err != nil {
		return nil, err
	}
	total.Write("SELECT count(*) FROM " + t.CountFrom)
	if q.Filter != nil { // SQLite can count without looking at each row
		total.Write(" WHERE "+all.String(), all.Args...)
	}
	if q.After != nil {
		if all, err = where(&order[0]); err != nil {
			return nil, err
		}
	}
	page.Write("SELECT " + t.Columns)
	for _, k := range order {
		page.Write(", "+k.SQL, k.Args...)
	}
	page.Write(" FROM "+t.From+" WHERE "+all.String(), all.Args...)
	if q.After != nil {
		page.Write(" AND ")
		if err := page.after(order, q.After); err != nil {
			return nil, err
		}
	}
	page.orderBy(order)
	top := int64(-1) // no limit
	switch {
	case q.HasTop && q.Top > 0:
		top = int64(q.Top) + 1
	case q.HasTop:
		top = 0
	}
	page.Write(" LIMIT ? OFFSET ?", top, int64(q.Skip))
	return &Answer{&total.SQL, &page.SQL, order}, nil
}
