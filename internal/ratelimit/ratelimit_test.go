package ratelimit_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/cordon-project/cordon/internal/ratelimit"
)

type limit = ratelimit.Limit

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// clock is set by tests.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: noon} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

func TestDecide(t *testing.T) {
	two := limit{Burst: 2, Period: time.Minute}
	for name, tt := range map[string]struct {
		tat  time.Time
		want ratelimit.Decision
	}{
		"never used":            {time.Time{}, ratelimit.Decision{Allowed: true, Remaining: 1, TAT: noon.Add(30 * time.Second)}},
		"full":                  {noon, ratelimit.Decision{Allowed: true, Remaining: 1, TAT: noon.Add(30 * time.Second)}},
		"full for long":         {noon.Add(-time.Hour), ratelimit.Decision{Allowed: true, Remaining: 1, TAT: noon.Add(30 * time.Second)}},
		"not quite full":        {noon.Add(1), ratelimit.Decision{Allowed: true, TAT: noon.Add(30*time.Second + 1)}},
		"room for one":          {noon.Add(30 * time.Second), ratelimit.Decision{Allowed: true, TAT: noon.Add(time.Minute)}},
		"a nanosecond too soon": {noon.Add(30*time.Second + 1), ratelimit.Decision{RetryAfter: 1, TAT: noon.Add(30*time.Second + 1)}},
		"empty":                 {noon.Add(time.Minute), ratelimit.Decision{RetryAfter: 30 * time.Second, TAT: noon.Add(time.Minute)}},
		"clock went back":       {noon.Add(time.Hour), ratelimit.Decision{RetryAfter: 30 * time.Second, TAT: noon.Add(time.Minute)}},
	} {
		if diff := cmp.Diff(tt.want, two.Decide(noon, tt.tat)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestIntervalErrsOnTheStrictSide(t *testing.T) {
	for l, want := range map[limit]time.Duration{
		{Burst: 100, Period: time.Minute}: 600 * time.Millisecond,
		{Burst: 1500, Period: time.Hour}:  2400 * time.Millisecond,
		{Burst: 7, Period: time.Minute}:   8571428572,
	} {
		if got := l.Interval(); got != want {
			t.Errorf("interval of %s is %d ns, want %d", l, got, want)
		}
	}
}

func TestCheck(t *testing.T) {
	for l, good := range map[limit]bool{
		{Burst: 1, Period: time.Second}:                          true,
		{Burst: ratelimit.MaxBurst, Period: ratelimit.MaxPeriod}: true,
		{Burst: 0, Period: time.Minute}:                          false,
		{Burst: -1, Period: time.Minute}:                         false,
		{Burst: ratelimit.MaxBurst + 1, Period: time.Minute}:     false,
		{Burst: 1}: false,
		{Burst: 1, Period: ratelimit.MinPeriod - 1}: false,
		{Burst: 1, Period: ratelimit.MaxPeriod + 1}: false,
	} {
		if err := l.Check(); (err == nil) != good {
			t.Errorf("%v: %v", l, err)
		}
	}
}

func TestString(t *testing.T) {
	for l, want := range map[limit]string{
		{Burst: 45, Period: time.Minute}:                  "45 per 00:01:00",
		{Burst: 1500, Period: time.Hour}:                  "1500 per 01:00:00",
		{Burst: 3, Period: 23*time.Hour + 90*time.Second}: "3 per 23:01:30",
		{Burst: 9, Period: 24 * time.Hour}:                "9 per 24:00:00",
	} {
		if got := l.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestWholeSeconds(t *testing.T) {
	for wait, want := range map[time.Duration]time.Duration{
		0: time.Second, 1: time.Second, time.Second: time.Second, time.Second + 1: 2 * time.Second,
		59*time.Second + time.Millisecond: time.Minute,
	} {
		if got := ratelimit.WholeSeconds(wait); got != want {
			t.Errorf("%v is told as %v, want %v", wait, got, want)
		}
	}
}

func drawLimit(t *rapid.T, label string) limit {
	l := limit{
		Burst:  rapid.IntRange(1, 12).Draw(t, label+" burst"),
		Period: time.Duration(rapid.Int64Range(int64(ratelimit.MinPeriod), int64(2*time.Hour)).Draw(t, label+" period")),
	}
	if err := l.Check(); err != nil {
		t.Fatal(err)
	}
	return l
}

// drawStep draws a time to pass: often none, one interval give or take a
// nanosecond, or anything up to more than the period.
func drawStep(t *rapid.T, l limit) time.Duration {
	switch rapid.IntRange(0, 3).Draw(t, "kind of step") {
	case 0:
		return 0
	case 1:
		return l.Interval() + time.Duration(rapid.Int64Range(-1, 1).Draw(t, "off"))
	case 2:
		return time.Duration(rapid.Int64Range(0, int64(l.Interval())).Draw(t, "part of an interval"))
	}
	return time.Duration(rapid.Int64Range(0, int64(l.Period+l.Period/4)).Draw(t, "step"))
}

// overdrawn looks for a span of time in which more than the limit, and extra
// ones, were allowed. The times are in order.
func overdrawn(l limit, allowed []time.Time, extra int) error {
	for i := range allowed {
		for j := i; j < len(allowed); j++ {
			span := allowed[j].Sub(allowed[i])
			if n, most := j-i+1, l.Burst+int(span/l.Interval())+extra; n > most {
				return fmt.Errorf("%d requests in %v, allowed by %v are %d", n, span, l, most)
			}
		}
	}
	return nil
}

// TestDecideNeverAllowsMore also says that nothing is refused which the limit
// would bear: a request is refused only if allowing it would overdraw some span.
func TestDecideNeverAllowsMore(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := drawLimit(t, "limit")
		now, tat := noon, time.Time{}
		var allowed []time.Time
		for range rapid.IntRange(1, 60).Draw(t, "requests") {
			now = now.Add(drawStep(t, l))
			d := l.Decide(now, tat)
			tat = d.TAT
			with := append(allowed[:len(allowed):len(allowed)], now)
			err := overdrawn(l, with, 0)
			if d.Allowed != (err == nil) {
				t.Fatalf("allowed is %v, but: %v", d.Allowed, err)
			}
			if d.Allowed {
				allowed = with
			}
		}
	})
}

func TestDecideTellsTheExactWait(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := drawLimit(t, "limit")
		now, tat := noon, time.Time{}
		for range rapid.IntRange(1, 40).Draw(t, "requests") {
			now = now.Add(drawStep(t, l))
			d := l.Decide(now, tat)
			tat = d.TAT
			if d.Allowed {
				for range d.Remaining {
					if d = l.Decide(now, d.TAT); !d.Allowed {
						t.Fatal("less was allowed than remained")
					}
				}
				if d = l.Decide(now, d.TAT); d.Allowed {
					t.Fatal("more was allowed than remained")
				}
			}
			if d.RetryAfter <= 0 || d.RetryAfter > l.Interval() {
				t.Fatalf("the wait is %v, the interval %v", d.RetryAfter, l.Interval())
			}
			if l.Decide(now.Add(d.RetryAfter-1), d.TAT).Allowed {
				t.Fatalf("allowed a nanosecond before the %v were over", d.RetryAfter)
			}
			if !l.Decide(now.Add(d.RetryAfter), d.TAT).Allowed {
				t.Fatalf("refused although the %v were over", d.RetryAfter)
			}
		}
	})
}

// TestDecideWhenTheClockGoesBack lets the clock err while true time passes. By
// true time no more is allowed than the limit, as long as the clock does not also
// gain time; and an interval after the clock went back the bucket has room again.
func TestDecideWhenTheClockGoesBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := drawLimit(t, "limit")
		truth, err, tat := noon, time.Duration(0), time.Time{}
		var allowed []time.Time
		for range rapid.IntRange(1, 60).Draw(t, "requests") {
			truth = truth.Add(drawStep(t, l))
			if rapid.IntRange(0, 4).Draw(t, "goes back") == 0 {
				err -= time.Duration(rapid.Int64Range(0, int64(3*time.Hour)).Draw(t, "by"))
			}
			now := truth.Add(err)
			d := l.Decide(now, tat)
			if tat = d.TAT; d.Allowed {
				allowed = append(allowed, truth)
			}
			if !l.Decide(now.Add(l.Interval()), tat).Allowed {
				t.Fatalf("still refused %v after %+v", l.Interval(), d)
			}
		}
		if err := overdrawn(l, allowed, 0); err != nil {
			t.Fatal(err)
		}
	})
}
