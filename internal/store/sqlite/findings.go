package sqlite

import (
	"context"

	"github.com/cordon-project/cordon"
)

// PutFindings implements [cordon.Store].
func (s *Store) PutFindings(ctx context.Context, m cordon.MachineID, told cordon.Findings) error {
	key, ok := machineKey(m)
	if !ok {
		return noMachine(string(m))
	}
	doc, err := document(told)
	if err != nil {
		return err
	}
	return s.writer.do(ctx, func(t *tx) error {
		known := false
		if err := t.each("SELECT 1 FROM machines WHERE id = ?", func(*row) { known = true }, key); err != nil {
			return err
		}
		if !known {
			return noMachine(string(m))
		}
		_, _, err := t.exec(`INSERT INTO findings (machine, kind, series, sequence, document) VALUES (?, ?, ?, ?, ?)
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
	err = s.read(ctx, func(c *conn) error {
		return c.each("SELECT document FROM findings WHERE machine = ? AND kind = ?", func(r *row) {
			found = true
			r.document(&told)
		}, key, string(kind))
	})
	if err == nil && !found {
		err = cordon.Errorf(cordon.NotFound, "", "Machine %s has told nothing of this kind", m)
	}
	return told, err
}
