package hub

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/cordon-project/cordon"
)

var now = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func nothing() {}

func TestNudgeWakesWhoIsHere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h Hub
		var a, b atomic.Int32
		h.Nudge("a") // nobody is here
		member := h.Join("a", func() { a.Add(1) }, nothing, now)
		h.Join("b", func() { b.Add(1) }, nothing, now)
		h.Nudge("a")
		synctest.Wait()
		if a.Load() != 1 || b.Load() != 0 {
			t.Errorf("a was woken %d times, b %d times", a.Load(), b.Load())
		}
		h.Leave(member)
		h.Leave(member) // again, which is harmless
		h.Nudge("a")
		synctest.Wait()
		if a.Load() != 1 || h.Len() != 1 {
			t.Errorf("woken %d times after it left; %d are here", a.Load(), h.Len())
		}
	})
}

// However many nudges come while wake runs, it runs once more after them.
func TestNudgesCoalesce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h Hub
		var runs atomic.Int32
		step := make(chan struct{})
		h.Join("a", func() { runs.Add(1); <-step }, nothing, now)
		for range 100 {
			h.Nudge("a") // never blocks
		}
		synctest.Wait()
		for want := int32(1); want <= 2; want++ {
			if runs.Load() != want {
				t.Fatalf("%d runs, want %d", runs.Load(), want)
			}
			step <- struct{}{}
			synctest.Wait()
		}
		if runs.Load() != 2 {
			t.Errorf("%d runs for nudges that came during the first", runs.Load())
		}
		h.Nudge("a")
		synctest.Wait()
		if runs.Load() != 3 {
			t.Errorf("%d runs after one more", runs.Load())
		}
		step <- struct{}{}
	})
}

// Many nudge at once: after each nudge there is a run that begins after it, and
// no two runs overlap.
func TestNoNudgeIsLost(t *testing.T) {
	var h Hub
	var work, seen, running atomic.Int64
	caughtUp := make(chan struct{}, 1)
	const total = 8 * 1000
	h.Join("a", func() {
		if running.Add(1) != 1 {
			t.Error("two runs overlap")
		}
		n := work.Load() // as an edge looks up what waits
		running.Add(-1)
		if seen.Store(n); n == total {
			select {
			case caughtUp <- struct{}{}:
			default:
			}
		}
	}, nothing, now)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range total / 8 {
				work.Add(1)
				h.Nudge("a")
			}
		})
	}
	wg.Wait()
	select {
	case <-caughtUp:
	case <-time.After(time.Minute): // a test that fails
		t.Fatalf("the last run saw %d of %d", seen.Load(), total)
	}
}

func TestNewerConnectionReplacesTheOlder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h Hub
		var left, olderWoken, newerWoken atomic.Int32
		older := h.Join("a", func() { olderWoken.Add(1) }, func() { left.Add(1) }, now)
		newer := h.Join("a", func() { newerWoken.Add(1) }, func() { t.Error("the newer one has to leave") }, now)
		if left.Load() != 1 || h.Len() != 1 {
			t.Errorf("the older one was asked %d times to leave, %d are here", left.Load(), h.Len())
		}
		h.Nudge("a")
		synctest.Wait()
		if olderWoken.Load() != 0 || newerWoken.Load() != 1 {
			t.Errorf("woken: older %d, newer %d", olderWoken.Load(), newerWoken.Load())
		}
		h.Leave(older) // late: it must not take the newer one out
		if h.Len() != 1 {
			t.Error("the newer connection was taken out")
		}
		h.Leave(newer)
		if h.Len() != 0 {
			t.Error("somebody is still here")
		}
	})
}

