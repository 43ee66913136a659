package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/store/sqlite"
	"github.com/cordon-project/cordon/test/bench/figures"
)

// enrolled is how many machines the store has. Each can have one open action of
// either type, so there can be twice as many creates.
const enrolled = 60_000

// creates measures the domain over a real database on a disk, in this process.
func (b *bench) creates() {
	b.flushes()
	store := must(sqlite.Open(b, filepath.Join(b.disk, "creates.db")))
	defer func() { check(store.Close()) }()
	machines := make([]cordon.Machine, enrolled)
	var next atomic.Int64
	now := time.Now()
	check(together(256, func() error {
		for i := next.Add(1) - 1; i < enrolled; i = next.Add(1) - 1 {
			key := make(ed25519.PublicKey, ed25519.PublicKeySize) // nothing is verified with it
			_, _ = rand.Read(key)                                 // never fails, see crypto/rand
			machines[i] = cordon.Machine{
				ID: cordon.IDOfKey(key), DeviceID: cordon.DeviceIDOfKey(key), Key: key, FirstSeen: now, LastSeen: now,
				Facts: cordon.Facts{DNSName: fmt.Sprintf("bench-%d.invalid", i), OSPlatform: "Debian"},
			}
			if _, err := store.EnrolMachine(b, machines[i]); err != nil {
				return err
			}
		}
		return nil
	}))
	service := &cordon.Service{
		Store: store, Nudge: func(cordon.MachineID) {}, Now: time.Now, NewID: uuid.NewString, TTL: time.Hour,
		Seal: func(cordon.Order) (string, error) { return "", errors.New("nothing is delivered here") },
	}
	caller := cordon.Caller{ID: uuid.NewString(), DisplayName: "bench", Permissions: cordon.AllPermissions(), Source: "PublicApi"}
	next.Store(0)
	rates := map[int]figures.Sample{}
	for range 4 {
		for _, callers := range []int{1, 8, 64} {
			var made atomic.Int64
			began := time.Now()
			check(together(callers, func() error {
				for time.Since(began) < 500*time.Millisecond {
					i := int(next.Add(1)) - 1
					if i >= 2*enrolled {
						return nil // the rate is of the time until then
					}
					t := []cordon.ActionType{cordon.RestrictCodeExecution, cordon.UnrestrictCodeExecution}[i/enrolled]
					if _, err := service.Request(b, caller, machines[i%enrolled], t, "bench"); err != nil {
						return err
					}
					made.Add(1)
				}
				return nil
			}))
			rates[callers] = append(rates[callers], float64(made.Load())/time.Since(began).Seconds())
		}
	}
	b.Figure("1 caller", "%s creates/s", rates[1].Spread("%.0f"))
	b.Figure("8 callers", "%s creates/s", rates[8].Spread("%.0f"))
	b.Target("64 callers", rates[64].Median() >= 20_000, "≥ 20,000/s", "%s creates/s", rates[64].Spread("%.0f"))
}

// together runs work in n goroutines and returns the first error.
func together(n int, work func() error) error {
	failed := make(chan error, n)
	var running sync.WaitGroup
	for range n {
		running.Go(func() {
			if err := work(); err != nil {
				failed <- err
			}
		})
	}
	running.Wait()
	close(failed)
	return <-failed
}

// flushes measures what the disk itself takes to make a page durable.
func (b *bench) flushes() {
	f := must(os.Create(filepath.Join(b.disk, "flush")))
	defer func() { check(f.Close()) }()
	var took figures.Sample
	page := make([]byte, 4096)
	for range 200 {
		began := time.Now()
		must(f.WriteAt(page, 0))
		check(f.Sync())
		took = append(took, float64(time.Since(began).Microseconds()))
	}
	b.Figure("one page overwritten and flushed to this disk", "%s µs", took.Spread("%.0f"))
}
