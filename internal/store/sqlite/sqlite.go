// Package sqlite is the [cordon.Store] in a single SQLite file.
//
// # What it owns
//
// The file, its -wal and -shm files, and a -lock file beside it that keeps
// other processes out. One goroutine owns the only connection that writes; a few
// read-only connections serve queries, each used by one caller at a time.
//
// # What it promises
//
// A method that changes something returns nil after its transaction was flushed
// to disk (journal_mode=WAL, synchronous=FULL). All changes that wait while the disk
// flushes share the next transaction, so that the flush is paid once for many;
// each is still all or nothing on its own. Changes take effect in the order in
// which the writer takes them up, and a caller sees its own. A query sees one
// state of the database.
//
// A context that ends before a change has begun withdraws it; after that the
// change is made and its result is returned.
package sqlite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/cordon-project/cordon"
)

// readers is the number of read-only connections: more than one so that a long
// list does not hold up the look-up of a machine, few because each has a cache.
const readers = 4

var (
	// pragmas are set on every connection. The cache (4 MiB) is small on purpose:
	// SQLite walks over the whole of it at the end of most transactions, and the
	// operating system caches the file anyway.
	pragmas = []string{"busy_timeout = 5000", "foreign_keys = ON", "synchronous = FULL", "cache_size = -4096"}
	// The -wal file is folded into the database whenever it has 8,000 pages of
	// 4 KiB: rarely enough to pay off, often enough that those who wait do not notice.
	writerPragmas = []string{"wal_autocheckpoint = 8000", "journal_size_limit = 67108864"}
	readerPragmas = []string{"query_only = ON"}
)

// Store is a database file that is open. It implements [cordon.Store].
type Store struct {
	now     func() time.Time
	lock    *os.File
	writing *conn // the writer's, once there is one
	writer  *writer
	opened  int           // connections for reading
	readers chan *conn    // those that nobody uses
	closing chan struct{} // closed by Close
	closed  func() error  // shuts down once, and returns what came of it
}

var _ cordon.Store = (*Store)(nil)

// An Option changes how a store works.
type Option func(*Store)

// Clock sets what tells the time, by which queries judge whether a machine is
// active. The default is [time.Now].
func Clock(now func() time.Time) Option { return func(s *Store) { s.now = now } }

// Open opens the database in the file path, which it makes (mode 0600) if there
// is none, and brings its schema up to date. It is an error of kind Unavailable
// if another process has it open, and of kind Invalid if the file is not a Cordon
// database or has been written by a newer version of Cordon.
func Open(ctx context.Context, path string, opts ...Option) (_ *Store, err error) {
	if path, err = filepath.Abs(path); err != nil {
		return nil, err
	}
	s := &Store{now: time.Now, readers: make(chan *conn, readers), closing: make(chan struct{})}
	s.closed = sync.OnceValue(s.shutDown)
	for _, o := range opts {
		o(s)
	}
	if s.lock, err = lock(path); err != nil {
		return nil, err
	}
	if err := s.open(ctx, path); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Store) open(ctx context.Context, path string) (err error) {
	if err := create(path); err != nil {
		return fmt.Errorf("create database: %w", err)
	}
	if s.writing, err = connect(path, slices.Concat(pragmas, writerPragmas)...); err != nil {
		return fmt.Errorf("open database %s: %w", path, failure(err))
	}
	if err := migrate(ctx, s.writing, path, migrations); err != nil {
		return err
	}
	for range readers {
		c, err := connect(path, slices.Concat(pragmas, readerPragmas)...)
		if err != nil {
			return fmt.Errorf("open database %s for reading: %w", path, failure(err))
		}
		s.opened++
		s.readers <- c
	}
	s.writer = startWriter(s.writing)
	return nil
}

// Close finishes the changes that were submitted and the queries that run, and
// closes the file. Calls that come later fail with an error of kind Unavailable.
func (s *Store) Close() error { return s.closed() }

func (s *Store) shutDown() error {
	if s.writer != nil {
		s.writer.stop()
	}
	close(s.closing)
	var errs []error
	for range s.opened {
		c := <-s.readers // when its user has returned it
		errs = append(errs, c.Close())
	}
	if s.writing != nil {
		errs = append(errs, s.writing.Close()) // the last: it folds the -wal file into the database and removes it
	}
	return errors.Join(append(errs, s.lock.Close())...)
}

// create makes the file if it is not there, and readable for its owner only.
// SQLite gives the files beside it the same mode.
func create(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Chmod(0o600), f.Sync(), f.Close()); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// read calls f with a connection for reading.
func (s *Store) read(ctx context.Context, f func(*conn) error) error {
	var c *conn
	select {
	case c = <-s.readers:
	case <-s.closing:
		return errClosed
	case <-ctx.Done():
		return failure(ctx.Err())
	}
	defer func() { s.readers <- c }()
	return f(c)
}
