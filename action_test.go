package cordon_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/cordon-project/cordon"
)

var (
	t0   = time.Date(2026, 11, 21, 8, 0, 0, 100, time.UTC)
	soon = t0.Add(time.Minute)
	end  = t0.Add(72 * time.Hour)
)

// action returns a Pending action as a store opens it, changed by with.
func action(with ...func(*cordon.Action)) cordon.Action {
	a := cordon.ActionDraft{
		ID: "a1", Type: cordon.RestrictCodeExecution, Machine: "m1", Requestor: "SOAR", RequestorID: "app1",
		Comment: "ransomware", Source: "PublicApi", Created: t0, Expires: end,
	}.Open(7, "web.example.com")
	for _, w := range with {
		w(&a)
	}
	return a
}

func in(s cordon.Status) func(*cordon.Action) { return func(a *cordon.Action) { a.Status = s } }

func deliveredAt(t time.Time) func(*cordon.Action) {
	return func(a *cordon.Action) { a.Delivered = &t }
}

func withCancel(c cordon.Cancellation) func(*cordon.Action) {
	return func(a *cordon.Action) { a.Cancel = &c }
}

func ended(s cordon.Status, hresult int32, reason string, at time.Time) func(*cordon.Action) {
	return func(a *cordon.Action) { a.Status, a.ErrorHResult, a.Reason, a.Updated = s, hresult, reason, at }
}

func updated(at time.Time) func(*cordon.Action) { return func(a *cordon.Action) { a.Updated = at } }

var terminal = []cordon.Status{cordon.Succeeded, cordon.Failed, cordon.TimeOut, cordon.Cancelled}

func TestOpen(t *testing.T) {
	want := cordon.Action{
		ID: "a1", Type: "RestrictCodeExecution", Machine: "m1", DNSName: "web.example.com", Generation: 7,
		Requestor: "SOAR", RequestorID: "app1", Comment: "ransomware", Source: "PublicApi",
		Status: "Pending", Created: t0, Updated: t0, Expires: end,
	}
	if d := cmp.Diff(want, action()); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestTerminal(t *testing.T) {
	for _, s := range terminal {
		if !s.Terminal() {
			t.Errorf("%s is not terminal", s)
		}
	}
	for _, s := range []cordon.Status{cordon.Pending, cordon.InProgress} {
		if s.Terminal() {
			t.Errorf("%s is terminal", s)
		}
	}
}

func TestDeliver(t *testing.T) {
	for name, c := range map[string]struct {
		in   cordon.Action
		now  time.Time
		want cordon.Action
		code cordon.Code
	}{
		"first time":          {action(), soon, action(deliveredAt(soon)), ""},
		"again":               {action(deliveredAt(t0)), soon, action(deliveredAt(t0)), ""},
		"again while applied": {action(in(cordon.InProgress), deliveredAt(t0)), soon, action(in(cordon.InProgress), deliveredAt(t0)), ""},
		"in the last moment":  {action(), end.Add(-1), action(deliveredAt(end.Add(-1))), ""},
		"expired":             {action(), end, action(), cordon.CodeActionExpired},
		"again, expired":      {action(deliveredAt(t0)), end, action(deliveredAt(t0)), cordon.CodeActionExpired},
		"ended":               {action(in(cordon.Succeeded)), soon, action(in(cordon.Succeeded)), cordon.CodeActionFinal},
		"cancelled":           {action(in(cordon.Cancelled)), soon, action(in(cordon.Cancelled)), cordon.CodeActionFinal},
		"ended and expired":   {action(in(cordon.TimeOut)), end, action(in(cordon.TimeOut)), cordon.CodeActionFinal},
		"with a wish to cancel": {action(deliveredAt(t0), withCancel(cordon.Cancellation{})), soon,
			action(deliveredAt(t0), withCancel(cordon.Cancellation{})), ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := c.in.Deliver(c.now)
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
			checkError(t, err, cordon.Conflict, c.code)
		})
	}
}

