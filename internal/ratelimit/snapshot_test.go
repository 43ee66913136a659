package ratelimit_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/cordon-project/cordon/internal/ratelimit"
	"github.com/cordon-project/cordon/internal/testkit/golden"
)

func restarted(t fataler, c *clock, room int, data []byte) (*ratelimit.Limiter, *ratelimit.Memory) {
	t.Helper()
	l, m := newLimiter(c, room)
	if err := m.Import(data); err != nil {
		t.Fatal(err)
	}
	return l, m
}

func TestSnapshotIsStable(t *testing.T) {
	c := newClock()
	l, m := newLimiter(c, 4)
	take(t, l, of(ratelimit.ID("tenant", "app", "GET machines/*"), minute, hour))
	take(t, l, of(ratelimit.ID("tenant", "other app", "GET machines"), minute, hour))
	take(t, l, of("no room", minute))
	c.add(100 * time.Millisecond)
	got, _ := m.Export()
	// A server that is upgraded reads what the one before it wrote.
	golden.Compare(t, "testdata/snapshot.json", string(got)+"\n")
	_, again := restarted(t, c, 4, append(got, '\n'))
	if back, _ := again.Export(); !bytes.Equal(back, got) {
		t.Errorf("after a restart it is\n%s", back)
	}
}

func TestRestart(t *testing.T) {
	for name, tt := range map[string]struct {
		down time.Duration // by the wall clock
		want int           // requests that are allowed after the restart
	}{
		"at once":            {0, 0},
		"an interval later":  {600 * time.Millisecond, 1},
		"half a minute":      {30 * time.Second, 50},
		"when it is full":    {time.Minute, 100},
		"much later":         {time.Hour, 100},
		"the clock was late": {-time.Hour, 0},
	} {
		t.Run(name, func(t *testing.T) {
			c := newClock()
			l, m := newLimiter(c, 10)
			takeAll(t, l, of("x", minute))
			data, _ := m.Export()
			c.add(tt.down)
			l, m = restarted(t, c, 10, data)
			if tt.want == 100 && m.Len() != 0 {
				t.Errorf("%d full buckets were taken in", m.Len())
			}
			if n := takeAll(t, l, of("x", minute)); n != tt.want {
				t.Errorf("%d were allowed, want %d", n, tt.want)
			}
			c.add(600 * time.Millisecond)
			if n := takeAll(t, l, of("x", minute)); n != 1 {
				t.Errorf("%d were allowed after another interval, want 1", n)
			}
		})
	}
}

// TestALateClockAddsNothing: a debt must not grow by being saved, or its key
// would be kept for as long as the clock was set back.
func TestALateClockAddsNothing(t *testing.T) {
	c := newClock()
	l, m := newLimiter(c, 10)
	take(t, l, of("x", minute))
	data, _ := m.Export()
	c.add(-24 * time.Hour)
	_, m = restarted(t, c, 10, data)
	c.add(minute.Interval())
	if out, _ := m.Export(); !strings.Contains(string(out), `"groups":[]`) {
		t.Errorf("after an interval there is still %s", out)
	}
}

func TestVersionTellsWhetherToSave(t *testing.T) {
	c := newClock()
	l, m := newLimiter(c, 10)
	limit := limit{Burst: 1, Period: time.Second}
	take(t, l, of("x", limit))
	_, saved := m.Export()
	take(t, l, of("x", limit)) // refused
	peek(t, l, of("y", limit))
	c.add(time.Hour)
	peek(t, l, of("x", limit))
	if m.Version() != saved {
		t.Error("nothing was charged, but there is a new version")
	}
	take(t, l, of("y", limit))
	if m.Version() == saved {
		t.Error("something was charged, but the version is the same")
	}
}

func TestChangedLimitKeepsItsDebts(t *testing.T) {
	c := newClock()
	l, m := newLimiter(c, 10)
	takeAll(t, l, of("x", minute))
	data, _ := m.Export()
	c.add(30 * time.Second)
	l, _ = restarted(t, c, 10, data)
	if n := takeAll(t, l, of("x", limit{Burst: 10, Period: time.Minute})); n != 5 {
		t.Errorf("%d were allowed by the new limit, want the 5 of half a minute", n)
	}
}

func TestImportKeepsTheStricter(t *testing.T) {
	c := newClock()
	l, m := newLimiter(c, 10)
	for range 30 {
		take(t, l, of("x", minute))
	}
	older, _ := m.Export()
	for range 40 {
		take(t, l, of("x", minute))
	}
	if err := m.Import(older); err != nil {
		t.Fatal(err)
	}
	if n := takeAll(t, l, of("x", minute)); n != 30 {
		t.Errorf("%d were allowed, want 30", n)
	}
}

