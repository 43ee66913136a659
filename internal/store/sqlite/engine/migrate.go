package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/cordon-project/cordon"
)

// Schema is what the tables of a file are to be.
type Schema struct {
	// Application marks a file as one of these (PRAGMA application_id). It is not 0.
	Application int32
	// Migrations are the *.sql in the root of this file system. They are applied in
	// the order of their names, each once and in a transaction of its own. Once
	// released a migration never changes. The number of those that a database has
	// seen is its schema version (PRAGMA user_version).
	Migrations fs.FS
}

// migrate brings the schema of the file at path up to date.
func migrate(ctx context.Context, c *Conn, path string, schema Schema) error {
	version, err := schemaVersion(c, path, schema.Application)
	if err != nil {
		return err
	}
	files, err := fs.Glob(schema.Migrations, "*.sql") // sorted
	if err != nil {
		return err
	}
	if version > len(files) {
		return cordon.Errorf(cordon.Invalid, "", "The database %s has schema %d, this version of Cordon knows schemas up to %d. Start the newer version that wrote it, or restore a backup", path, version, len(files))
	}
	var mode string
	if err := c.Each("PRAGMA journal_mode = WAL", func(r *Row) { mode = r.Text() }); err != nil {
		return fmt.Errorf("switch database to write-ahead logging: %w", err)
	}
	if mode != "wal" {
		return fmt.Errorf("switch database to write-ahead logging: the file system of %s does not allow it (journal mode stays %s)", path, mode)
	}
	for i, name := range files[version:] {
		if err := ctx.Err(); err != nil {
			return failure(err)
		}
		sql, err := fs.ReadFile(schema.Migrations, name)
		if err != nil {
			return err
		}
		// The version is part of the transaction.
		err = c.script(fmt.Sprintf("BEGIN IMMEDIATE;\n%s\n;PRAGMA application_id = %d; PRAGMA user_version = %d; COMMIT", sql, schema.Application, version+i+1))
		if err != nil {
			return errors.Join(fmt.Errorf("migrate database to %s: %w", name, failure(err)), c.script("ROLLBACK"))
		}
	}
	return nil
}

// schemaVersion returns how many migrations the file has seen. A file that is
// neither empty nor ours is an error.
func schemaVersion(c *Conn, path string, application int32) (int, error) {
	var id, version, tables int64
	err := errors.Join(
		c.Each("PRAGMA application_id", func(r *Row) { id = r.Number() }),
		c.Each("PRAGMA user_version", func(r *Row) { version = r.Number() }),
		c.Each("SELECT count(*) FROM sqlite_schema", func(r *Row) { tables = r.Number() }),
	)
	if err != nil {
		return 0, fmt.Errorf("read schema version of database %s: %w", path, err)
	}
	if id != int64(application) && (version != 0 || tables != 0) {
		return 0, cordon.Errorf(cordon.Invalid, "", "The file %s is a database, but not one of Cordon's. Use another data directory", path)
	}
	return int(version), nil
}
