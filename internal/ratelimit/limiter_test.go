package ratelimit_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/cordon-project/cordon/internal/ratelimit"
)

type bucket = ratelimit.Bucket

// minute and hour are Defender's limits.
var (
	minute = limit{Burst: 100, Period: time.Minute}
	hour   = limit{Burst: 1500, Period: time.Hour}
)

func newLimiter(c *clock, room int) (*ratelimit.Limiter, *ratelimit.Memory) {
	m := ratelimit.NewMemory(c.now, room)
	return &ratelimit.Limiter{Store: m}, m
}

func of(id string, limits ...limit) []bucket {
	var buckets []bucket
	for _, l := range limits {
		buckets = append(buckets, bucket{Name: "api", ID: id, Limit: l})
	}
	return buckets
}

type fataler interface {
	Helper()
	Fatal(...any)
}

func take(t fataler, l *ratelimit.Limiter, b []bucket) ratelimit.Verdict {
	t.Helper()
	v, err := l.Take(context.Background(), b...)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func peek(t fataler, l *ratelimit.Limiter, b []bucket) ratelimit.Verdict {
	t.Helper()
	v, err := l.Peek(context.Background(), b...)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// takeAll takes until it is refused, and returns how many were allowed.
func takeAll(t fataler, l *ratelimit.Limiter, b []bucket) int {
	t.Helper()
	n := 0
	for take(t, l, b).Allowed {
		if n++; n > 1_000_000 {
			t.Fatal("there is no end to it")
		}
	}
	return n
}

func TestAllLimitsHoldTogether(t *testing.T) {
	c := newClock()
	l, _ := newLimiter(c, 100)
	app := of("app", minute, hour)
	var allowed int
	for range 60 {
		allowed += takeAll(t, l, app)
		c.add(time.Minute)
	}
	// 1,500 at once and 25 for each minute that has passed, but never more than 100 a minute.
	if want := 1500 + 59*25; allowed != want {
		t.Errorf("%d requests were allowed in an hour, want %d", allowed, want)
	}
}

func TestARefusalIsChargedToNone(t *testing.T) {
	c := newClock()
	l, _ := newLimiter(c, 100)
	small := limit{Burst: 2, Period: time.Second}
	if n := takeAll(t, l, of("app", minute, small)); n != 2 {
		t.Fatalf("%d were allowed, want 2", n)
	}
	for range 500 {
		take(t, l, of("app", minute, small))
	}
	if v := take(t, l, of("app", minute)); !v.Allowed || v.Remaining != 97 {
		t.Errorf("the other limit says %+v, want 97 remaining after 3", v)
	}
}

func TestVerdict(t *testing.T) {
	c := newClock()
	l, _ := newLimiter(c, 100)
	a, b := limit{Burst: 3, Period: 3 * time.Second}, limit{Burst: 4, Period: time.Minute}
	var got []ratelimit.Verdict
	for range 4 {
		got = append(got, take(t, l, of("x", a, b)))
	}
	c.add(time.Second)
	got = append(got, take(t, l, of("x", a, b)), take(t, l, of("x", a, b)), take(t, l, of("x", b, a)))
	want := []ratelimit.Verdict{
		{Allowed: true, Remaining: 2, Limit: a},
		{Allowed: true, Remaining: 1, Limit: a},
		{Allowed: true, Remaining: 0, Limit: a},
		{RetryAfter: time.Second, Limit: a},
		{Allowed: true, Remaining: 0, Limit: a},
		{RetryAfter: 14 * time.Second, Limit: b}, // both refuse, b for longer
		{RetryAfter: 14 * time.Second, Limit: b},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestPeekChargesNothing(t *testing.T) {
	c := newClock()
	l, m := newLimiter(c, 100)
	for range 1000 {
		if v := peek(t, l, of("x", minute)); !v.Allowed || v.Remaining != 99 {
			t.Fatalf("%+v", v)
		}
	}
	if m.Len() != 0 || m.Version() != 0 {
		t.Errorf("looking left %d keys and version %d", m.Len(), m.Version())
	}
}

func TestNoBucketNoLimit(t *testing.T) {
	l, _ := newLimiter(newClock(), 100)
	if !take(t, l, nil).Allowed {
		t.Error("refused")
	}
}

// yieldingStore lets others run between the reading of a state and its writing,
// which shows if they can.
type yieldingStore struct{ ratelimit.Store }

func (s yieldingStore) Update(ctx context.Context, keys []ratelimit.Key, decide func(time.Time, []ratelimit.State)) error {
	return s.Store.Update(ctx, keys, func(now time.Time, states []ratelimit.State) {
		runtime.Gosched()
		decide(now, states)
		runtime.Gosched()
	})
}

// TestExactUnderConcurrency has many goroutines take at once while the clock
// stands still.
func TestExactUnderConcurrency(t *testing.T) {
	l := &ratelimit.Limiter{Store: yieldingStore{ratelimit.NewMemory(newClock().now, 1000)}}
	const workers, each, apps = 16, 200, 3
	var allowed [apps]atomic.Int64
	var work sync.WaitGroup
	for range workers {
		work.Go(func() {
			for i := range each {
				if take(t, l, of(fmt.Sprint(i%apps), minute, hour)).Allowed {
					allowed[i%apps].Add(1)
				}
			}
		})
	}
	work.Wait()
	for app := range allowed {
		if n := allowed[app].Load(); n != 100 {
			t.Errorf("application %d was allowed %d requests, want 100", app, n)
		}
	}
}

// TestPeekHealsAfterTheClockWentBack: who only looks must not be refused until
// the clock has come to where it was.
func TestPeekHealsAfterTheClockWentBack(t *testing.T) {
	c := newClock()
	l, _ := newLimiter(c, 100)
	takeAll(t, l, of("x", minute))
	c.add(-time.Hour)
	v := peek(t, l, of("x", minute))
	if v.Allowed || v.RetryAfter != minute.Interval() {
		t.Fatalf("%+v, want a wait of %v", v, minute.Interval())
	}
	c.add(v.RetryAfter)
	if !peek(t, l, of("x", minute)).Allowed {
		t.Error("still refused after the wait")
	}
}

// TestAnyInterleaving draws requests of several applications with several
// limits each, and stops in between. Nobody is ever allowed more than each of his
// limits, whatever the others do and however little room there is; and waits that
// were told are exact as long as there is room.
func TestAnyInterleaving(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limits := []limit{drawLimit(t, "first"), drawLimit(t, "second")}
		if limits[0].Period == limits[1].Period {
			limits = limits[:1]
		}
		room := rapid.IntRange(0, 8).Draw(t, "room")
		apps := rapid.IntRange(1, 4).Draw(t, "applications")
		c := newClock()
		l, m := newLimiter(c, room)
		allowed := make([][]time.Time, apps)
		for range rapid.IntRange(1, 80).Draw(t, "requests") {
			c.add(drawStep(t, limits[0]))
			if rapid.IntRange(0, 9).Draw(t, "restart") == 0 {
				data, _ := m.Export()
				l, m = newLimiter(c, room)
				if err := m.Import(data); err != nil {
					t.Fatal(err)
				}
			}
			app := rapid.IntRange(0, apps-1).Draw(t, "application")
			mine := of(fmt.Sprint(app), limits...)
			v := take(t, l, mine)
			if v.Allowed {
				allowed[app] = append(allowed[app], c.now())
			} else {
				c.add(v.RetryAfter - 1)
				if peek(t, l, mine).Allowed {
					t.Fatalf("allowed a nanosecond too soon: %+v", v)
				}
				c.add(1)
				if !peek(t, l, mine).Allowed && room >= apps*len(limits) {
					t.Fatalf("refused after the wait: %+v", v)
				}
			}
			if m.Len() > room+len(limits) {
				t.Fatalf("%d keys in use, there is room for %d", m.Len(), room)
			}
		}
		for app := range allowed {
			for _, limit := range limits {
				if err := overdrawn(limit, allowed[app], 0); err != nil {
					t.Errorf("application %d: %v", app, err)
				}
			}
		}
	})
}

// TestKeysDoNotMeet: what a key is told is the same whether others are busy or
// not, and in whatever order requests of the same instant come.
func TestKeysDoNotMeet(t *testing.T) {
	type request struct {
		step time.Duration
		app  int
	}
	rapid.Check(t, func(t *rapid.T) {
		lim := drawLimit(t, "limit")
		const apps = 3
		requests := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) request {
			return request{drawStep(t, lim), rapid.IntRange(0, apps-1).Draw(t, "application")}
		}), 1, 60).Draw(t, "requests")

		// run answers the requests of some applications, those of one instant in the given order.
		run := func(order []int) (told [apps][]ratelimit.Verdict) {
			c := newClock()
			l, _ := newLimiter(c, 100)
			var instant []request
			flush := func() {
				for _, app := range order {
					for _, r := range instant {
						if r.app == app {
							told[app] = append(told[app], take(t, l, of(fmt.Sprint(app), lim)))
						}
					}
				}
				instant = nil
			}
			for _, r := range requests {
				if r.step > 0 {
					flush()
					c.add(r.step)
				}
				instant = append(instant, r)
			}
			flush()
			return told
		}

		together := run(rapid.Permutation([]int{0, 1, 2}).Draw(t, "order"))
		for app := range apps {
			alone := run([]int{app})
			if diff := cmp.Diff(alone[app], together[app]); diff != "" {
				t.Fatalf("application %d alone and together (-alone +together):\n%s", app, diff)
			}
		}
	})
}

