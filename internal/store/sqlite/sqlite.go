// Package sqlite is the [cordon.Store] in a single SQLite file: which tables there
// are, and what of the domain is in them. How the file is read and written, and
// when a change is safe, is package engine's affair and promise.
package sqlite

import (
	"context"
	"embed"
	"io/fs"
	"time"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/store/sqlite/engine"
)

// Store is a database file that is open. It implements [cordon.Store].
type Store struct {
	db  *engine.DB
	now func() time.Time
}

var _ cordon.Store = (*Store)(nil)

// An Option changes how a store works.
type Option func(*Store)

// Clock sets what tells the time, by which queries judge whether a machine is
// active. The default is [time.Now].
func Clock(now func() time.Time) Option { return func(s *Store) { s.now = now } }

// applicationID marks the file as ours: "Crdn".
const applicationID = 0x4372646e

//go:embed migrations/*.sql
var migrations embed.FS

// Open opens the database in the file path, which it makes (mode 0600) if there
// is none, and brings its schema up to date. It is an error of kind Unavailable
// if another process has it open, and of kind Invalid if the file is not a Cordon
// database or has been written by a newer version of Cordon.
func Open(ctx context.Context, path string, opts ...Option) (*Store, error) {
	sql, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, err
	}
	s := &Store{now: time.Now}
	for _, o := range opts {
		o(s)
	}
	if s.db, err = engine.Open(ctx, path, engine.Schema{Application: applicationID, Migrations: sql}); err != nil {
		return nil, err
	}
	return s, nil
}

// Close finishes the changes that were submitted and the queries that run, and
// closes the file. Calls that come later fail with an error of kind Unavailable.
func (s *Store) Close() error { return s.db.Close() }

// stored returns t as the database gives it back.
func stored(t time.Time) time.Time { return cordon.TimeOfTicks(cordon.Ticks(t)) }

// orNull returns NULL for the empty string.
func orNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}
