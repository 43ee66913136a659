package sqlite

import (
	"context"
	"slices"
	"time"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/store/sqlite/compile"
	"github.com/cordon-project/cordon/internal/store/sqlite/engine"
)

var (
	actionSeq        = compile.Field{Type: cordon.TypeInt, SQL: "a.seq"}
	actionGeneration = compile.Field{Type: cordon.TypeInt, SQL: "a.generation"}
	actionCreated    = compile.Field{Type: cordon.TypeTime, SQL: "a.created"}
)

var actionsTable = compile.Table{
	Columns: actionColumns, From: "actions a", CountFrom: "actions a",
	Last: actionSeq, Way: actionsWay,
	Fields: map[cordon.Field]compile.Field{
		cordon.FieldID:        {Type: cordon.TypeString, SQL: "a.id"},
		cordon.FieldType:      {Type: cordon.TypeString, SQL: "a.type"},
		cordon.FieldStatus:    {Type: cordon.TypeString, SQL: "+a.status"}, // the plus: no index but where actionsWay says so
		cordon.FieldMachineID: machineField("a.machine"),
		cordon.FieldRequestor: {Type: cordon.TypeString, SQL: "a.requestor"},
		cordon.FieldCreated:   actionCreated,
		cordon.FieldUpdated:   {Type: cordon.TypeTime, SQL: "a.updated"},
	},
}

// actionsWay chooses between the indexes, because SQLite cannot know that some
// statuses are rare and others are almost everybody's, and that a machine has few
// actions. Those of one machine are "newest first" by generation, which their
// index has.
func actionsWay(q cordon.Query) compile.Way {
	w := compile.Way{Own: []compile.Key{{Field: actionCreated, Desc: true}, {Field: actionSeq, Desc: true}}}
	var machine bool
	var statuses []cordon.Value
	for _, e := range compile.Conjuncts(q.Filter) {
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
		w.Own = []compile.Key{{Field: actionGeneration, Desc: true}}
	}
	switch {
	case isOpen:
		w.Hint, w.Plain = "a."+open, true
	case machine:
		w.Plain = len(q.OrderBy) > 0
	case len(statuses) == 1 && byCreation:
		if status, ok := statuses[0].(string); ok {
			w.Hint, w.Args = "a."+ended+" AND a.status = ?", []any{status}
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

// machineField is a field whose column holds machine ids.
func machineField(column string) compile.Field {
	return compile.Field{Type: cordon.TypeString, SQL: "lower(hex(" + column + "))", Column: column,
		Stored: func(id string) (any, bool) { return machineKey(cordon.MachineID(id)) }}
}

// inactiveAfter is how long a machine may be silent and still be Active.
const inactiveAfter = 7 * 24 * time.Hour

var machineKeyField = machineField("m.id")

// machinesTable is the collection of machines at a time. What Cordon does not
// know of a machine has the value that Defender shows where it has nothing to say.
func machinesTable(now time.Time) compile.Table {
	return compile.Table{
		Columns: machineColumns, From: machineTables, CountFrom: "machines m",
		Last: machineKeyField, Way: func(cordon.Query) compile.Way { return compile.Way{Own: []compile.Key{{Field: machineKeyField}}} },
		Fields: map[cordon.Field]compile.Field{
			cordon.FieldID:         machineKeyField,
			cordon.FieldDNSName:    {Type: cordon.TypeString, SQL: "lower(m.dns_name)", Null: true},
			cordon.FieldVersion:    {Type: cordon.TypeString, SQL: "m.os_version", Null: true},
			cordon.FieldDeviceID:   {Type: cordon.TypeString, SQL: "m.device_id", Null: true},
			cordon.FieldLastSeen:   {Type: cordon.TypeTime, SQL: "m.last_seen"},
			cordon.FieldLastIP:     {Type: cordon.TypeString, SQL: "m.last_ip", Null: true},
			cordon.FieldOSPlatform: {Type: cordon.TypeString, SQL: "m.os_platform", Null: true},
			cordon.FieldHealthStatus: {Type: cordon.TypeString, SQL: "CASE WHEN m.last_seen < ? THEN 'Inactive' ELSE 'Active' END",
				Args: []any{cordon.Ticks(now.Add(-inactiveAfter))}},

			cordon.FieldDeviceValue:      {Type: cordon.TypeString, SQL: "m.device_value"},
			cordon.FieldExposureLevel:    {Type: cordon.TypeString, SQL: "'None'"},
			cordon.FieldRiskScore:        {Type: cordon.TypeString, SQL: "'None'"},
			cordon.FieldOnboardingStatus: {Type: cordon.TypeString, SQL: "'Onboarded'"},
			cordon.FieldGroupID:          {Type: cordon.TypeInt, SQL: "coalesce(m.group_id, 0)", Among: amongGroups},
			cordon.FieldTags:             {Type: cordon.TypeStringList, SQL: "m.id IN (SELECT t.machine FROM machine_tags t WHERE $)", Element: "t.tag"},
		},
	}
}

// list calls f with each row of the page that q asks for, which reads the table's
// columns, all as of one state of the database.
func (s *Store) list(ctx context.Context, t compile.Table, q cordon.Query, f func(*engine.Row)) (l cordon.Listing, err error) {
	answer, err := compile.Query(t, q)
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
			end = position(answer.Order, r)
		}
	}
	err = s.db.Read(ctx, func(c *engine.Conn) error {
		if !q.Count {
			return c.EachOnce(ctx, answer.Page.String(), take, answer.Page.Args...)
		}
		return c.Snapshot(func() error {
			err := c.EachOnce(ctx, answer.Total.String(), func(r *engine.Row) { l.Count = int(r.Number()) }, answer.Total.Args...)
			if err != nil {
				return err
			}
			return c.EachOnce(ctx, answer.Page.String(), take, answer.Page.Args...)
		})
	})
	return l, err
}

// position reads the columns behind those of the table.
func position(order []compile.Key, r *engine.Row) (p cordon.Position) {
	for _, k := range order {
		switch v := r.Value().(type) {
		case int64:
			if k.Type == cordon.TypeTime {
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

// ActionsPlan returns the steps by which SQLite answers a query for actions, in
// its own words (EXPLAIN QUERY PLAN), for those who ask why a list is slow.
func (s *Store) ActionsPlan(ctx context.Context, q cordon.Query) (steps []string, err error) {
	answer, err := compile.Query(actionsTable, q)
	if err != nil {
		return nil, err
	}
	err = s.db.Read(ctx, func(c *engine.Conn) error {
		return c.EachOnce(ctx, "EXPLAIN QUERY PLAN "+answer.Page.String(), func(r *engine.Row) {
			for range 3 {
				r.Value() // the numbers of the step
			}
			steps = append(steps, r.Text())
		}, answer.Page.Args...)
	})
	return steps, err
}