func TestImportRefuses(t *testing.T) {
	group := func(name, rest string) string {
		return `{"version":1,"saved":"2026-11-21T12:00:00Z","groups":[{"name":"api","period":60000000000,"debts":{"good":1000000000}},{"name":` + name + `,` + rest + `}]}`
	}
	for data, want := range map[string]string{
		``:     "EOF",
		`null`: "version is 0",
		`{"version":2,"saved":"2026-11-21T12:00:00Z","groups":[]}`:            "version is 2",
		`{"version":1,"saved":"yesterday","groups":[]}`:                       "parsing time",
		`{"version":1,"saved":"2026-11-21T12:00:00Z","more":[]}`:              "unknown field",
		`{"version":1,"saved":"2026-11-21T12:00:00Z","groups":[]} {}`:         "something behind",
		group(`"b"`, `"period":0,"debts":{}`):                                 "period of 0s",
		group(`"b"`, `"period":86400000000001,"debts":{}`):                    "period of 24h",
		group(`"b"`, `"period":1000000000,"debts":{"x":-1}`):                  `bucket "x"`,
		group(`"b"`, `"period":1000000000,"debts":{"x":2000000001}`):          `bucket "x"`,
		group(`"b"`, `"period":1000000000,"debts":{"x":9223372036854775808}`): "cannot unmarshal",
	} {
		m := ratelimit.NewMemory(newClock().now, 10)
		if err := m.Import([]byte(data)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error is %v, want one with %q", data, err, want)
		}
		if m.Len() != 0 {
			t.Errorf("%s: something was taken of it", data)
		}
	}
}

func TestImportKeepsToTheRoom(t *testing.T) {
	c := newClock()
	l, m := newLimiter(c, 1000)
	for i := range 1000 {
		take(t, l, of(fmt.Sprint(i), hour))
	}
	takeAll(t, l, of("999", hour))
	data, _ := m.Export()
	l, m = restarted(t, c, 10, data)
	if n := m.Len(); n != 11 {
		t.Errorf("%d keys are in use, want the 10 there is room for and the shared one", n)
	}
	if v := take(t, l, of("999", hour)); v.Allowed {
		t.Error("a key that did not fit began anew")
	}
}

// TestCrash stops the server without a last save, again and again. A request
// more than the limit is one that was allowed after the last save before a crash,
// of which there are no more than the tightest limit allows in that time.
func TestCrash(t *testing.T) {
	const every = 5 * time.Second
	rapid.Check(t, func(t *rapid.T) {
		tight := limit{Burst: rapid.IntRange(1, 5).Draw(t, "burst"), Period: 10 * time.Second}
		loose := limit{Burst: 20, Period: 5 * time.Minute}
		perCrash := tight.Burst + int(every/tight.Interval())
		c := newClock()
		l, m := newLimiter(c, 10)
		saved, _ := m.Export()
		next := c.now().Add(every)
		var allowed []time.Time
		crashes := 0
		for range rapid.IntRange(1, 150).Draw(t, "requests") {
			c.add(time.Duration(rapid.Int64Range(0, int64(3*time.Second)).Draw(t, "step")))
			if !c.now().Before(next) {
				saved, _ = m.Export()
				next = c.now().Add(every)
			}
			if rapid.IntRange(0, 30).Draw(t, "crash") == 0 {
				crashes++
				l, m = restarted(t, c, 10, saved)
			}
			if take(t, l, of("x", tight, loose)).Allowed {
				allowed = append(allowed, c.now())
			}
		}
		for _, limit := range []limit{tight, loose} {
			if err := overdrawn(limit, allowed, crashes*perCrash); err != nil {
				t.Errorf("%d crashes: %v", crashes, err)
			}
		}
	})
}

func FuzzImport(f *testing.F) {
	c := newClock()
	l, m := newLimiter(c, 3)
	for i := range 4 {
		take(f, l, of(fmt.Sprint(i), minute, hour))
	}
	data, _ := m.Export()
	f.Add(data)
	f.Add([]byte(`{"version":1,"saved":"2026-11-21T12:00:00Z","groups":[{"name":"","period":86400000000000,"debts":{"":172800000000000,"\ud800":1,"\u0000":0}},{"name":"","period":86400000000000,"debts":null}]}`))
	f.Add([]byte(`{"version":1,"saved":"0000-01-01T00:00:00Z","groups":[{"name":"api","period":1000000000,"debts":{"x":2000000000}}]}`))
	f.Add([]byte(`{"version":1,"saved":"9999-12-31T23:59:59.999999999+14:00","groups":[{"name":"api","period":60000000000,"debts":{"x":60000000001}}]}`))
	f.Add([]byte(`{"version":1e0,"saved":null,"groups":[{"Name":"api","PERIOD":60000000000}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		const room = 3
		c := newClock()
		l, m := newLimiter(c, room)
		if err := m.Import(data); err != nil {
			if m.Len() != 0 || m.Version() != 0 {
				t.Fatal("something was taken of what is no snapshot")
			}
			return
		}
		// What was taken in comes out again in the same way, and nobody is locked out by it.
		out, _ := m.Export()
		again, am := newLimiter(c, m.Len())
		if err := am.Import(out); err != nil {
			t.Fatalf("cannot read what it wrote: %v\n%s", err, out)
		}
		if back, _ := am.Export(); !bytes.Equal(out, back) {
			t.Fatalf("read\n%s\nwrote\n%s", out, back)
		}
		for _, l := range []*ratelimit.Limiter{l, again} {
			for _, limit := range []limit{minute, hour} {
				if v := peek(t, l, of("x", limit)); v.RetryAfter > limit.Interval() {
					t.Fatalf("has to wait for %v", v.RetryAfter)
				}
			}
		}
	})
}