func TestSweep(t *testing.T) {
	var h Hub
	left := map[cordon.MachineID]int{}
	join := func(m cordon.MachineID, at time.Time) *Member {
		return h.Join(m, nothing, func() { left[m]++ }, at)
	}
	join("silent", now)
	join("exactly", now.Add(time.Minute))
	spoke := join("spoke", now)
	h.Seen(spoke, now.Add(2*time.Minute))
	seen := h.Sweep(now.Add(time.Minute))
	want := map[cordon.MachineID]time.Time{"exactly": now.Add(time.Minute), "spoke": now.Add(2 * time.Minute)}
	if !maps.Equal(seen, want) || !maps.Equal(left, map[cordon.MachineID]int{"silent": 1}) || h.Len() != 2 {
		t.Errorf("seen %v, left %v", seen, left)
	}
	h.Sweep(now.Add(time.Hour))
	h.Sweep(now.Add(time.Hour))
	h.Seen(spoke, now.Add(3*time.Hour)) // late, which is harmless
	if h.Len() != 0 || left["silent"] != 1 || left["spoke"] != 1 {
		t.Errorf("left %v", left)
	}
}

func TestClose(t *testing.T) {
	var h Hub
	var left []cordon.MachineID
	for _, m := range []cordon.MachineID{"a", "b"} {
		h.Join(m, nothing, func() { left = append(left, m) }, now)
	}
	member := h.Join("c", nothing, func() { left = append(left, "c") }, now)
	h.Close()
	h.Close()
	if slices.Sort(left); !slices.Equal(left, []cordon.MachineID{"a", "b", "c"}) || h.Len() != 0 {
		t.Errorf("left %v", left)
	}
	if h.Join("d", nothing, func() { t.Error("asked to leave") }, now) != nil {
		t.Error("somebody joined a closed hub")
	}
	h.Nudge("a")
	h.Leave(member)
	if got := h.Sweep(now); len(got) != 0 {
		t.Errorf("seen %v", got)
	}
}

// Whatever happens, the hub has the newest connection of each machine that did
// not leave, and every connection is asked to leave at most once.
func TestHubIsAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type connection struct {
			member *Member
			asked  int
		}
		var h Hub
		var all []*connection
		here := map[cordon.MachineID]*connection{}
		closed := false
		machines := rapid.SampledFrom([]cordon.MachineID{"a", "b", "c"})
		t.Repeat(map[string]func(*rapid.T){
			"join": func(t *rapid.T) {
				m, c := machines.Draw(t, "machine"), new(connection)
				c.member = h.Join(m, nothing, func() { c.asked++ }, now)
				if (c.member == nil) != closed {
					t.Fatalf("closed %v, joined %v", closed, c.member != nil)
				}
				if c.member != nil {
					all, here[m] = append(all, c), c
				}
			},
			"leave": func(t *rapid.T) {
				if len(all) == 0 {
					t.Skip("nobody ever joined")
				}
				c := rapid.SampledFrom(all).Draw(t, "connection")
				h.Leave(c.member)
				if here[c.member.machine] == c {
					delete(here, c.member.machine)
				}
			},
			"sweep": func(t *rapid.T) {
				h.Sweep(now.Add(time.Duration(rapid.IntRange(0, 1).Draw(t, "silent"))))
				if h.Len() == 0 {
					clear(here)
				}
			},
			"close": func(t *rapid.T) {
				if rapid.IntRange(0, 9).Draw(t, "really") == 0 {
					h.Close()
					closed = true
					clear(here)
				}
			},
			"": func(t *rapid.T) {
				if h.Len() != len(here) {
					t.Fatalf("%d are here, want %d", h.Len(), len(here))
				}
				for _, c := range all {
					if c.asked > 1 || here[c.member.machine] == c && c.asked > 0 {
						t.Fatalf("asked %d times to leave", c.asked)
					}
				}
			},
		})
	})
}

func TestNudgeAll(t *testing.T) {
	var h Hub
	woken := make(chan cordon.MachineID, 2)
	for _, m := range []cordon.MachineID{"a", "b"} {
		h.Join(m, func() { woken <- m }, func() {}, time.Time{})
	}
	h.NudgeAll()
	if a, b := <-woken, <-woken; a == b {
		t.Errorf("woke %s twice", a)
	}
}
