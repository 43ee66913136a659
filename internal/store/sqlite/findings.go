package sqlite

import (
	"context"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/store/sqlite/engine"
)

// PutFindings implements [cordon.Store].
func (s *Store) PutFindings(ctx context.Context, m cordon.MachineID, told cordon.Findings) error {
	key, ok := machineKey(m)
	if !ok {
		return noMachine(string(m))
	}
	doc, err := engine.JSON(told)
	if err != nil {
		return err
	}
	return s.db.Write(ctx, func(t *engine.Tx) error {
		known := false
		if err := t.Each("SELECT 1 FROM machines WHERE id = ?", func(*engine.Row) { known = true }, key); err != nil {
			return err
		}
		if !known {
			return noMachine(string(m))
		}
		_, _, err := t.Exec(`INSERT INTO findings (machine, kind, series, sequence, document) VALUES (?, ?, ?, ?, ?)
			ON CONFLICT (machine, kind) DO UPDATE SET series = excluded.series, sequence = excluded.sequence, document = excluded.document
			WHERE findings.series <> excluded.series OR findings.sequence < excluded.sequence`,
			key, string(told.Kind), told.Series, int64(told.Sequence), doc)
		return err
	})
}

// Findings implements [cordon.Store].
func (s *Store) Findings(ctx context.Context, m cordon.MachineID, kind cordon.FindingKind) (told cordon.Findings, err error) {
	key, ok := machineKey(m)
	if !ok {
		return told, noMachine(string(m))
	}
	found := false
	err = s.db.Read(ctx, func(c *engine.Conn) error {
		return c.Each("SELECT document FROM findings WHERE machine = ? AND kind = ?", func(r *engine.Row) {
			found = true
			r.JSON(&told)
		}, key, string(kind))
	})
	if err == nil && !found {
		err = cordon.Errorf(cordon.NotFound, "", "Machine %s has told nothing of this kind", m)
	}
	return told, err
}