func TestApply(t *testing.T) {
	sent := deliveredAt(t0)
	report := func(s cordon.ReportState, why string) cordon.Report {
		return cordon.Report{Machine: "m1", Action: "a1", Generation: 7, State: s, Error: why}
	}
	for name, c := range map[string]struct {
		in     cordon.Action
		report cordon.Report
		want   cordon.Action
	}{
		"begun":                 {action(sent), report("InProgress", ""), action(sent, in(cordon.InProgress), updated(soon))},
		"begun, said again":     {action(sent, in(cordon.InProgress)), report("InProgress", ""), action(sent, in(cordon.InProgress))},
		"done":                  {action(sent), report("Succeeded", ""), action(sent, ended(cordon.Succeeded, 0, "", soon))},
		"done after begun":      {action(sent, in(cordon.InProgress)), report("Succeeded", ""), action(sent, ended(cordon.Succeeded, 0, "", soon))},
		"failed":                {action(sent), report("Failed", "the canary ran"), action(sent, ended(cordon.Failed, -2147467259, "the canary ran", soon))},
		"cancelled":             {action(sent), report("Cancelled", "superseded"), action(sent, ended(cordon.Cancelled, -2147467260, "superseded", soon))},
		"refused":               {action(sent), report("Refused", "bad signature"), action(sent)},
		"refused, undelivered":  {action(), report("Refused", "bad signature"), action()},
		"done, carried by hand": {action(), report("Succeeded", ""), action(deliveredAt(soon), ended(cordon.Succeeded, 0, "", soon))},
		"a state not known":     {action(sent), report("Paused", ""), action(sent)},
	} {
		t.Run(name, func(t *testing.T) {
			if d := cmp.Diff(c.want, c.in.Apply(c.report, soon)); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
	for _, s := range terminal {
		for _, r := range []cordon.ReportState{"InProgress", "Succeeded", "Failed", "Cancelled", "Refused"} {
			a := action(sent, ended(s, 1, "as it was", t0))
			if d := cmp.Diff(a, a.Apply(report(r, "late"), soon)); d != "" {
				t.Errorf("%s after %s (-want +got):\n%s", r, s, d)
			}
		}
	}
}

func TestRequestCancel(t *testing.T) {
	first := cordon.Cancellation{RequestorID: "app2", Comment: "false alarm", At: soon}
	second := cordon.Cancellation{RequestorID: "app3", Comment: "me too", At: soon}
	cancelled := ended(cordon.Cancelled, -2147467260, "cancelled before it was delivered", soon)
	for name, c := range map[string]struct {
		in   cordon.Action
		with cordon.Cancellation
		want cordon.Action
		code cordon.Code
	}{
		"before delivery":   {action(), first, action(withCancel(first), cancelled), ""},
		"after delivery":    {action(deliveredAt(t0)), first, action(deliveredAt(t0), withCancel(first), updated(soon)), ""},
		"while applied":     {action(deliveredAt(t0), in(cordon.InProgress)), first, action(deliveredAt(t0), in(cordon.InProgress), withCancel(first), updated(soon)), ""},
		"a second time":     {action(deliveredAt(t0), withCancel(first)), second, action(deliveredAt(t0), withCancel(first)), ""},
		"when cancelled":    {action(withCancel(first), cancelled), second, action(withCancel(first), cancelled), ""},
		"when it is done":   {action(in(cordon.Succeeded)), first, action(in(cordon.Succeeded)), cordon.CodeActionFinal},
		"when it failed":    {action(in(cordon.Failed)), first, action(in(cordon.Failed)), cordon.CodeActionFinal},
		"when it timed out": {action(in(cordon.TimeOut)), first, action(in(cordon.TimeOut)), cordon.CodeActionFinal},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := c.in.RequestCancel(c.with, soon)
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
			checkError(t, err, cordon.Conflict, c.code)
		})
	}
}

func TestExpire(t *testing.T) {
	late := end.Add(cordon.DeliveredGrace)
	notFetched := ended(cordon.TimeOut, -2145844840, "the machine did not fetch it before it expired", end)
	notAnswered := ended(cordon.TimeOut, -2145844840, "delivered at 2026-11-21T08:00:00Z, the machine has not answered", late)
	sent := deliveredAt(t0)
	for name, c := range map[string]struct {
		in   cordon.Action
		now  time.Time
		want cordon.Action
	}{
		"not yet":                       {action(), end.Add(-1), action()},
		"not fetched":                   {action(), end, action(notFetched)},
		"delivered, within the grace":   {action(sent), late.Add(-1), action(sent)},
		"delivered, after the grace":    {action(sent), late, action(sent, notAnswered)},
		"begun, within the grace":       {action(sent, in(cordon.InProgress)), end, action(sent, in(cordon.InProgress))},
		"begun, after the grace":        {action(sent, in(cordon.InProgress)), late, action(sent, notAnswered)},
		"with a wish to cancel, unsent": {action(sent, withCancel(cordon.Cancellation{})), late, action(sent, withCancel(cordon.Cancellation{}), notAnswered)},
	} {
		t.Run(name, func(t *testing.T) {
			if d := cmp.Diff(c.want, c.in.Expire(c.now, cordon.DeliveredGrace)); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
	for _, s := range terminal {
		if a := action(ended(s, 1, "as it was", t0)); a.Expire(late, cordon.DeliveredGrace).Status != s {
			t.Errorf("%s became %s", s, a.Expire(late, cordon.DeliveredGrace).Status)
		}
	}
}

func TestOrderOfAction(t *testing.T) {
	want := cordon.Order{
		Machine: "m1", Action: "a1", Generation: 7, Type: "RestrictCodeExecution", Comment: "ransomware", Issued: soon, Expires: end,
	}
	if d := cmp.Diff(want, action().Order(soon)); d != "" {
		t.Errorf("restrict (-want +got):\n%s", d)
	}
	lift := action(func(a *cordon.Action) { a.Type = cordon.UnrestrictCodeExecution })
	want.Type = "UnrestrictCodeExecution"
	if d := cmp.Diff(want, lift.Order(soon)); d != "" {
		t.Errorf("unrestrict (-want +got):\n%s", d)
	}
	lift.Cancel = &cordon.Cancellation{RequestorID: "app2", Comment: "false alarm", At: soon}
	want.Type, want.Comment = "Cancel", "false alarm"
	if d := cmp.Diff(want, lift.Order(soon)); d != "" {
		t.Errorf("cancel (-want +got):\n%s", d)
	}
}

// Whatever is done to an action, in any order and at any time: it ends at most
// once, nothing of it changes after that, and the end is one that its history allows.
func TestActionEndsOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, now := action(), t0
		reported := map[cordon.ReportState]bool{}
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			now = now.Add(rapid.SampledFrom([]time.Duration{0, time.Second, time.Minute, 36 * time.Hour}).Draw(t, "pass"))
			before := a
			switch step := rapid.SampledFrom([]string{"deliver", "report", "cancel", "expire"}).Draw(t, "step"); step {
			case "deliver":
				a, _ = a.Deliver(now) // what is refused changes nothing
			case "report":
				r := cordon.Report{State: rapid.SampledFrom([]cordon.ReportState{"InProgress", "Succeeded", "Failed", "Cancelled", "Refused"}).Draw(t, "state")}
				reported[r.State] = true
				a = a.Apply(r, now)
			case "cancel":
				a, _ = a.RequestCancel(cordon.Cancellation{At: now}, now) // what is refused changes nothing
			case "expire":
				a = a.Expire(now, cordon.DeliveredGrace)
			}
			if before.Status.Terminal() && !cmp.Equal(before, a) {
				t.Fatalf("a terminal action changed: %s", cmp.Diff(before, a))
			}
			if before.Delivered != nil && a.Delivered == nil {
				t.Fatal("a delivered action became undelivered")
			}
			if before.Status == cordon.InProgress && a.Status == cordon.Pending {
				t.Fatal("an action went backwards")
			}
			if a.Updated.Before(before.Updated) || a.Status != before.Status && !a.Updated.Equal(now) {
				t.Fatalf("updated %s, then %s, now %s", before.Updated, a.Updated, now)
			}
		}
		switch a.Status {
		case cordon.Succeeded:
			if !reported["Succeeded"] || a.ErrorHResult != 0 || a.Reason != "" || a.Delivered == nil {
				t.Fatalf("cannot be: %+v", a)
			}
		case cordon.Failed:
			if !reported["Failed"] || a.ErrorHResult != cordon.HResultFailed || a.Delivered == nil {
				t.Fatalf("cannot be: %+v", a)
			}
		case cordon.Cancelled:
			if !reported["Cancelled"] && (a.Delivered != nil || a.Cancel == nil) || a.ErrorHResult != cordon.HResultCancelled {
				t.Fatalf("cannot be: %+v", a)
			}
		case cordon.TimeOut:
			if a.Updated.Before(a.Expires) || a.ErrorHResult != cordon.HResultTimeOut || a.Reason == "" {
				t.Fatalf("cannot be: %+v", a)
			}
		default:
			if a.ErrorHResult != 0 || a.Reason != "" {
				t.Fatalf("open, with an end: %+v", a)
			}
		}
	})
}

// checkError fails unless err is of this kind and code; code "" means no error.
func checkError(t *testing.T, err error, kind cordon.Kind, code cordon.Code) {
	t.Helper()
	if code == "" {
		if err != nil {
			t.Errorf("unexpected error: %v", err)
		}
		return
	}
	if cordon.KindOf(err) != kind || cordon.CodeOf(err) != code {
		t.Errorf("error %v (%v, %s), want %v, %s", err, cordon.KindOf(err), cordon.CodeOf(err), kind, code)
	}
}
