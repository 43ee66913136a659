package ratelimit_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/cordon-project/cordon/internal/ratelimit"
)

func TestFullBucketsAreForgotten(t *testing.T) {
	c := newClock()
	l, m := newLimiter(c, 1000)
	for i := range 1000 {
		take(t, l, of(fmt.Sprint(i), minute))
	}
	c.add(minute.Interval() - 1)
	take(t, l, of("another", minute))
	if n := m.Len(); n < 1000 {
		t.Fatalf("%d keys are left, but no bucket was full yet", n)
	}
	c.add(1)
	for range 1000 {
		take(t, l, of("another", minute))
	}
	if n := m.Len(); n > 2 {
		t.Errorf("%d keys are left", n)
	}
}

// TestSpraying makes up keys without end.
func TestSpraying(t *testing.T) {
	c := newClock()
	l, m := newLimiter(c, 100)
	known := of("known", minute, hour)
	take(t, l, known)
	sprayed := 0
	for i := range 10_000 {
		if take(t, l, of(fmt.Sprint("made up ", i), minute, hour)).Allowed {
			sprayed++
		}
	}
	if n := m.Len(); n > 100+2 {
		t.Errorf("%d keys are in use, there is room for 100", n)
	}
	// Two keys for each that had room, and for all others what one is allowed.
	if want := (100-2)/2 + 100; sprayed != want {
		t.Errorf("%d made up keys were allowed, want %d", sprayed, want)
	}
	if n := takeAll(t, l, known); n != 99 {
		t.Errorf("the known key was allowed %d more, want 99", n)
	}
	v := take(t, l, of("late", minute, hour))
	if v.Allowed || !v.Shared {
		t.Errorf("a key without room was told %+v", v)
	}
	if v := take(t, l, known); v.Allowed || v.Shared {
		t.Errorf("a key of its own was told %+v", v)
	}
	c.add(time.Hour + time.Minute)
	for range 100 {
		take(t, l, known)
	}
	if n := m.Len(); n > 2 {
		t.Errorf("%d keys are left after the spraying", n)
	}
	if n := takeAll(t, l, of("late", minute, hour)); n != 100 {
		t.Errorf("a key was allowed %d requests when there was room again, want 100", n)
	}
}

// TestLeavingTheSharedBucketGivesNothing: a key that used up the shared bucket
// must not begin anew when it gets one of its own.
func TestLeavingTheSharedBucketGivesNothing(t *testing.T) {
	c := newClock()
	l, _ := newLimiter(c, 1)
	short := limit{Burst: 1, Period: time.Second}
	take(t, l, of("first", short)) // takes the room for a second
	x := of("x", minute)
	if n := takeAll(t, l, x); n != 100 {
		t.Fatalf("%d were allowed in the shared bucket, want 100", n)
	}
	c.add(time.Second) // the room is free again
	if n := takeAll(t, l, x); n != 1 {
		t.Errorf("%d were allowed after that, want the one of a second", n)
	}
}

func TestTimesCompareAsNumbers(t *testing.T) {
	m := ratelimit.NewMemory(time.Now, 10)
	for range 2 {
		err := m.Update(t.Context(), []ratelimit.Key{{Name: "api", Period: time.Minute, ID: "x"}}, func(now time.Time, states []ratelimit.State) {
			if now != now.Round(0) {
				t.Errorf("%v has a monotonic reading", now)
			}
			states[0].TAT = now.Add(time.Minute)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func BenchmarkTake(b *testing.B) {
	c := newClock()
	l, _ := newLimiter(c, 1<<16)
	ids := make([][]bucket, 1<<14)
	for i := range ids {
		ids[i] = of(fmt.Sprint("application ", i), minute, hour)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		take(b, l, ids[i%len(ids)])
	}
}
