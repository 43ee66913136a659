package cordon_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/cordon-project/cordon"
)

func TestJudge(t *testing.T) {
	const me, other = cordon.MachineID("m1"), cordon.MachineID("m2")
	order := func(with ...func(*cordon.Order)) cordon.Order {
		o := cordon.Order{Machine: me, Action: "a7", Generation: 7, Type: cordon.RestrictOrder, Comment: "false alarm", Issued: t0, Expires: end}
		for _, w := range with {
			w(&o)
		}
		return o
	}
	generation := func(g uint64) func(*cordon.Order) { return func(o *cordon.Order) { o.Generation = g } }
	typ := func(t cordon.OrderType) func(*cordon.Order) { return func(o *cordon.Order) { o.Type = t } }
	at := func(g uint64, a cordon.ActionID) cordon.Standing {
		return cordon.Standing{Generation: g, Action: a, Mode: cordon.ModeOff, Outcome: cordon.ReportSucceeded}
	}
	for name, c := range map[string]struct {
		order    cordon.Order
		standing cordon.Standing
		now      time.Time
		want     cordon.Verdict
		why      string
	}{
		"first ever":          {order(), cordon.Standing{}, soon, cordon.Begin, ""},
		"next":                {order(), at(6, "a6"), soon, cordon.Begin, ""},
		"with a gap":          {order(), at(2, "a2"), soon, cordon.Begin, ""},
		"unrestrict":          {order(typ(cordon.UnrestrictOrder)), at(6, "a6"), soon, cordon.Begin, ""},
		"last moment":         {order(), at(6, "a6"), end.Add(-1), cordon.Begin, ""},
		"again":               {order(), at(7, "a7"), soon, cordon.Repeat, ""},
		"again, expired":      {order(), at(7, "a7"), end, cordon.Repeat, ""},
		"cancel, begun":       {order(typ(cordon.CancelOrder)), at(7, "a7"), soon, cordon.Repeat, ""},
		"older":               {order(), at(8, "a8"), soon, cordon.Supersede, "generation 8 is in force, which is newer than the order's 7"},
		"older, expired":      {order(), at(8, "a8"), end, cordon.Supersede, "generation 8 is in force, which is newer than the order's 7"},
		"cancel, older":       {order(typ(cordon.CancelOrder)), at(8, "a8"), soon, cordon.Supersede, "generation 8 is in force, which is newer than the order's 7"},
		"generation taken":    {order(), at(7, "b7"), soon, cordon.Supersede, "generation 7 was already taken up by action b7"},
		"cancel in time":      {order(typ(cordon.CancelOrder)), at(6, "a6"), soon, cordon.Forgo, "cancelled before the machine began: false alarm"},
		"cancel, expired":     {order(typ(cordon.CancelOrder)), at(6, "a6"), end, cordon.Refuse, "the order expired at 2026-11-24T08:00:00Z, it is 2026-11-24T08:00:00Z"},
		"expired":             {order(), at(6, "a6"), end.Add(time.Hour), cordon.Refuse, "the order expired at 2026-11-24T08:00:00Z, it is 2026-11-24T09:00:00Z"},
		"another machine's":   {order(func(o *cordon.Order) { o.Machine = other }), at(6, "a6"), soon, cordon.Refuse, "the order is for machine m2, this is m1"},
		"another's, again":    {order(func(o *cordon.Order) { o.Machine = other }), at(7, "a7"), soon, cordon.Refuse, "the order is for machine m2, this is m1"},
		"no generation":       {order(generation(0)), cordon.Standing{}, soon, cordon.Refuse, "the order names no generation or no action"},
		"no action":           {order(func(o *cordon.Order) { o.Action = "" }), at(6, "a6"), soon, cordon.Refuse, "the order names no generation or no action"},
		"nothing at all":      {cordon.Order{Machine: me}, cordon.Standing{}, soon, cordon.Refuse, "the order names no generation or no action"},
		"a type not known":    {order(typ("Isolate")), at(6, "a6"), soon, cordon.Refuse, `the order type "Isolate" is not known to this agent`},
		"type in wrong case":  {order(typ("restrictcodeexecution")), at(6, "a6"), soon, cordon.Refuse, `the order type "restrictcodeexecution" is not known to this agent`},
		"a type not known, 2": {order(typ("")), at(7, "a7"), soon, cordon.Refuse, `the order type "" is not known to this agent`},
	} {
		t.Run(name, func(t *testing.T) {
			got, why := cordon.Judge(me, c.standing, c.order, c.now)
			if got != c.want || why != c.why {
				t.Errorf("got %d %q, want %d %q", got, why, c.want, c.why)
			}
		})
	}
}

// What Judge lets begin is always for this machine, newer than what it stands
// at, of a known type, and not expired; and no order is begun or forgone twice.
func TestJudgeBeginsOnlyWhatIsNew(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ids := rapid.SampledFrom([]cordon.MachineID{"m1", "m2"})
		actions := rapid.SampledFrom([]cordon.ActionID{"", "a", "b"})
		me := ids.Draw(t, "me")
		s := cordon.Standing{Generation: rapid.Uint64Range(0, 3).Draw(t, "standing"), Action: actions.Draw(t, "standing's action")}
		o := cordon.Order{
			Machine: ids.Draw(t, "machine"), Action: actions.Draw(t, "action"), Generation: rapid.Uint64Range(0, 4).Draw(t, "generation"),
			Type:    rapid.SampledFrom([]cordon.OrderType{cordon.RestrictOrder, cordon.UnrestrictOrder, cordon.CancelOrder, "", "x"}).Draw(t, "type"),
			Expires: end,
		}
		now := rapid.SampledFrom([]time.Time{t0, end, end.Add(time.Hour)}).Draw(t, "now")
		verdict, why := cordon.Judge(me, s, o, now)
		if silent := verdict == cordon.Begin || verdict == cordon.Repeat; silent != (why == "") {
			t.Fatalf("verdict %d says %q", verdict, why)
		}
		if verdict != cordon.Begin && verdict != cordon.Forgo {
			return
		}
		if o.Machine != me || o.Generation <= s.Generation || o.Action == "" || !now.Before(o.Expires) || (verdict == cordon.Forgo) != (o.Type == cordon.CancelOrder) || o.Type == "" || o.Type == "x" {
			t.Fatalf("verdict %d for %+v at %+v, %s", verdict, o, s, now)
		}
		s.Generation, s.Action = o.Generation, o.Action
		if again, _ := cordon.Judge(me, s, o, now); again != cordon.Repeat {
			t.Fatalf("the second time it is %d", again)
		}
	})
}

func TestModeFor(t *testing.T) {
	for order, want := range map[cordon.OrderType]cordon.Mode{
		cordon.RestrictOrder: cordon.ModeEnforce, cordon.UnrestrictOrder: cordon.ModeOff,
	} {
		if got := order.ModeFor(); got != want {
			t.Errorf("%s: %s, want %s", order, got, want)
		}
	}
}
