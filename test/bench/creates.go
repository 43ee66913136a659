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
)

// enrolled is how many machines the store has. Each can have one open action of
// either type, so there can be twice as many creates.
const enrolled = 60_000

// creates measures the domain over a real database on a disk, in this process.
func (b *bench) creates() (err error) {
	flush, err := b.flushes()
	if err != nil {
		return err
	}
	b.figure("one flush of this disk (4 KiB, fdatasync)", "%s µs", spread(flush, "%.0f"))
	store, err := sqlite.Open(b, filepath.Join(b.disk, "creates.db"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	machines := make([]cordon.Machine, enrolled)
	var next atomic.Int64
	now := time.Now()
	err = together(256, func() error {
		for i := next.Add(1) - 1; i < enrolled; i = next.Add(1) - 1 {
			key := make(ed25519.PublicKey, ed25519.PublicKeySize) // nothing is verified with it
			if _, err := rand.Read(key); err != nil {
				return err
			}
			machines[i] = cordon.Machine{
				ID: cordon.IDOfKey(key), DeviceID: cordon.DeviceIDOfKey(key), Key: key, FirstSeen: now, LastSeen: now,
				Facts: cordon.Facts{DNSName: fmt.Sprintf("bench-%d.invalid", i), OSPlatform: "Debian"},
			}
			if _, err := store.EnrolMachine(b, machines[i]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	service := &cordon.Service{
		Store: store, Nudge: func(cordon.MachineID) {}, Now: time.Now, NewID: uuid.NewString, TTL: time.Hour,
		Seal: func(cordon.Order) (string, error) { return "", errors.New("nothing is delivered here") },
	}
	caller := cordon.Caller{ID: uuid.NewString(), DisplayName: "bench", Permissions: cordon.AllPermissions(), Source: "PublicApi"}
	next.Store(0)
	slice := func(callers int) (float64, error) {
		var made atomic.Int64
		began := time.Now()
		end := began.Add(500 * time.Millisecond)
		err := together(callers, func() error {
			for time.Now().Before(end) {
				i, t := int(next.Add(1))-1, cordon.RestrictCodeExecution
				if i >= enrolled {
					i, t = i-enrolled, cordon.UnrestrictCodeExecution
				}
				if i >= enrolled {
					return nil // every machine has both; the rate is of the time until then
				}
				if _, err := service.Request(b, caller, machines[i], t, "bench"); err != nil {
					return err
				}
				made.Add(1)
			}
			return nil
		})
		return float64(made.Load()) / time.Since(began).Seconds(), err
	}
	const levels, slices = 3, 4
	var rates [levels][]float64
	for range slices {
		for l, callers := range [levels]int{1, 8, 64} {
			rate, err := slice(callers)
			if err != nil {
				return err
			}
			rates[l] = append(rates[l], rate)
		}
	}
	b.figure("1 caller", "%s creates/s", spread(rates[0], "%.0f"))
	b.figure("8 callers", "%s creates/s", spread(rates[1], "%.0f"))
	b.least("64 callers", quantile(rates[2], .5), 20_000, "/s", "%s creates/s", spread(rates[2], "%.0f"))
	return nil
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

// flushes measures what the disk itself takes to make a page durable, in µs.
func (b *bench) flushes() (took []float64, err error) {
	f, err := os.Create(filepath.Join(b.disk, "flush"))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	page := make([]byte, 4096)
	for range 200 {
		began := time.Now()
		if _, err := f.WriteAt(page, 0); err != nil {
			return nil, err
		}
		if err := f.Sync(); err != nil {
			return nil, err
		}
		took = append(took, float64(time.Since(began).Nanoseconds())/1e3)
	}
	return took, nil
}
