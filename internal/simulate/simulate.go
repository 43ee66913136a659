// Package simulate is a fleet of machines in one process: to see how a server
// stands many of them, and for those who build against the API and need machines
// that answer as told ([Plan]). They speak the agents' real protocol: each has a key of
// its own, enrols, keeps a WebSocket, verifies and judges its orders, and signs
// its reports. What they do not do is enforce anything.
//
// # What it promises
//
// A machine takes up every order once and in the order of generations, as a
// real one does, and sends its report again until the server has settled it,
// over as many connections as that takes. Nothing is on disk: a fleet that ends
// is forgotten, and its machines are never heard of again.
//
// # What it owns
//
// [Fleet.Run] owns two goroutines for each machine, and returns when they have
// ended. A machine's state belongs to the first of the two, so it needs no lock.
package simulate

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/uplink"
)

// Config is what a fleet needs. Fields are required unless they say otherwise.
type Config struct {
	Server string         // base URL, https://host[:port]
	Roots  *x509.CertPool // whom to believe that the server is itself; nil: the system's roots
	Token  string         // for the enrolment
	// Facts are those of the machine with this number, which counts from 0.
	Facts func(number int) cordon.Facts
	// Key is the key of the machine with this number, and with it the machine's
	// id. Nil: a new one for each.
	Key func(number int) ed25519.PrivateKey
	// Away tells which machines enrol and are never heard of again. Nil: none.
	Away func(number int) bool
	// Answer decides how an order ends that was taken up, with a reason if it
	// failed. It may take as long as it likes, until ctx ends, and is called for
	// many machines at once. An empty state says nothing to the server, as a
	// machine does that was lost; [Unread] leaves the order as if it had not come.
	// Nil: every order succeeds at once.
	Answer func(ctx context.Context, t Task) (state cordon.ReportState, reason string)
	Now    func() time.Time
	Log    *slog.Logger
}

// Task is an order that a machine takes up.
type Task struct {
	cordon.Order
	Number int    // of the machine
	Begun  func() // tells the server that it is under way
}

// Unread is what a machine answers that has an order and is too busy to begin
// with it: nothing, but a cancellation that follows comes in time.
const Unread cordon.ReportState = "Unread"

// atOnce is how many machines of a fleet may be enrolling or connecting at one
// time. A handshake costs both ends a millisecond of processor time.
const atOnce = 16

// Fleet is a number of enrolled machines. Make one with [Enrol].
type Fleet struct {
	cfg      Config
	server   *uplink.Server
	machines []*machine
	dialling chan struct{} // holds one for each that is connecting

	mu      sync.Mutex // guards the two below
	stats   Stats
	changed chan struct{} // closed when stats change
}

// Stats counts what a fleet has seen since it was made.
type Stats struct {
	Connected int // machines that have a connection now, and heard the server on it
	Orders    int // taken up, each once
	Reports   int // settled by the server
}

// Enrol makes n machines with new keys and enrols them. It returns the first
// error; machines that were enrolled before it stay known to the server.
func Enrol(ctx context.Context, cfg Config, n int) (*Fleet, error) {
	if cfg.Answer == nil {
		cfg.Answer = func(context.Context, Task) (cordon.ReportState, string) { return cordon.ReportSucceeded, "" }
	}
	if cfg.Key == nil {
		cfg.Key = func(int) ed25519.PrivateKey {
			_, key, err := ed25519.GenerateKey(rand.Reader)
			if err != nil {
				panic(err) // the system's randomness does not fail, see crypto/rand
			}
			return key
		}
	}
	if cfg.Away == nil {
		cfg.Away = func(int) bool { return false }
	}
	server, err := uplink.New(cfg.Server, cfg.Roots, cfg.Now)
	if err != nil {
		return nil, err
	}
	defer server.Close()
	f := &Fleet{
		cfg: cfg, server: server, machines: make([]*machine, n),
		dialling: make(chan struct{}, atOnce), changed: make(chan struct{}),
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var work sync.WaitGroup
	var next atomic.Int64
	for range min(atOnce, n) {
		work.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				m, err := f.enrol(ctx, i)
				if err != nil {
					cancel(fmt.Errorf("enrol machine %d: %w", i, err))
				}
				f.machines[i] = m
			}
		})
	}
	work.Wait()
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	return f, nil
}

func (f *Fleet) enrol(ctx context.Context, number int) (*machine, error) {
	key := f.cfg.Key(number)
	m := &machine{fleet: f, number: number, key: key, id: cordon.IDOfKey(key.Public().(ed25519.PublicKey)), facts: f.cfg.Facts(number), up: f.server.Machine(key)}
	var err error
	_, m.orderKey, err = m.up.Enrol(ctx, f.cfg.Token, m.facts)
	return m, err
}

// Machines returns the ids of the machines, by their numbers.
func (f *Fleet) Machines() []cordon.MachineID {
	ids := make([]cordon.MachineID, len(f.machines))
	for i, m := range f.machines {
		ids[i] = m.id
	}
	return ids
}

// Run keeps every machine connected that is not away, until ctx ends. It is called once.
func (f *Fleet) Run(ctx context.Context) {
	defer f.server.Close()
	var work sync.WaitGroup
	defer work.Wait()
	for _, m := range f.machines {
		if !f.cfg.Away(m.number) {
			work.Go(func() { m.run(ctx) })
		}
	}
}

// Wait returns nil as soon as the fleet's counts are what is waited for, or the
// error of ctx.
func (f *Fleet) Wait(ctx context.Context, done func(Stats) bool) error {
	for {
		f.mu.Lock()
		stats, changed := f.stats, f.changed
		f.mu.Unlock()
		if done(stats) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Stats counts.
func (f *Fleet) Stats() Stats {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.stats
}

// count changes the counts.
func (f *Fleet) count(change func(*Stats)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(&f.stats)
	close(f.changed)
	f.changed = make(chan struct{})
}
