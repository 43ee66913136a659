package sqlite

import (
	"context"
	"crypto/ed25519"
	"maps"
	"slices"
	"time"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/store/sqlite/engine"
)

// generation is a machine's generation, see the schema.
const generation = "max(m.generation, coalesce((SELECT max(generation) FROM actions WHERE machine = m.id), 0))"

// machineColumns are what machineOf reads from machineTables.
const (
	machineColumns = "m.id, m.device_id, m.last_seen, " + generation + ", m.device_value, d.key, d.first_seen, d.facts, d.observed, d.tags, coalesce(m.group_id, 0), coalesce(g.name, '')"
	machineTables  = "machines m JOIN machine_details d ON d.machine = m.id LEFT JOIN device_groups g ON g.id = m.group_id"
)

func machineOf(r *engine.Row) cordon.Machine {
	m := cordon.Machine{
		ID: machineID(r.Blob()), DeviceID: r.Text(), LastSeen: r.Time(), Generation: uint64(r.Number()),
		Labels: cordon.Labels{Value: cordon.DeviceValue(r.Text())}, Key: ed25519.PublicKey(r.Blob()), FirstSeen: r.Time(),
	}
	r.JSON(&m.Facts)
	r.JSON(&m.Observed)
	if r.JSON(&m.Tags); len(m.Tags) == 0 {
		m.Tags = nil
	}
	m.Group = cordon.Group{ID: r.Number(), Name: r.Text()}
	return m
}

// EnrolMachine implements [cordon.Store].
func (s *Store) EnrolMachine(ctx context.Context, m cordon.Machine) (created bool, err error) {
	key, ok := machineKey(m.ID)
	if !ok {
		return false, cordon.Errorf(cordon.Invalid, cordon.CodeInvalidInput, "The machine id %q is not 40 hex digits", m.ID)
	}
	if m.Generation > maxGeneration {
		return false, tooHigh(m.Generation)
	}
	facts, err := engine.JSON(m.Facts)
	if err != nil {
		return false, err
	}
	observed, err := engine.JSON(m.Observed)
	if err != nil {
		return false, err
	}
	err = s.db.Write(ctx, func(t *engine.Tx) error {
		known, err := said(t, key, &m.Facts, facts, m.LastSeen, m.Generation)
		if err != nil {
			return err
		}
		if created = !known; created {
			_, _, err = t.Exec("INSERT INTO machines (id, device_id, dns_name, os_platform, os_version, last_ip, last_seen, generation) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
				key, orNull(m.DeviceID), orNull(m.Facts.DNSName), orNull(m.Facts.OSPlatform), orNull(m.Facts.OSVersion), orNull(m.Facts.LastIP), cordon.Ticks(m.LastSeen), int64(m.Generation))
			if err == nil {
				_, _, err = t.Exec("INSERT INTO machine_details (machine, key, first_seen, facts, observed) VALUES (?, ?, ?, ?, ?)",
					key, []byte(m.Key), cordon.Ticks(m.FirstSeen), facts, observed)
			}
			if err == nil {
				err = sight(t, key, m.Facts, m.LastSeen, m.LastSeen)
			}
			if err != nil {
				return err
			}
		}
		return appendAudit(t, 0, cordon.AuditEntry{At: m.LastSeen, Kind: cordon.AuditEnrolled, Machine: m.ID, Actor: string(m.ID)})
	})
	return created && err == nil, err
}

// said stores that a machine said something at a time: that it is in generation
// g at least and, if f is not nil, its facts. It reports whether it is known.
func said(t *engine.Tx, key []byte, f *cordon.Facts, facts string, at time.Time, g uint64) (known bool, err error) {
	const floors = "last_seen = max(last_seen, ?), generation = max(generation, ?)"
	if f == nil {
		n, _, err := t.Exec("UPDATE machines SET "+floors+" WHERE id = ?", cordon.Ticks(at), int64(g), key)
		return n > 0, err
	}
	var last time.Time
	err = t.Each("SELECT last_seen FROM machines WHERE id = ?", func(r *engine.Row) { known, last = true, r.Time() }, key)
	if err != nil || !known {
		return known, err
	}
	if err := sight(t, key, *f, last, at); err != nil {
		return true, err
	}
	n, _, err := t.Exec("UPDATE machines SET "+floors+", dns_name = ?, os_platform = ?, os_version = ?, last_ip = ? WHERE id = ?",
		cordon.Ticks(at), int64(g), orNull(f.DNSName), orNull(f.OSPlatform), orNull(f.OSVersion), orNull(f.LastIP), key)
	if err == nil && n > 0 {
		_, _, err = t.Exec("UPDATE machine_details SET facts = ? WHERE machine = ?", facts, key)
	}
	return n > 0, err
}

