package sqlite

import (
	"context"
	"fmt"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/store/sqlite/compile"
	"github.com/cordon-project/cordon/internal/store/sqlite/engine"
)

// CreateGroup implements [cordon.Store].
func (s *Store) CreateGroup(ctx context.Context, name string, entry cordon.AuditEntry) (g cordon.GroupInfo, err error) {
	err = s.db.Write(ctx, func(t *engine.Tx) error {
		known, groups := false, int64(0)
		err := t.Each("SELECT count(*), coalesce(max(folded = ?), 0) FROM device_groups", func(r *engine.Row) { groups, known = r.Number(), r.Number() != 0 }, cordon.Fold(name))
		switch {
		case err != nil:
			return err
		case known:
			return groupExists(name)
		case groups >= cordon.MaxGroups:
			return cordon.Errorf(cordon.Conflict, "", "There are %d groups already, which is the most", groups)
		}
		_, id, err := t.Exec("INSERT INTO device_groups (name, folded, created) VALUES (?, ?, ?)", name, cordon.Fold(name), cordon.Ticks(entry.At))
		if err == nil {
			g = cordon.GroupInfo{Group: cordon.Group{ID: id, Name: name}, Created: stored(entry.At)}
			err = appendAudit(t, 0, entry)
		}
		return err
	})
	if err != nil {
		return cordon.GroupInfo{}, err
	}
	return g, nil
}

// groupOf returns a group, or an error of kind NotFound.
func groupOf(t *engine.Tx, id int64) (g cordon.Group, err error) {
	err = t.Each("SELECT id, name FROM device_groups WHERE id = ?", func(r *engine.Row) { g = cordon.Group{ID: r.Number(), Name: r.Text()} }, id)
	if err == nil && g.ID == 0 {
		err = cordon.Errorf(cordon.NotFound, "", "Group %d was not found", id)
	}
	return g, err
}

// RenameGroup implements [cordon.Store].
func (s *Store) RenameGroup(ctx context.Context, id int64, name string, entry cordon.AuditEntry) error {
	return s.db.Write(ctx, func(t *engine.Tx) error {
		if _, err := groupOf(t, id); err != nil {
			return err
		}
		taken := false
		if err := t.Each("SELECT 1 FROM device_groups WHERE folded = ? AND id <> ?", func(*engine.Row) { taken = true }, cordon.Fold(name), id); err != nil {
			return err
		}
		if taken {
			return groupExists(name)
		}
		if _, _, err := t.Exec("UPDATE device_groups SET name = ?, folded = ? WHERE id = ?", name, cordon.Fold(name), id); err != nil {
			return err
		}
		return appendAudit(t, 0, entry)
	})
}

func groupExists(name string) error {
	return cordon.Errorf(cordon.Conflict, "", "There is a group %s already", name)
}

// DeleteGroup implements [cordon.Store].
func (s *Store) DeleteGroup(ctx context.Context, id int64, entry cordon.AuditEntry) error {
	return s.db.Write(ctx, func(t *engine.Tx) error {
		g, err := groupOf(t, id)
		if err != nil {
			return err
		}
		rules := int64(0)
		if err := t.Each("SELECT count(*) FROM trust WHERE scope = ?", func(r *engine.Row) { rules = r.Number() }, string(cordon.TrustGroup(id))); err != nil {
			return err
		}
		if rules > 0 {
			return cordon.Errorf(cordon.Conflict, "", "%d files are trusted for the group %s: remove these rules first, so that deleting the group changes nothing that may run", rules, g.Name)
		}
		if _, _, err := t.Exec("UPDATE machines SET group_id = NULL WHERE group_id = ?", id); err != nil {
			return err
		}
		if _, _, err := t.Exec("DELETE FROM device_groups WHERE id = ?", id); err != nil {
			return err
		}
		return appendAudit(t, 0, entry)
	})
}

const groups = `SELECT g.id, g.name, g.created, (SELECT count(*) FROM machines m WHERE m.group_id = g.id),
	(SELECT count(*) FROM trust t WHERE t.scope = 'group:' || g.id) FROM device_groups g ORDER BY g.folded`

// Groups implements [cordon.Store].
func (s *Store) Groups(ctx context.Context) (found []cordon.GroupInfo, err error) {
	err = s.db.Read(ctx, func(c *engine.Conn) error {
		return c.Each(groups, func(r *engine.Row) {
			found = append(found, cordon.GroupInfo{Group: cordon.Group{ID: r.Number(), Name: r.Text()}, Created: r.Time(), Machines: int(r.Number()), Trusted: int(r.Number())})
		})
	})
	return found, err
}

// ChangeGroups implements [cordon.Store].
func (s *Store) ChangeGroups(ctx context.Context, ids []cordon.MachineID, change cordon.GroupChange) (moved []cordon.MachineID, err error) {
	err = s.db.Write(ctx, func(t *engine.Tx) error {
		moved = nil // work may run more than once
		for _, id := range ids {
			m, key, err := machineIn(t, id)
			if err != nil {
				return err
			}
			before := m.Group.ID
			to, entries, err := change(m)
			if err != nil {
				return err
			}
			if to != before {
				moved = append(moved, id)
				if err := moveMachine(t, key, to); err != nil {
					return err
				}
			}
			for _, e := range entries {
				if err := appendAudit(t, 0, e); err != nil {
					return err
				}
			}
		}
		if len(moved) == 0 {
			return nil
		}
		_, _, err := t.Exec("UPDATE trust_revision SET revision = revision + 1")
		return err
	})
	if err != nil {
		return nil, err
	}
	return moved, nil
}

func moveMachine(t *engine.Tx, key []byte, to int64) error {
	var group any
	if to != 0 {
		if _, err := groupOf(t, to); err != nil {
			return err
		}
		group = to
	}
	if _, _, err := t.Exec("UPDATE machines SET group_id = ? WHERE id = ?", group, key); err != nil {
		return fmt.Errorf("move machine to group %d: %w", to, err)
	}
	return nil
}

// amongGroups is for filters by a machine's group, of which 0 is none.
func amongGroups(s *compile.SQL, values []any) {
	var ids []any
	for _, v := range values {
		if v == int64(0) {
			s.Write("m.group_id IS NULL OR ")
		} else {
			ids = append(ids, v)
		}
	}
	s.Write("m.group_id IS NOT NULL AND m.group_id")
	s.In(ids)
}
