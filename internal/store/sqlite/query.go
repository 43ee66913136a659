package sqlite

import (
	"context"
	"slices"
	"time"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/store/sqlite/engine"
)

// table is a collection as queries see it.
type table struct {
	columns, from string // of a page
	countFrom     string // of its filter alone
	fields        map[cordon.Field]field
	last          field // decides where the keys of a query leave the order open; no two rows have the same
	way           func(cordon.Query) way
}

// way is how a page of a collection is best found.
type way struct {
	own   []key  // the collection's own order
	hint  string // a condition that the filter implies and an index can answer, or empty
	args  []any  // of hint
	plain bool   // few rows match: they are to be sorted, and no index to be gone through in order
}

// key is a key of an order. Its field is never a list.
type key struct {
	field
	desc bool
}

func keyOf(f field, desc bool) key {
	if f.column != "" {
		f.sql = f.column
	}
	return key{f, desc}
}

// field is a field of a collection.
type field struct {
	typ  cordon.Type
	null bool   // may be NULL
	sql  string // its value, in the form in which queries see it
	args []any  // of sql
	// element is the value of one element of a list, whose sql is then a condition:
	// that there is an element for which the condition at $ holds.
	element string
	// column, if set, is that of a machine id, of which sql shows the hexadecimal
	// digits. It is in the same order, and indexes have it.
	column string
	// among, if set, writes that the field is one of some values in a way that
	// can be answered from an index, where sql itself cannot.
	among func(c *compiler, values []any)
}

var (
	actionSeq        = field{typ: cordon.TypeInt, sql: "a.seq"}
	actionGeneration = field{typ: cordon.TypeInt, sql: "a.generation"}
	actionCreated    = field{typ: cordon.TypeTime, sql: "a.created"}
)

var actionsTable = table{
	columns: actionColumns, from: "actions a", countFrom: "actions a",
	last: actionSeq, way: actionsWay,
	fields: map[cordon.Field]field{
		cordon.FieldID:        {typ: cordon.TypeString, sql: "a.id"},
		cordon.FieldType:      {typ: cordon.TypeString, sql: "a.type"},
		cordon.FieldStatus:    {typ: cordon.TypeString, sql: "+a.status"}, // the plus: no index but where actionsWay says so
		cordon.FieldMachineID: {typ: cordon.TypeString, sql: "lower(hex(a.machine))", column: "a.machine", among: amongMachines("a.machine")},
		cordon.FieldRequestor: {typ: cordon.TypeString, sql: "a.requestor"},
		cordon.FieldCreated:   actionCreated,
		cordon.FieldUpdated:   {typ: cordon.TypeTime, sql: "a.updated"},
	},
}

// actionsWay chooses between the indexes, because SQLite cannot know that some
// statuses are rare and others are almost everybody's, and that a machine has few
// actions. Those of one machine are "newest first" by generation, which their
// index has.
func actionsWay(q cordon.Query) way {
	w := way{own: []key{{actionCreated, true}, {actionSeq, true}}}
	var machine bool
	var statuses []cordon.Value
	for _, e := range terms(q.Filter, conjunction) {
		field, values := equals(e)
		switch field {
		case cordon.FieldMachineID:
			machine = machine || len(values) == 1
		case cordon.FieldStatus:
			statuses = values
		}
	}
	isOpen := len(statuses) > 0 && !slices.ContainsFunc(statuses, isNotOpen)
	byCreation := len(q.OrderBy) == 0 || q.OrderBy[0].Field == cordon.FieldCreated
	if machine {
		w.own = []key{{actionGeneration, true}}
	}
	switch {
	case isOpen:
		w.hint, w.plain = "a."+open, true
	case machine:
		w.plain = len(q.OrderBy) > 0
	case len(statuses) == 1 && byCreation:
		if status, ok := statuses[0].(string); ok {
			w.hint, w.args = "a."+ended+" AND a.status = ?", []any{status}
		}
	}
	return w
}

// equals returns the field that a condition compares with values, if it does.
func equals(e cordon.Expr) (cordon.Field, []cordon.Value) {
	switch e := e.(type) {
	case cordon.Compare:
		if e.Op == cordon.Eq {
			return e.Field, []cordon.Value{e.Value}
		}
	case cordon.In:
		return e.Field, e.Values
	}
	return "", nil
}

func isNotOpen[V any](v V) bool {
	s, ok := any(v).(string)
	return !ok || cordon.Status(s) != cordon.Pending && cordon.Status(s) != cordon.InProgress
}

// amongMachines is for a column that holds machine ids.
func amongMachines(column string) func(*compiler, []any) {
	return func(c *compiler, values []any) {
		var keys []any
		for _, v := range values {
			if key, ok := machineKey(cordon.MachineID(v.(string))); ok {
				keys = append(keys, key)
			}
		}
		c.write(column)
		c.list(keys)
	}
}

// inactiveAfter is how long a machine may be silent and still be Active.
const inactiveAfter = 7 * 24 * time.Hour

var machineKeyField = field{typ: cordon.TypeString, sql: "lower(hex(m.id))", column: "m.id", among: amongMachines("m.id")}

