package memstore

import (
	"context"
	"slices"
	"time"

	"github.com/cordon-project/cordon"
)

// Actions implements [cordon.Store].
func (s *Store) Actions(_ context.Context, q cordon.Query) ([]cordon.Action, int, error) {
	rows := s.actionsWhere(func(cordon.Action) bool { return true })
	slices.Reverse(rows)
	slices.SortStableFunc(rows, func(a, b cordon.Action) int { return b.Created.Compare(a.Created) })
	return answer(q, rows, actionRow)
}

// Machines implements [cordon.Store].
func (s *Store) Machines(_ context.Context, q cordon.Query) ([]cordon.Machine, int, error) {
	now := time.Now()
	if s.Now != nil {
		now = s.Now()
	}
	return answer(q, s.machinesWhere(func(cordon.Machine) bool { return true }), func(m cordon.Machine) func(cordon.Field) cordon.Value {
		return machineRow(m, now)
	})
}

func answer[T any](q cordon.Query, rows []T, row func(T) func(cordon.Field) cordon.Value) ([]T, int, error) {
	var none T
	if err := check(q, row(none)); err != nil {
		return nil, 0, err
	}
	rows = slices.DeleteFunc(rows, func(r T) bool { return !cordon.Holds(q.Filter, row(r)) })
	count := 0
	if q.Count {
		count = len(rows)
	}
	slices.SortStableFunc(rows, func(a, b T) int { return cordon.CompareRows(q.OrderBy, row(a), row(b)) })
	rows = rows[min(q.Skip, len(rows)):]
	if q.HasTop {
		rows = rows[:min(q.Top, len(rows))]
	}
	return rows, count, nil
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
		// What Cordon does not know is what Defender shows where it has nothing to say.
		case cordon.FieldExposureLevel, cordon.FieldRiskScore:
			return "None"
		case cordon.FieldOnboardingStatus:
			return "Onboarded"
		case cordon.FieldGroupID:
			return int64(0)
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
