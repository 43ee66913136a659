package trust

import (
	"context"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/trust/fixture"
)

func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var used time.Duration
		p := pace{used: func() time.Duration { return used }, after: time.After}
		pause, end := p.worker(ctx)
		defer end()
		rested := func(worked, want time.Duration) {
			t.Helper()
			used += worked
			began := time.Now()
			pause()
			if got := time.Since(began); got != want {
				t.Errorf("after %s it rested %s, not %s", worked, got, want)
			}
		}
		rested(stretch/2, 0)
		time.Sleep(time.Hour)            // others had the processor
		rested(stretch/2, rests*stretch) // both together
		rested(time.Second, rests*time.Second)
		one := p.wait()
		rested(time.Second, 0)
		two := p.wait()
		one()
		one()
		rested(time.Second, 0)
		two()
		rested(time.Second, rests*time.Second)

		done := make(chan func(), 1)
		time.AfterFunc(time.Second, func() { done <- p.wait() })
		rested(time.Second, time.Second) // who comes meanwhile ends the rest
		(<-done)()
		time.AfterFunc(time.Second, cancel)
		rested(time.Second, time.Second)
	})
}

// The time of a thread is that which it has worked.
func TestThreadTime(t *testing.T) {
	var p pace
	var rested []time.Duration
	p.used, p.after = threadTime, func(d time.Duration) <-chan time.Time {
		rested = append(rested, d)
		now := make(chan time.Time)
		close(now)
		return now
	}
	pause, end := p.worker(t.Context())
	defer end()
	for len(rested) == 0 { // it works
		pause()
	}
	if rested[0] < rests*stretch {
		t.Errorf("it rested %s", rested[0])
	}
}

// The builds of Follow rest, but not while somebody waits for a set.
func TestLeisure(t *testing.T) {
	root := fixture.NewRoot(t)
	root.Install(one("a", "/usr/bin/a", "a"), one("b", "/usr/bin/b", "b"))
	follow := func(t *testing.T) (b *Builder, resting <-chan struct{}, sets <-chan *cordon.TrustSet) {
		b = builder(root)
		b.CacheFile = filepath.Join(t.TempDir(), "cache")
		rest := make(chan struct{}, workers)
		var clock atomic.Int64
		b.pace.used = func() time.Duration { return time.Duration(clock.Add(int64(stretch))) }
		b.pace.after = func(time.Duration) <-chan time.Time {
			rest <- struct{}{}
			return nil // without end
		}
		ctx, cancel := context.WithCancel(t.Context())
		got, ended := make(chan *cordon.TrustSet, 1), make(chan error, 1)
		go func() {
			ended <- b.Follow(ctx, func(set *cordon.TrustSet, _ Summary, err error) {
				if err != nil {
					t.Error(err)
				}
				got <- set
			})
		}()
		t.Cleanup(func() {
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
		return b, rest, got
	}
	for name, hurry := range map[string]func(*testing.T, *Builder){
		"an order waits": func(_ *testing.T, b *Builder) { b.Hurry() },
		"another build": func(t *testing.T, b *Builder) {
			set, sum := build(t, b)
			if origin(set, "a") == "" || sum.Hashed != 0 {
				t.Errorf("it did not wait for the one that was going on: %+v", sum)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			b, resting, sets := follow(t)
			<-resting
			select {
			case <-sets:
				t.Fatal("a set while its builder rests")
			default:
			}
			hurry(t, b)
			if set := <-sets; origin(set, "a") == "" || origin(set, "b") == "" {
				t.Error("the set is not whole")
			}
		})
	}
}
