package sqlite

import (
	"context"
	"slices"
	"time"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/store/sqlite/engine"
)

// sight stores which addresses a machine has, by what it says at a time, if it
// was last seen before that at another. It writes only what has changed.
func sight(t *engine.Tx, key []byte, f cordon.Facts, last, at time.Time) error {
	var known []cordon.Sighting
	err := t.Each("SELECT address, first_seen, last_seen FROM machine_addresses WHERE machine = ?", func(r *engine.Row) {
		s := cordon.Sighting{Address: r.Text(), From: r.Time()}
		if to := r.TimeOrNil(); to != nil {
			s.To = *to
		}
		known = append(known, s)
	}, key)
	if err != nil {
		return err
	}
	next := cordon.NextSightings(known, f.Addresses(), stored(last), stored(at))
	for _, s := range known {
		if !slices.Contains(next, s) {
			if _, _, err := t.Exec("DELETE FROM machine_addresses WHERE machine = ? AND address = ? AND first_seen = ?", key, s.Address, cordon.Ticks(s.From)); err != nil {
				return err
			}
		}
	}
	for _, s := range next {
		if slices.Contains(known, s) {
			continue
		}
		var to any
		if !s.To.IsZero() {
			to = cordon.Ticks(s.To)
		}
		if _, _, err := t.Exec("INSERT INTO machine_addresses (machine, address, first_seen, last_seen) VALUES (?, ?, ?, ?)", key, s.Address, cordon.Ticks(s.From), to); err != nil {
			return err
		}
	}
	return nil
}

// byAddress is behind WHERE. A machine may have had the address more than once.
const byAddress = `m.id IN (SELECT machine FROM machine_addresses WHERE address = ?1) AND ` + lastWith + ` IS NOT NULL ORDER BY ` + lastWith + ` DESC, m.id LIMIT ?4`

// lastWith is when machine m was last seen with an address, if that was in the time.
const lastWith = `(SELECT max(coalesce(a.last_seen, m.last_seen)) FROM machine_addresses a
	WHERE a.machine = m.id AND a.address = ?1 AND a.first_seen <= ?3 AND coalesce(a.last_seen, m.last_seen) >= ?2)`

// MachinesByAddress implements [cordon.Store].
func (s *Store) MachinesByAddress(ctx context.Context, address string, from, to time.Time, limit int) ([]cordon.Machine, error) {
	return s.machines(ctx, byAddress, address, cordon.Ticks(from), cordon.Ticks(to), int64(limit))
}

// ChangeLabels implements [cordon.Store].
func (s *Store) ChangeLabels(ctx context.Context, ids []cordon.MachineID, change cordon.LabelChange) ([]cordon.Machine, error) {
	var changed []cordon.Machine
	err := s.db.Write(ctx, func(t *engine.Tx) error {
		changed = nil
		for _, id := range ids {
			m, err := changeLabels(t, id, change)
			if err != nil {
				return err
			}
			changed = append(changed, m)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return changed, nil
}

func changeLabels(t *engine.Tx, id cordon.MachineID, change cordon.LabelChange) (cordon.Machine, error) {
	m, key, err := machineIn(t, id)
	if err != nil {
		return m, err
	}
	before := m.Labels
	before.Tags = slices.Clone(before.Tags)
	after, entries, err := change(m)
	if err != nil {
		return m, err
	}
	m.Labels = cordon.Labels{Tags: slices.Clone(after.Tags), Value: after.Value}
	if after.Value != before.Value {
		if _, _, err := t.Exec("UPDATE machines SET device_value = ? WHERE id = ?", string(after.Value), key); err != nil {
			return m, err
		}
	}
	if !slices.Equal(after.Tags, before.Tags) {
		if err := writeTags(t, key, after.Tags); err != nil {
			return m, err
		}
	}
	for _, e := range entries {
		if err := appendAudit(t, 0, e); err != nil {
			return m, err
		}
	}
	return m, nil
}

// machineIn returns a machine, and the key of its rows, as the transaction sees
// it, or an error of kind NotFound.
func machineIn(t *engine.Tx, id cordon.MachineID) (m cordon.Machine, key []byte, err error) {
	key, known := machineKey(id)
	if known {
		known = false
		err = t.Each("SELECT "+machineColumns+" FROM "+machineTables+" WHERE m.id = ?", func(r *engine.Row) { known, m = true, machineOf(r) }, key)
	}
	if err == nil && !known {
		err = noMachine(string(id))
	}
	return m, key, err
}

func writeTags(t *engine.Tx, key []byte, tags []string) error {
	list, err := engine.JSON(append([]string{}, tags...))
	if err != nil {
		return err
	}
	if _, _, err := t.Exec("UPDATE machine_details SET tags = ? WHERE machine = ?", list, key); err != nil {
		return err
	}
	if _, _, err := t.Exec("DELETE FROM machine_tags WHERE machine = ?", key); err != nil {
		return err
	}
	for _, tag := range tags {
		if _, _, err := t.Exec("INSERT INTO machine_tags (tag, machine) VALUES (?, ?)", cordon.Fold(tag), key); err != nil {
			return err
		}
	}
	return nil
}
