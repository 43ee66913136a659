// Package hub knows which machines are connected to this server right now and
// wakes their connections.
//
// It owns no goroutine of its own and no durable state: a nudge for a machine
// that is not here, or that comes while the server goes down, is lost, and
// nothing may depend on it. A nudge for a machine that is here runs its wake
// function at least once after the nudge, never twice at the same time.
package hub

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/cordon-project/cordon"
)

// Member is one live connection of a machine.
type Member struct {
	machine cordon.MachineID
	wake    func()
	leave   func()

	mu      sync.Mutex // guards the two below
	running bool       // wake is being run
	again   bool       // and has to be run once more

	seen time.Time // guarded by Hub.mu
}

// Hub is the set of live connections. The zero value is an empty one.
type Hub struct {
	mu      sync.Mutex
	members map[cordon.MachineID]*Member
	closed  bool
}

// Join adds a connection of machine m. wake is run, on a goroutine of its own,
// after every nudge; leave is called once if the connection has to end: because
// the machine opened a newer one, fell silent, or the server stops. It must not
// block: the newer connection and the other machines wait for it. Join returns nil
// if the server is stopping.
func (h *Hub) Join(m cordon.MachineID, wake, leave func(), now time.Time) *Member {
	c := &Member{machine: m, wake: wake, leave: sync.OnceFunc(leave), seen: now}
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return nil
	}
	if h.members == nil {
		h.members = make(map[cordon.MachineID]*Member)
	}
	older := h.members[m]
	h.members[m] = c
	h.mu.Unlock()
	if older != nil {
		older.leave()
	}
	return c
}

// Leave takes a connection out again. It does not call its leave function.
func (h *Hub) Leave(c *Member) {
	h.mu.Lock()
	if h.members[c.machine] == c {
		delete(h.members, c.machine)
	}
	h.mu.Unlock()
}

// Seen notes that the machine gave a sign of life.
func (h *Hub) Seen(c *Member, now time.Time) {
	h.mu.Lock()
	c.seen = now
	h.mu.Unlock()
}

// Nudge wakes the connection of machine m if there is one here. It never blocks.
func (h *Hub) Nudge(m cordon.MachineID) {
	h.mu.Lock()
	c := h.members[m]
	h.mu.Unlock()
	if c != nil {
		c.nudge()
	}
}

// NudgeAll wakes all connections. It never blocks.
func (h *Hub) NudgeAll() {
	h.mu.Lock()
	members := slices.Collect(maps.Values(h.members))
	h.mu.Unlock()
	for _, c := range members {
		c.nudge()
	}
}

func (c *Member) nudge() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running {
		c.again = true
		return
	}
	c.running = true
	go c.run()
}

func (c *Member) run() {
	for {
		c.wake()
		c.mu.Lock()
		if !c.again {
			c.running = false
			c.mu.Unlock()
			return
		}
		c.again = false
		c.mu.Unlock()
	}
}

// Sweep ends the connections that gave no sign of life since silent, and
// returns when each of the others last did.
func (h *Hub) Sweep(silent time.Time) map[cordon.MachineID]time.Time {
	seen := make(map[cordon.MachineID]time.Time)
	var gone []*Member
	h.mu.Lock()
	for m, c := range h.members {
		if c.seen.Before(silent) {
			gone = append(gone, c)
			delete(h.members, m)
		} else {
			seen[m] = c.seen
		}
	}
	h.mu.Unlock()
	for _, c := range gone {
		c.leave()
	}
	return seen
}

// Len returns the number of connected machines.
func (h *Hub) Len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.members)
}

// Close ends all connections and admits no more.
func (h *Hub) Close() {
	h.mu.Lock()
	h.closed = true
	members := h.members
	h.members = nil
	h.mu.Unlock()
	for _, c := range members {
		c.leave()
	}
}
