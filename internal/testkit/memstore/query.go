package memstore

import (
	"context"
	"reflect"
	"slices"
	"time"

	"github.com/cordon-project/cordon"
)

// place is the field that decides where the keys of a query leave the order open.
const place cordon.Field = "$place"

// Actions implements [cordon.Store].
func (s *Store) Actions(_ context.Context, q cordon.Query) ([]cordon.Action, cordon.Listing, error) {
	rows := s.actionsWhere(func(cordon.Action) bool { return true })
	places := make(map[cordon.ActionID]int64, len(rows))
	for i, a := range rows {
		places[a.ID] = int64(i)
	}
	return answer(q, rows, []cordon.Sort{{Field: cordon.FieldCreated, Desc: true}, {Field: place, Desc: true}}, func(a cordon.Action) func(cordon.Field) cordon.Value {
		row := actionRow(a)
		return func(f cordon.Field) cordon.Value {
			if f == place {
				return places[a.ID]
			}
			return row(f)
		}
	})
}

// Machines implements [cordon.Store].
func (s *Store) Machines(_ context.Context, q cordon.Query) ([]cordon.Machine, cordon.Listing, error) {
	now := time.Now()
	if s.Now != nil {
		now = s.Now()
	}
	return answer(q, s.machinesWhere(func(cordon.Machine) bool { return true }), []cordon.Sort{{Field: place}}, func(m cordon.Machine) func(cordon.Field) cordon.Value {
		row := machineRow(m, now)
		return func(f cordon.Field) cordon.Value {
			if f == place {
				f = cordon.FieldID
			}
			return row(f)
		}
	})
}

// answer is the answer to q. own is the collection's own order.
func answer[T any](q cordon.Query, rows []T, own []cordon.Sort, row func(T) func(cordon.Field) cordon.Value) (page []T, l cordon.Listing, err error) {
	var none T
	if err := check(q, row(none)); err != nil {
		return nil, l, err
	}
	order := own
	if n := len(q.OrderBy); n > 0 {
		order = append(slices.Clone(q.OrderBy), cordon.Sort{Field: place, Desc: q.OrderBy[n-1].Desc})
	}
	rows = slices.DeleteFunc(rows, func(r T) bool { return !cordon.Holds(q.Filter, row(r)) })
	if q.Count {
		l.Count = len(rows)
	}
	slices.SortFunc(rows, func(a, b T) int { return cordon.CompareRows(order, row(a), row(b)) })
	if q.After != nil {
		if !isPosition(q.After, order, row(none)) {
			return nil, cordon.Listing{}, cordon.NoPosition()
		}
		at := func(f cordon.Field) cordon.Value {
			return q.After[slices.IndexFunc(order, func(s cordon.Sort) bool { return s.Field == f })]
		}
		rows = slices.DeleteFunc(rows, func(r T) bool { return cordon.CompareRows(order, at, row(r)) >= 0 })
	}
	rows = rows[min(q.Skip, len(rows)):]
	if q.HasTop && q.Top < len(rows) {
		rows = rows[:q.Top]
		if q.Top > 0 {
			for _, s := range order {
				l.Next = append(l.Next, row(rows[q.Top-1])(s.Field))
			}
		}
	}
	return rows, l, nil
}

// isPosition reports whether the values of p are such as rows may have. In none,
// the row that has nothing, null stands for texts that may be missing.
func isPosition(p cordon.Position, order []cordon.Sort, none func(cordon.Field) cordon.Value) bool {
	if len(p) != len(order) {
		return false
	}
	for i, s := range order {
		want := none(s.Field)
		if want == nil {
			if p[i] == nil {
				continue
			}
			want = ""
		}
		if reflect.TypeOf(p[i]) != reflect.TypeOf(want) {
			return false
		}
	}
	return true
}

// unknown is what a row has in a field that it does not have.
type unknown struct{}

// check finds a field that rows do not have, as a store would that compiles queries.
func check(q cordon.Query, row func(cordon.Field) cordon.Value) error {
	fields := named(q.Filter)
	for _, s := range q.OrderBy {
		fields = append(fields, s.Field)
	}
	for _, f := range fields {
		if row(f) == (unknown{}) {
			return cordon.Errorf(cordon.Invalid, cordon.CodeInvalidQuery, "The property %s cannot be used in $filter or $orderby", f)
		}
	}
	return nil
}

// named returns the fields that a condition names.
func named(e cordon.Expr) []cordon.Field {
	switch e := e.(type) {
	case cordon.And:
		return append(named(e.X), named(e.Y)...)
	case cordon.Or:
		return append(named(e.X), named(e.Y)...)
	case cordon.Not:
		return named(e.X)
	case cordon.Compare:
		return []cordon.Field{e.Field}
	case cordon.In:
		return []cordon.Field{e.Field}
	case cordon.Match:
		return []cordon.Field{e.Field}
	case cordon.Any:
		return []cordon.Field{e.Field}
	}
	return nil
}

func actionRow(a cordon.Action) func(cordon.Field) cordon.Value {
	return func(f cordon.Field) cordon.Value {
		switch f {
		case cordon.FieldID:
			return cordon.Fold(string(a.ID))
		case cordon.FieldType:
			return string(a.Type)
		case cordon.FieldStatus:
			return string(a.Status)
		case cordon.FieldMachineID:
			return cordon.Fold(string(a.Machine))
		case cordon.FieldRequestor:
			return a.Requestor
		case cordon.FieldCreated:
			return a.Created
		case cordon.FieldUpdated:
			return a.Updated
		}
		return unknown{}
	}
}

// inactiveAfter is how long a machine may be silent and still be Active, as at
// Defender.
const inactiveAfter = 7 * 24 * time.Hour

func machineRow(m cordon.Machine, now time.Time) func(cordon.Field) cordon.Value {
	return func(f cordon.Field) cordon.Value {
		switch f {
		case cordon.FieldID:
			return cordon.Fold(string(m.ID))
		case cordon.FieldDNSName:
			return textOrNil(cordon.Fold(m.Facts.DNSName))
		case cordon.FieldDeviceID:
			return textOrNil(cordon.Fold(m.DeviceID))
		case cordon.FieldVersion:
			return textOrNil(m.Facts.OSVersion)
		case cordon.FieldLastSeen:
			return m.LastSeen
		case cordon.FieldLastIP:
			return textOrNil(m.Facts.LastIP)
		case cordon.FieldOSPlatform:
			return textOrNil(m.Facts.OSPlatform)
		case cordon.FieldHealthStatus:
			if now.Sub(m.LastSeen) > inactiveAfter {
				return "Inactive"
			}
			return "Active"
		case cordon.FieldDeviceValue:
			return string(m.Value)
		case cordon.FieldTags:
			tags := make([]string, len(m.Tags))
			for i, tag := range m.Tags {
				tags[i] = cordon.Fold(tag)
			}
			return tags
		case cordon.FieldGroupID:
			return m.Group.ID
		// What Cordon does not know is what Defender shows where it has nothing to say.
		case cordon.FieldExposureLevel, cordon.FieldRiskScore:
			return "None"
		case cordon.FieldOnboardingStatus:
			return "Onboarded"
		}
		return unknown{}
	}
}

func textOrNil(s string) cordon.Value {
	if s == "" {
		return nil
	}
	return s
}
