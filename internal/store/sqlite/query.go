package sqlite

import (
	"context"
	"slices"
	"time"

	"github.com/cordon-project/cordon"
)

// table is a collection as queries see it.
type table struct {
	columns, from string // of a page
	countFrom     string // of its filter alone
	fields        map[cordon.Field]field
	order         func(filter cordon.Expr) string // the collection's own order
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
	// among, if set, writes that the field is one of some strings in a way that
	// can be answered from an index, where sql itself cannot.
	among func(c *compiler, values []any)
}

var actionsTable = table{
	columns: actionColumns, from: "actions a", countFrom: "actions a", order: actionsOrder,
	fields: map[cordon.Field]field{
		cordon.FieldID:        {typ: cordon.TypeString, sql: "a.id"},
		cordon.FieldType:      {typ: cordon.TypeString, sql: "a.type"},
		cordon.FieldStatus:    {typ: cordon.TypeString, sql: "a.status", among: amongStatuses},
		cordon.FieldMachineID: {typ: cordon.TypeString, sql: "lower(hex(a.machine))", among: amongMachines("a.machine")},
		cordon.FieldRequestor: {typ: cordon.TypeString, sql: "a.requestor"},
		cordon.FieldCreated:   {typ: cordon.TypeTime, sql: "a.created"},
		cordon.FieldUpdated:   {typ: cordon.TypeTime, sql: "a.updated"},
	},
}

// actionsOrder is "newest first", said so that SQLite takes the right way. The
// actions of one machine are in the same order by generation, which their index
// has. Open actions are few: it is better to sort them (the plus keeps SQLite
// from going through all actions in order) than to search for them.
func actionsOrder(filter cordon.Expr) string {
	order := "a.seq DESC"
	for _, e := range terms(filter, conjunction) {
		var field cordon.Field
		var values []cordon.Value
		switch e := e.(type) {
		case cordon.Compare:
			if e.Op == cordon.Eq {
				field, values = e.Field, []cordon.Value{e.Value}
			}
		case cordon.In:
			field, values = e.Field, e.Values
		}
		switch {
		case field == cordon.FieldMachineID && len(values) == 1:
			return "a.generation DESC"
		case field == cordon.FieldStatus && !slices.ContainsFunc(values, isNotOpen):
			order = "+a.seq DESC"
		}
	}
	return order
}

func isNotOpen[V any](v V) bool {
	s, ok := any(v).(string)
	return !ok || cordon.Status(s) != cordon.Pending && cordon.Status(s) != cordon.InProgress
}

func amongStatuses(c *compiler, values []any) {
	if !slices.ContainsFunc(values, isNotOpen) {
		c.write("a." + open + " AND ")
	}
	c.write("a.status")
	c.list(values)
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

// machinesTable is the collection of machines at a time. What Cordon does not
// know of a machine has the value that Defender shows where it has nothing to say.
func machinesTable(now time.Time) table {
	return table{
		columns: machineColumns, from: machineTables, countFrom: "machines m", order: func(cordon.Expr) string { return "m.id" },
		fields: map[cordon.Field]field{
			cordon.FieldID:         {typ: cordon.TypeString, sql: "lower(hex(m.id))", among: amongMachines("m.id")},
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
			cordon.FieldGroupID:          {typ: cordon.TypeInt, sql: "CAST(0 AS INTEGER)"}, // a bare number would order by that column
			cordon.FieldTags:             {typ: cordon.TypeStringList, sql: "m.id IN (SELECT t.machine FROM machine_tags t WHERE $)", element: "t.tag"},
		},
	}
}

// list calls f with each row of the page that q asks for, and returns the number
// of rows that its filter lets through if q asks for that, all as of one state
// of the database.
func (s *Store) list(ctx context.Context, t table, q cordon.Query, f func(*row)) (count int, err error) {
	total, page, err := compile(t, q)
	if err != nil {
		return 0, err
	}
	err = s.read(ctx, func(c *conn) (err error) {
		if !q.Count {
			return c.eachOnce(ctx, page.sql.String(), f, page.args...)
		}
		if _, err := c.exec("BEGIN"); err != nil {
			return err
		}
		defer func() {
			if _, e := c.exec("ROLLBACK"); err == nil {
				err = e
			}
		}()
		err = c.eachOnce(ctx, total.sql.String(), func(r *row) { count = int(r.number()) }, total.args...)
		if err != nil {
			return err
		}
		return c.eachOnce(ctx, page.sql.String(), f, page.args...)
	})
	return count, err
}

// compile returns the query for the number of rows that q's filter lets
// through, and the one for the page.
func compile(t table, q cordon.Query) (total, page *compiler, err error) {
	where := compiler{fields: t.fields}
	if err := where.condition(q.Filter); err != nil {
		return nil, nil, err
	}
	total, page = &compiler{}, &compiler{fields: t.fields}
	total.write("SELECT count(*) FROM "+t.countFrom+" WHERE "+where.sql.String(), where.args...)
	page.write("SELECT "+t.columns+" FROM "+t.from+" WHERE "+where.sql.String(), where.args...)
	if err := page.orderBy(q.OrderBy, t.order(q.Filter)); err != nil {
		return nil, nil, err
	}
	top := int64(-1) // no limit
	if q.HasTop {
		top = int64(q.Top)
	}
	page.write(" LIMIT ? OFFSET ?", top, int64(q.Skip))
	return total, page, nil
}