// machinesTable is the collection of machines at a time. What Cordon does not
// know of a machine has the value that Defender shows where it has nothing to say.
func machinesTable(now time.Time) table {
	return table{
		columns: machineColumns, from: machineTables, countFrom: "machines m",
		last: machineKeyField, way: func(cordon.Query) way { return way{own: []key{keyOf(machineKeyField, false)}} },
		fields: map[cordon.Field]field{
			cordon.FieldID:         machineKeyField,
			cordon.FieldDNSName:    {typ: cordon.TypeString, sql: "lower(m.dns_name)", null: true},
			cordon.FieldVersion:    {typ: cordon.TypeString, sql: "m.os_version", null: true},
			cordon.FieldDeviceID:   {typ: cordon.TypeString, sql: "m.device_id", null: true},
			cordon.FieldLastSeen:   {typ: cordon.TypeTime, sql: "m.last_seen"},
			cordon.FieldLastIP:     {typ: cordon.TypeString, sql: "m.last_ip", null: true},
			cordon.FieldOSPlatform: {typ: cordon.TypeString, sql: "m.os_platform", null: true},
			cordon.FieldHealthStatus: {typ: cordon.TypeString, sql: "CASE WHEN m.last_seen < ? THEN 'Inactive' ELSE 'Active' END",
				args: []any{cordon.Ticks(now.Add(-inactiveAfter))}},

			cordon.FieldDeviceValue:      {typ: cordon.TypeString, sql: "m.device_value"},
			cordon.FieldExposureLevel:    {typ: cordon.TypeString, sql: "'None'"},
			cordon.FieldRiskScore:        {typ: cordon.TypeString, sql: "'None'"},
			cordon.FieldOnboardingStatus: {typ: cordon.TypeString, sql: "'Onboarded'"},
			cordon.FieldGroupID:          {typ: cordon.TypeInt, sql: "coalesce(m.group_id, 0)", among: amongGroups},
			cordon.FieldTags:             {typ: cordon.TypeStringList, sql: "m.id IN (SELECT t.machine FROM machine_tags t WHERE $)", element: "t.tag"},
		},
	}
}

// list calls f with each row of the page that q asks for, which reads the table's
// columns, all as of one state of the database.
func (s *Store) list(ctx context.Context, t table, q cordon.Query, f func(*engine.Row)) (l cordon.Listing, err error) {
	total, page, order, err := compile(t, q)
	if err != nil {
		return l, err
	}
	var end cordon.Position
	rows := 0
	take := func(r *engine.Row) {
		if rows++; q.HasTop && rows > q.Top {
			l.Next = end
			return
		}
		f(r)
		if rows == q.Top {
			end = position(order, r)
		}
	}
	err = s.db.Read(ctx, func(c *engine.Conn) error {
		if !q.Count {
			return c.EachOnce(ctx, page.sql.String(), take, page.args...)
		}
		return c.Snapshot(func() error {
			err := c.EachOnce(ctx, total.sql.String(), func(r *engine.Row) { l.Count = int(r.Number()) }, total.args...)
			if err != nil {
				return err
			}
			return c.EachOnce(ctx, page.sql.String(), take, page.args...)
		})
	})
	return l, err
}

// position reads the columns behind those of the table.
func position(order []key, r *engine.Row) (p cordon.Position) {
	for _, k := range order {
		switch v := r.Value().(type) {
		case int64:
			if k.typ == cordon.TypeTime {
				p = append(p, cordon.TimeOfTicks(v))
			} else {
				p = append(p, v)
			}
		case []byte:
			p = append(p, string(machineID(v)))
		default:
			p = append(p, v)
		}
	}
	return p
}

// compile returns the query for the number of rows that q's filter lets
// through, and the one for the page, with its order. A page has the table's
// columns and the keys of the order, and one row more than was asked for, to
// show that there is one.
func compile(t table, q cordon.Query) (total, page *compiler, order []key, err error) {
	w := t.way(q)
	where := func(behind *key) (*compiler, error) {
		c := &compiler{fields: t.fields, behind: behind}
		err := c.condition(q.Filter)
		if w.hint != "" {
			c.write(" AND "+w.hint, w.args...)
		}
		return c, err
	}
	total, page = &compiler{}, &compiler{fields: t.fields}
	if order, err = page.order(t, w, q.OrderBy); err != nil {
		return nil, nil, nil, err
	}
	all, err := where(nil)
	if err != nil {
		return nil, nil, nil, err
	}
	total.write("SELECT count(*) FROM " + t.countFrom)
	if q.Filter != nil { // SQLite can count without looking at each row
		total.write(" WHERE "+all.sql.String(), all.args...)
	}
	if q.After != nil {
		if all, err = where(&order[0]); err != nil {
			return nil, nil, nil, err
		}
	}
	page.write("SELECT " + t.columns)
	for _, k := range order {
		page.write(", "+k.sql, k.args...)
	}
	page.write(" FROM "+t.from+" WHERE "+all.sql.String(), all.args...)
	if q.After != nil {
		page.write(" AND ")
		if err := page.after(order, q.After); err != nil {
			return nil, nil, nil, err
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
	page.write(" LIMIT ? OFFSET ?", top, int64(q.Skip))
	return total, page, order, nil
}

// ActionsPlan returns the steps by which SQLite answers a query for actions, in
// its own words (EXPLAIN QUERY PLAN), for those who ask why a list is slow.
func (s *Store) ActionsPlan(ctx context.Context, q cordon.Query) (steps []string, err error) {
	_, page, _, err := compile(actionsTable, q)
	if err != nil {
		return nil, err
	}
	err = s.db.Read(ctx, func(c *engine.Conn) error {
		return c.EachOnce(ctx, "EXPLAIN QUERY PLAN "+page.sql.String(), func(r *engine.Row) {
			for range 3 {
				r.Value() // the numbers of the step
			}
			steps = append(steps, r.Text())
		}, page.args...)
	})
	return steps, err
}
