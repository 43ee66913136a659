// Package engine is a SQLite file: who reads it, who writes it, and when what was
// written is safe. It knows no table of it.
//
// # What it owns
//
// The file, its -wal and -shm files, and a -lock file beside it that keeps
// other processes out. One goroutine owns the only connection that writes; a few
// read-only connections serve queries, each used by one caller at a time.
//
// # What it promises
//
// [DB.Write] returns nil after its transaction was flushed to disk
// (journal_mode=WAL, synchronous=FULL). All changes that wait while the disk
// flushes share the next transaction, so that the flush is paid once for many;
// each is still all or nothing on its own. Changes take effect in the order in
// which the writer takes them up, and a caller sees its own. A query sees one
// state of the database.
//
// A context that ends before a change has begun withdraws it; after that the
// change is made and its result is returned.
//
// Errors of its own are those that [cordon.Store] allows, with a sentence for people.
package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
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

// DB is a database file that is open.
type DB struct {
	lock    *os.File
	writing *Conn // the writer's, once there is one
	writer  *writer
	opened  int           // connections for reading
	readers chan *Conn    // those that nobody uses
	closing chan struct{} // closed by Close
	closed  func() error  // shuts down once, and returns what came of it
}

// Open opens the database in the file path, which it makes (mode 0600) if there
// is none, and brings its schema up to date. It is an error of kind Unavailable
// if another process has it open, and of kind Invalid if the file is not a
// database of this application or has been written by a newer version of Cordon.
func Open(ctx context.Context, path string, schema Schema) (_ *DB, err error) {
	if path, err = filepath.Abs(path); err != nil {
		return nil, err
	}
	db := &DB{readers: make(chan *Conn, readers), closing: make(chan struct{})}
	db.closed = sync.OnceValue(db.shutDown)
	if db.lock, err = lock(path); err != nil {
		return nil, err
	}
	if err := db.open(ctx, path, schema); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

func (db *DB) open(ctx context.Context, path string, schema Schema) (err error) {
	if err := create(path); err != nil {
		return fmt.Errorf("create database: %w", err)
	}
	if db.writing, err = connect(path, slices.Concat(pragmas, writerPragmas)...); err != nil {
		return fmt.Errorf("open database %s: %w", path, failure(err))
	}
	if err := migrate(ctx, db.writing, path, schema); err != nil {
		return err
	}
	for range readers {
		c, err := connect(path, slices.Concat(pragmas, readerPragmas)...)
		if err != nil {
			return fmt.Errorf("open database %s for reading: %w", path, failure(err))
		}
		db.opened++
		db.readers <- c
	}
	db.writer = startWriter(db.writing)
	return nil
}

// Close finishes the changes that were submitted and the queries that run, and
// closes the file. Calls that come later fail with an error of kind Unavailable.
func (db *DB) Close() error { return db.closed() }

func (db *DB) shutDown() error {
	if db.writer != nil {
		db.writer.stop()
	}
	close(db.closing)
	var errs []error
	for range db.opened {
		c := <-db.readers // when its user has returned it
		errs = append(errs, c.close())
	}
	if db.writing != nil {
		errs = append(errs, db.writing.close()) // the last: it folds the -wal file into the database and removes it
	}
	return errors.Join(append(errs, db.lock.Close())...)
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

// Read calls f with a connection for reading, and returns its error.
func (db *DB) Read(ctx context.Context, f func(*Conn) error) error {
	var c *Conn
	select {
	case c = <-db.readers:
	case <-db.closing:
		return errClosed
	case <-ctx.Done():
		return failure(ctx.Err())
	}
	defer func() { db.readers <- c }()
	return f(c)
}

// Write runs work in a transaction, together with other work, and returns when
// that is durable. If work returns an error nothing of it stays; work may run
// more than once, of which the last run counts. If ctx ends before work has begun
// it is not done at all; afterwards ctx has no effect.
func (db *DB) Write(ctx context.Context, work func(*Tx) error) error { return db.writer.do(ctx, work) }
