package mdeapi

import (
	"time"

	"github.com/cordon-project/cordon"
)

// fixed are the members of Defender's Machine that clients filter by and that
// are the same for every machine of Cordon: what it does not judge. Each holds
// what a machine at Defender has about which there is nothing to say.
var fixed = map[cordon.Field]cordon.Value{
	cordon.FieldRiskScore:        "None",
	cordon.FieldExposureLevel:    "None",
	cordon.FieldOnboardingStatus: "Onboarded",
}

// The values of healthStatus. A machine is Inactive when it was not seen for
// inactiveAfter, as at Defender. LastSeen of a connected machine is never older
// than a minute or two.
const (
	active        = "Active"
	inactive      = "Inactive"
	inactiveAfter = 7 * 24 * time.Hour
)

// activeSince is the time at or after which an active machine was seen. It is a
// whole tick, so that it divides machines as a store does that keeps ticks.
func activeSince(now time.Time) time.Time { return now.Add(-inactiveAfter).Truncate(cordon.Tick) }

// forStore rewrites a query about machines as clients see them into one about
// machines as a store keeps them: without the fixed members, and with the time
// that a machine was last seen instead of its health. (Ordered by health,
// machines are therefore also ordered by that time.)
func forStore(q cordon.Query, now time.Time) cordon.Query {
	q.Filter = kept(q.Filter, activeSince(now))
	var order []cordon.Sort
	for _, s := range q.OrderBy {
		if _, ok := fixed[s.Field]; ok {
			continue
		}
		if s.Field == cordon.FieldHealthStatus { // Active comes before Inactive
			s = cordon.Sort{Field: cordon.FieldLastSeen, Desc: !s.Desc}
		}
		order = append(order, s)
	}
	q.OrderBy = order
	return q
}

// kept is the condition of [forStore]. A nil condition is true of every row.
func kept(e cordon.Expr, since time.Time) cordon.Expr {
	switch e := e.(type) {
	case cordon.And:
		x, y := kept(e.X, since), kept(e.Y, since)
		switch {
		case isNever(x) || y == nil:
			return x
		case isNever(y) || x == nil:
			return y
		}
		return cordon.And{X: x, Y: y}
	case cordon.Or:
		x, y := kept(e.X, since), kept(e.Y, since)
		switch {
		case x == nil || isNever(y):
			return x
		case y == nil || isNever(x):
			return y
		}
		return cordon.Or{X: x, Y: y}
	case cordon.Not:
		x := kept(e.X, since)
		switch {
		case x == nil:
			return never
		case isNever(x):
			return nil
		}
		return cordon.Not{X: x}
	case cordon.Compare:
		return keptField(e, e.Field, since)
	case cordon.In:
		return keptField(e, e.Field, since)
	case cordon.Match:
		return keptField(e, e.Field, since)
	case cordon.Any:
		return keptField(e, e.Field, since)
	}
	return e
}

// keptField is the condition of [forStore] for one on a single field.
func keptField(e cordon.Expr, f cordon.Field, since time.Time) cordon.Expr {
	holds := func(v cordon.Value) bool { return cordon.Holds(e, func(cordon.Field) cordon.Value { return v }) }
	if v, ok := fixed[f]; ok {
		return constant(holds(v))
	}
	if f != cordon.FieldHealthStatus {
		return e
	}
	whenActive, whenInactive := holds(active), holds(inactive)
	seen := cordon.Compare{Field: cordon.FieldLastSeen, Op: cordon.Ge, Value: since}
	switch {
	case whenActive == whenInactive:
		return constant(whenActive)
	case whenActive:
		return seen
	default:
		return cordon.Not{X: seen}
	}
}

// never is a condition that is true of no row.
var never = cordon.In{Field: cordon.FieldID}

func isNever(e cordon.Expr) bool {
	in, ok := e.(cordon.In)
	return ok && len(in.Values) == 0
}

func constant(holds bool) cordon.Expr {
	if holds {
		return nil
	}
	return never
}
