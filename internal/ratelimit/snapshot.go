package ratelimit

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"
)

// snapshot is the persistent form of a [Memory]. It tells debts, not points in
// time: how long each bucket needed to be full when it was saved. So it does not
// matter to which clock the process had counted.
type snapshot struct {
	Version int       `json:"version"`
	Saved   time.Time `json:"saved"`
	Groups  []group   `json:"groups"`
}

// group is the keys of one name and period. Debts are in nanoseconds, by ID.
type group struct {
	Name   string                   `json:"name"`
	Period time.Duration            `json:"period"`
	Debts  map[string]time.Duration `json:"debts"`
}

const snapshotVersion = 1

// Export returns a snapshot of the buckets that are not full, as JSON, and the
// version that it is of.
//
// Saved every F and once more at the end, it makes a limit survive restarts.
// After a stop in good order nothing is forgotten. After a crash the charges
// since the last save are, at most those of F, and the keys that made them may
// have them once more; what was saved stays charged. Since all limits of a request
// hold together, that is per key and crash no more than the tightest of them
// allows within F: burst + F/interval. With 100 a minute and 1,500 an hour, saved
// every 5 s, the hour limit can be overdrawn by 108 requests, and the minute limit
// by the same. To write every charge before it is answered would cost a disk write
// for each request; to begin empty after a crash would refuse honest clients for
// up to an hour after each. A crash is not in the hands of those who are limited.
func (m *Memory) Export() (data []byte, version uint64) {
	m.mu.Lock()
	s := snapshot{Version: snapshotVersion, Saved: m.now().Round(0).UTC(), Groups: []group{}}
	version = m.version
	now := m.time()
	groups := make(map[Key]group)
	for k, e := range m.entries {
		debt := e.tat.Sub(now)
		if debt <= 0 {
			continue
		}
		id := k.ID
		k.ID = ""
		g, ok := groups[k]
		if !ok {
			g = group{k.Name, k.Period, make(map[string]time.Duration)}
			groups[k] = g
		}
		g.Debts[id] = debt
	}
	m.mu.Unlock()
	s.Groups = slices.AppendSeq(s.Groups, maps.Values(groups))
	slices.SortFunc(s.Groups, func(a, b group) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Period, b.Period))
	})
	data, err := json.Marshal(s)
	if err != nil {
		panic(err) // strings, numbers and a time of this age of the world
	}
	return data, version
}

// Version is a number that changes with every charge. As long as it stays, an
// older snapshot is as good as a new one.
func (m *Memory) Version() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.version
}

// Import adds the charges of a snapshot to those that are there; a bucket that
// is in both keeps the stricter one. The time since the snapshot was saved counts
// as rest; if by the wall clock there was none, because it was set back, nothing
// is forgiven. If the data is not a snapshot, nothing of it is taken.
func (m *Memory) Import(data []byte) error {
	s, err := readSnapshot(data)
	if err != nil {
		return fmt.Errorf("read snapshot of limits: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	rest := max(m.now().Sub(s.Saved), 0)
	now := m.time()
	charge := func(g group, id string) {
		k := Key{g.Name, g.Period, id}
		if debt := g.Debts[id] - rest; debt > 0 && m.state(k).TAT.Before(now.Add(debt)) {
			m.put(k, now.Add(debt))
		}
	}
	for _, g := range s.Groups {
		for _, id := range slices.Sorted(maps.Keys(g.Debts)) { // in order: who has room does not hang on luck
			if id != "" {
				charge(g, id)
			}
		}
	}
	// The shared buckets come last. A key without a bucket of its own is taken to
	// have had a part in them, and these keys did have one.
	for _, g := range s.Groups {
		charge(g, "")
	}
	return nil
}

func readSnapshot(data []byte) (s snapshot, err error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return s, err
	}
	if s.Version != snapshotVersion {
		return s, fmt.Errorf("its version is %d, known is %d", s.Version, snapshotVersion)
	}
	if len(bytes.TrimSpace(data[d.InputOffset():])) > 0 {
		return s, fmt.Errorf("there is something behind it")
	}
	for _, g := range s.Groups {
		if g.Period < MinPeriod || g.Period > MaxPeriod {
			return s, fmt.Errorf("limit %q has a period of %s", g.Name, g.Period)
		}
		for id, debt := range g.Debts {
			// The window of a limit is its period, rounded up by less than itself.
			if debt < 0 || debt > 2*g.Period {
				return s, fmt.Errorf("limit %q: bucket %q needs %s to be full, its period is %s", g.Name, id, debt, g.Period)
			}
		}
	}
	return s, nil
}
