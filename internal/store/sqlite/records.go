package sqlite

import (
	"context"

	"github.com/cordon-project/cordon"
)

// appendAudit writes an entry. If it belongs to a change of an action, seq is
// the action's number; else 0.
func appendAudit(t *tx, seq int64, e cordon.AuditEntry) error {
	var action, id any
	if seq != 0 {
		action = seq
	} else {
		id = orNull(string(e.Action))
	}
	_, _, err := t.exec("INSERT INTO audit (at, kind, machine, action, action_id, actor, status, detail, evidence) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
		cordon.Ticks(e.At), string(e.Kind), string(e.Machine), action, id, e.Actor, string(e.Status), e.Detail, e.Evidence)
	return err
}

// Audit implements [cordon.Store]. All entries are written, or none.
func (s *Store) Audit(ctx context.Context, entries ...cordon.AuditEntry) error {
	return s.writer.do(ctx, func(t *tx) error {
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
	err = s.read(ctx, func(c *conn) error {
		return c.each(auditOf,
			func(r *row) {
				entries = append(entries, cordon.AuditEntry{
					Seq: r.number(), At: r.time(), Kind: cordon.AuditKind(r.text()), Machine: cordon.MachineID(r.text()), Action: id,
					Actor: r.text(), Status: cordon.Status(r.text()), Detail: r.text(), Evidence: r.text(),
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
	err = s.read(ctx, func(c *conn) error {
		query := compiler{}
		query.write(auditEntries, cordon.Ticks(q.Since))
		if q.Before != 0 {
			found, at := false, int64(0)
			if err := c.each(auditPlace, func(r *row) { found, at = true, r.number() }, q.Before); err != nil {
				return err
			}
			if !found {
				return cordon.Errorf(cordon.Invalid, cordon.CodeInvalidInput, "There is no audit entry %d to go on from", q.Before)
			}
			query.write(" AND (at, seq) < (?, ?)", at, q.Before)
		}
		if len(q.Kinds) > 0 {
			kinds := make([]any, len(q.Kinds))
			for i, k := range q.Kinds {
				kinds[i] = string(k)
			}
			query.write(" AND kind")
			query.list(kinds)
		}
		query.write(" ORDER BY at DESC, seq DESC LIMIT ?", int64(q.Limit))
		return c.eachOnce(ctx, query.sql.String(), func(r *row) {
			entries = append(entries, cordon.AuditEntry{
				Seq: r.number(), At: r.time(), Kind: cordon.AuditKind(r.text()), Machine: cordon.MachineID(r.text()), Action: cordon.ActionID(r.text()),
				Actor: r.text(), Status: cordon.Status(r.text()), Detail: r.text(), Evidence: r.text(),
			})
		}, query.args...)
	})
	return entries, err
}

// Setting implements [cordon.Store].
func (s *Store) Setting(ctx context.Context, name string) (value []byte, err error) {
	found := false
	err = s.read(ctx, func(c *conn) error {
		return c.each("SELECT value FROM settings WHERE name = ?", func(r *row) { found, value = true, r.blob() }, name)
	})
	if err == nil && !found {
		err = cordon.Errorf(cordon.NotFound, "", "Setting %s was not found", name)
	}
	return value, err
}

// PutSettings implements [cordon.Store].
func (s *Store) PutSettings(ctx context.Context, values map[string][]byte) error {
	return s.writer.do(ctx, func(t *tx) error {
		for name, value := range values {
			// The driver takes an empty value for NULL.
			if _, _, err := t.exec("INSERT OR REPLACE INTO settings (name, value) VALUES (?, coalesce(?, x''))", name, value); err != nil {
				return err
			}
		}
		return nil
	})
}
