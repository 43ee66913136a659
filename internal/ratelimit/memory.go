package ratelimit

import (
	"container/heap"
	"context"
	"slices"
	"sync"
	"time"
)

// Memory is a [Store] in this process. Several servers that each have one allow
// the limit each.
//
// It holds a given number of keys, and forgets a key when its bucket is full
// again. While there is room that changes nothing, and every key has a bucket of
// its own. Keys that do not fit share one bucket per name and period, with the
// limit that one of them would have: who can make up keys gets no more out of it
// than a single one is allowed, and takes nothing from a key that has a bucket in
// use. As soon as there is room a key gets its own bucket again, which begins
// where the shared one stands, so that no key is ever allowed more than its limit.
//
// Within a run it counts on the monotonic clock: steps of the wall clock do not
// show.
type Memory struct {
	now   func() time.Time
	start time.Time // first reading of now
	room  int       // for keys; the shared ones come on top

	mu      sync.Mutex // guards the rest, and orders the readings of now
	entries map[Key]*entry
	own     int // entries that are not shared ones
	queue   queue
	version uint64
}

// entry is a key that is in use.
type entry struct {
	key   Key
	tat   time.Time
	place int // in the queue
}

// maxEvictions is how many full buckets one update takes out. It is more than
// an update puts in, so that they do not pile up, and few, so that nobody has to
// wait while thousands are taken out at once.
const maxEvictions = 8

// NewMemory returns an empty store with room for that many keys. A key takes
// some 250 bytes.
func NewMemory(now func() time.Time, room int) *Memory {
	return &Memory{now: now, start: now(), room: room, entries: make(map[Key]*entry)}
}

// Update implements [Store]. It returns no error.
func (m *Memory) Update(_ context.Context, keys []Key, decide func(now time.Time, states []State)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.time()
	m.evict(now)
	states := make([]State, len(keys))
	for i, k := range keys {
		states[i] = m.state(k)
	}
	before := slices.Clone(states)
	decide(now, states)
	for i, k := range keys {
		if tat := states[i].TAT; !tat.Equal(before[i].TAT) {
			m.put(k, tat)
		}
	}
	return nil
}

// Len returns how many keys are in use, the shared ones included.
func (m *Memory) Len() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.entries)
}

// time is the wall clock at the start of the process and what has passed since,
// without a monotonic reading, so that times compare as the numbers that they are.
func (m *Memory) time() time.Time {
	return m.start.Round(0).Add(m.now().Sub(m.start))
}

func (m *Memory) state(k Key) State {
	if e, ok := m.entries[k]; ok {
		return State{TAT: e.tat}
	}
	k.ID = ""
	if e, ok := m.entries[k]; ok {
		return State{TAT: e.tat, Shared: true}
	}
	return State{Shared: true}
}

func (m *Memory) put(k Key, tat time.Time) {
	e, ok := m.entries[k]
	if !ok && m.own >= m.room {
		k.ID = ""
		e, ok = m.entries[k]
	}
	if !ok {
		e = &entry{key: k}
		m.entries[k] = e
		heap.Push(&m.queue, e)
		if k.ID != "" {
			m.own++
		}
	}
	e.tat = tat
	heap.Fix(&m.queue, e.place)
	m.version++
}

func (m *Memory) evict(now time.Time) {
	for range maxEvictions {
		if len(m.queue) == 0 || m.queue[0].tat.After(now) {
			return
		}
		k := heap.Pop(&m.queue).(*entry).key
		delete(m.entries, k)
		if k.ID != "" {
			m.own--
		}
	}
}

// queue is a heap of the entries, the one whose bucket is full first on top.
type queue []*entry

// Len implements [heap.Interface].
func (q queue) Len() int { return len(q) }

// Less implements [heap.Interface].
func (q queue) Less(i, j int) bool { return q[i].tat.Before(q[j].tat) }

// Swap implements [heap.Interface].
func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].place, q[j].place = i, j
}

// Push implements [heap.Interface].
func (q *queue) Push(x any) {
	e := x.(*entry)
	e.place = len(*q)
	*q = append(*q, e)
}

// Pop implements [heap.Interface].
func (q *queue) Pop() any {
	last := len(*q) - 1
	e := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	return e
}