// brokenStore cannot be reached.
type brokenStore struct{}

var errBroken = errors.New("the store does not answer")

func (brokenStore) Update(context.Context, []ratelimit.Key, func(time.Time, []ratelimit.State)) error {
	return errBroken
}

func TestStoreErrorIsToldAndAllowsNothing(t *testing.T) {
	l := &ratelimit.Limiter{Store: brokenStore{}}
	if v, err := l.Take(t.Context(), of("x", minute)...); !errors.Is(err, errBroken) || v.Allowed {
		t.Errorf("%+v, %v", v, err)
	}
}

// statesStore answers with the same states always.
type statesStore []ratelimit.State

func (s statesStore) Update(_ context.Context, _ []ratelimit.Key, decide func(time.Time, []ratelimit.State)) error {
	decide(noon, slices.Clone(s))
	return nil
}

// TestSharedOnlyIfNothingElseRefuses: who lets somebody pass because a refusal
// is shared must not let him pass by a bucket of his own.
func TestSharedOnlyIfNothingElseRefuses(t *testing.T) {
	empty := noon.Add(time.Hour)
	for _, tt := range []struct {
		states []ratelimit.State
		want   bool
	}{
		{[]ratelimit.State{{TAT: empty, Shared: true}, {TAT: empty, Shared: true}}, true},
		{[]ratelimit.State{{TAT: empty, Shared: true}, {TAT: noon}}, true},
		{[]ratelimit.State{{TAT: noon, Shared: true}, {TAT: empty}}, false},
		{[]ratelimit.State{{TAT: empty, Shared: true}, {TAT: empty}}, false},
		{[]ratelimit.State{{TAT: empty}, {TAT: empty, Shared: true}}, false},
	} {
		l := &ratelimit.Limiter{Store: statesStore(tt.states)}
		if v := take(t, l, of("x", minute, hour)); v.Allowed || v.Shared != tt.want {
			t.Errorf("%+v: %+v", tt.states, v)
		}
	}
}

// twiceStore calls decide twice, as a store may that has to try again.
type twiceStore struct{ ratelimit.Store }

func (s twiceStore) Update(ctx context.Context, keys []ratelimit.Key, decide func(time.Time, []ratelimit.State)) error {
	return s.Store.Update(ctx, keys, func(now time.Time, states []ratelimit.State) {
		decide(now, slices.Clone(states))
		decide(now, states)
	})
}

func TestStoreMayAskTwice(t *testing.T) {
	l := &ratelimit.Limiter{Store: twiceStore{ratelimit.NewMemory(newClock().now, 10)}}
	if n := takeAll(t, l, of("x", minute)); n != 100 {
		t.Errorf("%d were allowed, want 100", n)
	}
}
