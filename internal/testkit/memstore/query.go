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
	return answer(q, s.machinesWhere(func(cordon.Machine) bool { return true }), machineRow)
}

func answer[T any](q cordon.Query, rows []T, row func(T) func(cordon.Field) cordon.Value) ([]T, int, error) {
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

func actionRow(a cordon.Action) func(cordon.Field) cordon.Value {
	return func(f cordon.Field) cordon.Value {
		switch f {
		case cordon.FieldID:
			return string(a.ID)
		case cordon.FieldType:
			return string(a.Type)
		case cordon.FieldStatus:
			return string(a.Status)
		case cordon.FieldMachineID:
			return string(a.Machine)
		case cordon.FieldRequestor:
			return a.Requestor
		case cordon.FieldCreated:
			return a.Created
		case cordon.FieldUpdated:
			return a.Updated
		}
		return nil
	}
}

func machineRow(m cordon.Machine) func(cordon.Field) cordon.Value {
	return func(f cordon.Field) cordon.Value {
		switch f {
		case cordon.FieldID:
			return string(m.ID)
		case cordon.FieldDNSName:
			return textOrNil(cordon.Fold(m.Facts.DNSName))
		case cordon.FieldDeviceID:
			return textOrNil(m.DeviceID)
		case cordon.FieldVersion:
			return textOrNil(m.Facts.OSVersion)
		case cordon.FieldLastSeen:
			return timeOrNil(m.LastSeen)
		case cordon.FieldLastIP:
			return textOrNil(m.Facts.LastIP)
		case cordon.FieldOSPlatform:
			return textOrNil(m.Facts.OSPlatform)
		}
		return nil // a field that a store does not keep is the same for all machines
	}
}

func textOrNil(s string) cordon.Value {
	if s == "" {
		return nil
	}
	return s
}

func timeOrNil(t time.Time) cordon.Value {
	if t.IsZero() {
		return nil
	}
	return t
}
