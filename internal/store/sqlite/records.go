package sqlite

import (
	"context"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/store/sqlite/compile"
	"github.com/cordon-project/cordon/internal/store/sqlite/engine"
)

// appendAudit writes an entry. If it belongs to a change of an action, seq is
// the action's number; else 0.
func appendAudit(t *engine.Tx, seq int64, e cordon.AuditEntry) error {
	var action, id any
	if seq != 0 {
		action = seq
	} else {
		id = orNull(string(e.Action))
	}
	_, _, err := t.Exec("INSERT INTO audit (at, kind, machine, action, action_id, actor, status, detail, evidence) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
		cordon.Ticks(e.At), string(e.Kind), string(e.Machine), action, id, e.Actor, string(e.Status), e.Detail, e.Evidence)
	return err
}

// Audit implements [cordon.Store]. All entries are written, or none.
func (s *Store) Audit(ctx context.Context, entries ...cordon.AuditEntry) error {
	return s.db.Write(ctx, func(t *engine.Tx) error {
		for _, e := range entries {
			if err := appendAudit(t, 0, e); err != nil {
				return err
			}
		}
		return nil
	})
}

const auditOf = `SELECT seq, at, kind, machine, actor, status, detail, evidence FROM audit WHERE action = (SELECT seq FROM actions WHERE id = ?1)
	UNION ALL SELECT seq, at, kind, machine, actor, status, detail, evidence FROM audit WHERE action_id = ?1 ORDER BY seq`

// AuditOf implements [cordon.Store].
func (s *Store) AuditOf(ctx context.Context, id cordon.ActionID) (entries []cordon.AuditEntry, err error) {
	if id == "" {
		return nil, nil
	}
	err = s.db.Read(ctx, func(c *engine.Conn) error {
		return c.Each(auditOf,
			func(r *engine.Row) {
				entries = append(entries, cordon.AuditEntry{
					Seq: r.Number(), At: r.Time(), Kind: cordon.AuditKind(r.Text()), Machine: cordon.MachineID(r.Text()), Action: id,
					Actor: r.Text(), Status: cordon.Status(r.Text()), Detail: r.Text(), Evidence: r.Text(),
				})
			}, string(id))
	})
	return entries, err
}

const (
	auditPlace   = "SELECT at FROM audit WHERE seq = ? AND action IS NULL"
	auditEntries = "SELECT seq, at, kind, machine, coalesce(action_id, ''), actor, status, detail, evidence FROM audit WHERE action IS NULL AND at >= ?"
)

// AuditEntries implements [cordon.Store].
func (s *Store) AuditEntries(ctx context.Context, q cordon.AuditQuery) (entries []cordon.AuditEntry, err error) {
	err = s.db.Read(ctx, func(c *engine.Conn) error {
		var query compile.SQL
		query.Write(auditEntries, cordon.Ticks(q.Since))
		if q.Before != 0 {
			found, at := false, int64(0)
			if err := c.Each(auditPlace, func(r *engine.Row) { found, at = true, r.Number() }, q.Before); err != nil {
				return err
			}
			if !found {
				return cordon.Errorf(cordon.Invalid, cordon.CodeInvalidInput, "There is no audit entry %d to go on from", q.Before)
			}
			query.Write(" AND (at, seq) < (?, ?)", at, q.Before)
		}
		if len(q.Kinds) > 0 {
			kinds := make([]any, len(q.Kinds))
			for i, k := range q.Kinds {
				kinds[i] = string(k)
			}
			query.Write(" AND kind")
			query.In(kinds)
		}
		query.Write(" ORDER BY at DESC, seq DESC LIMIT ?", int64(q.Limit))
		return c.EachOnce(ctx, query.String(), func(r *engine.Row) {
			entries = append(entries, cordon.AuditEntry{
				Seq: r.Number(), At: r.Time(), Kind: cordon.AuditKind(r.Text()), Machine: cordon.MachineID(r.Text()), Action: cordon.ActionID(r.Text()),
				Actor: r.Text(), Status: cordon.Status(r.Text()), Detail: r.Text(), Evidence: r.Text(),
			})
		}, query.Args...)
	})
	return entries, err
}

// Setting implements [cordon.Store].
func (s *Store) Setting(ctx context.Context, name string) (value []byte, err error) {
	found := false
	err = s.db.Read(ctx, func(c *engine.Conn) error {
		return c.Each("SELECT value FROM settings WHERE name = ?", func(r *engine.Row) { found, value = true, r.Blob() }, name)
	})
	if err == nil && !found {
		err = cordon.Errorf(cordon.NotFound, "", "Setting %s was not found", name)
	}
	return value, err
}

// PutSettings implements [cordon.Store].
func (s *Store) PutSettings(ctx context.Context, values map[string][]byte) error {
	return s.db.Write(ctx, func(t *engine.Tx) error {
		for name, value := range values {
			// The driver takes an empty value for NULL.
			if _, _, err := t.Exec("INSERT OR REPLACE INTO settings (name, value) VALUES (?, coalesce(?, x''))", name, value); err != nil {
				return err
			}
		}
		return nil
	})
}