func tooHigh(generation uint64) error {
	return cordon.Errorf(cordon.Invalid, cordon.CodeInvalidInput, "The generation %d is impossible", generation)
}

// MachineSaid implements [cordon.Store]. The error is of kind NotFound if there
// is no such machine, and of kind Invalid if o.Generation is impossible.
func (s *Store) MachineSaid(ctx context.Context, id cordon.MachineID, f *cordon.Facts, o cordon.Observed, at time.Time) error {
	key, ok := machineKey(id)
	if !ok {
		return noMachine(string(id))
	}
	if o.Generation > maxGeneration {
		return tooHigh(o.Generation)
	}
	facts := ""
	if f != nil {
		var err error
		if facts, err = engine.JSON(f); err != nil {
			return err
		}
	}
	observed, err := engine.JSON(o)
	if err != nil {
		return err
	}
	return s.db.Write(ctx, func(t *engine.Tx) error {
		known, err := said(t, key, f, facts, at, o.Generation)
		if err == nil && !known {
			err = noMachine(string(id))
		}
		if err == nil {
			_, _, err = t.Exec("UPDATE machine_details SET observed = ? WHERE machine = ?", observed, key)
		}
		return err
	})
}

// touchAtOnce is how many machines one transaction touches, so that a large
// server does not make everybody wait while it says who is there.
const touchAtOnce = 512

// TouchMachines implements [cordon.Store]. Machines that are not known are left
// out. If it fails, some may have been touched.
func (s *Store) TouchMachines(ctx context.Context, seen map[cordon.MachineID]time.Time) error {
	// In the order of the table, which visits each of its pages once.
	for ids := range slices.Chunk(slices.Sorted(maps.Keys(seen)), touchAtOnce) {
		err := s.db.Write(ctx, func(t *engine.Tx) error {
			for _, id := range ids {
				key, _ := machineKey(id)
				at := cordon.Ticks(seen[id])
				if _, _, err := t.Exec("UPDATE machines SET last_seen = ? WHERE id = ? AND last_seen < ?", at, key, at); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// machines returns the answer to a query that is kept.
func (s *Store) machines(ctx context.Context, where string, args ...any) (found []cordon.Machine, err error) {
	err = s.db.Read(ctx, func(c *engine.Conn) error {
		return c.Each("SELECT "+machineColumns+" FROM "+machineTables+" WHERE "+where, func(r *engine.Row) { found = append(found, machineOf(r)) }, args...)
	})
	return found, err
}

func (s *Store) oneMachine(ctx context.Context, ref, where string, arg any) (cordon.Machine, error) {
	found, err := s.machines(ctx, where, arg)
	if err != nil {
		return cordon.Machine{}, err
	}
	if len(found) == 0 {
		return cordon.Machine{}, noMachine(ref)
	}
	return found[0], nil
}

// Machine implements [cordon.Store].
func (s *Store) Machine(ctx context.Context, id cordon.MachineID) (cordon.Machine, error) {
	key, ok := machineKey(id)
	if !ok {
		return cordon.Machine{}, noMachine(string(id))
	}
	return s.oneMachine(ctx, string(id), "m.id = ?", key)
}

// MachineByDeviceID implements [cordon.Store].
func (s *Store) MachineByDeviceID(ctx context.Context, deviceID string) (cordon.Machine, error) {
	return s.oneMachine(ctx, deviceID, "m.device_id = ?", deviceID)
}

// MachinesByName implements [cordon.Store].
func (s *Store) MachinesByName(ctx context.Context, name string, limit int) ([]cordon.Machine, error) {
	return s.machines(ctx, "lower(m.dns_name) = ? ORDER BY m.id LIMIT ?", cordon.Fold(name), int64(limit))
}

// Machines implements [cordon.Store].
func (s *Store) Machines(ctx context.Context, q cordon.Query) (found []cordon.Machine, l cordon.Listing, err error) {
	l, err = s.list(ctx, machinesTable(s.now()), q, func(r *engine.Row) { found = append(found, machineOf(r)) })
	if err != nil {
		return nil, cordon.Listing{}, err
	}
	return found, l, nil
}
