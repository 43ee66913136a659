package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"

	"github.com/cordon-project/cordon"
)

// testSchema is the schema of the tests' databases.
var testSchema = Schema{Application: 0x54657374, Migrations: fstest.MapFS{
	"0001_words.sql": {Data: []byte("CREATE TABLE words (word TEXT PRIMARY KEY NOT NULL) STRICT; CREATE TABLE meanings (word TEXT NOT NULL REFERENCES words) STRICT")},
}}

func openNew(t *testing.T) *DB {
	t.Helper()
	return openAt(t, filepath.Join(t.TempDir(), "cordon.db"))
}

func openAt(t *testing.T, path string) *DB {
	t.Helper()
	db, err := Open(t.Context(), path, testSchema)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

// TestPragmas holds what durability and integrity rest on.
func TestPragmas(t *testing.T) {
	db := openNew(t)
	get := func(c *Conn, pragma string) (v any) {
		t.Helper()
		if err := c.Each("PRAGMA "+pragma, func(r *Row) { v = r.Value() }); err != nil {
			t.Error(err)
		}
		return v
	}
	err := db.Write(t.Context(), func(tx *Tx) error {
		for pragma, want := range map[string]any{"journal_mode": "wal", "synchronous": int64(2), "foreign_keys": int64(1), "busy_timeout": int64(5000)} {
			if got := get(tx.conn, pragma); got != want {
				t.Errorf("writer: %s is %v, want %v", pragma, got, want)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for range readers {
		c := <-db.readers
		if _, err := c.exec("DELETE FROM words"); err == nil {
			t.Error("a reader can write")
		}
		defer func() { db.readers <- c }()
	}
}

func TestFileModes(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0))
	path := filepath.Join(t.TempDir(), "cordon.db")
	db := openAt(t, path)
	if err := db.Write(t.Context(), put("a")); err != nil {
		t.Fatal(err)
	}
	for _, suffix := range []string{"", "-wal", "-shm", "-lock"} {
		info, err := os.Stat(path + suffix)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != 0o600 {
			t.Errorf("%s has mode %s", info.Name(), info.Mode())
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	openAt(t, path)
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

// TestPath opens files whose names mean something in a URI.
func TestPath(t *testing.T) {
	for _, name := range []string{"a b.db", "a?mode=memory.db", "a#b.db", "100%25.db", "ä'\"\\.db", ":memory:"} {
		path := filepath.Join(t.TempDir(), name)
		db, err := Open(t.Context(), path, testSchema)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := errors.Join(db.Write(t.Context(), put("a")), db.Close()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if info, err := os.Stat(path); err != nil || info.Size() == 0 {
			t.Errorf("%s: not where it should be: %v", name, err)
		}
		if got := words(t, openAt(t, path)); !slices.Equal(got, []string{"a"}) {
			t.Errorf("%s: there are %q", name, got)
		}
	}
	t.Chdir(t.TempDir())
	openAt(t, "relative.db")
	if _, err := os.Stat("relative.db"); err != nil {
		t.Error(err)
	}
}

func TestInUse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cordon.db")
	db := openAt(t, path)
	_, err := Open(t.Context(), path, testSchema)
	if want := fmt.Sprintf("%s is in use by another process (process %d)", path, os.Getpid()); cordon.KindOf(err) != cordon.Unavailable || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want %q in it", err, want)
	}
	if err := db.Write(t.Context(), put("a")); err != nil { // it was not disturbed
		t.Error(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	openAt(t, path)
}

func TestOpenRefuses(t *testing.T) {
	write := func(sql string) func(string) error {
		return func(path string) error {
			if err := create(path); err != nil {
				return err
			}
			c, err := connect(path)
			if err != nil {
				return err
			}
			return errors.Join(c.script(sql), c.close())
		}
	}
	tests := []struct {
		name    string
		make    func(path string) error
		kind    cordon.Kind
		message string
	}{
		{"newer", write(fmt.Sprintf("CREATE TABLE t (a); PRAGMA application_id = %d; PRAGMA user_version = 1000", testSchema.Application)), cordon.Invalid, "has schema 1000, this version of Cordon knows schemas up to"},
		{"somebody else's", write("CREATE TABLE t (a)"), cordon.Invalid, "not one of Cordon's"},
		{"somebody else's, versioned", write("PRAGMA user_version = 1"), cordon.Invalid, "not one of Cordon's"},
		{"no database", func(path string) error {
			return os.WriteFile(path, []byte(strings.Repeat("not a database ", 100)), 0o600)
		}, cordon.Invalid, "not a database"},
		{"directory", func(path string) error { return os.Mkdir(path, 0o700) }, cordon.Internal, "is a directory"},
		{"no directory", func(path string) error { return os.Remove(filepath.Dir(path)) }, cordon.Internal, "no such file or directory"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "sub", "cordon.db")
			if err := errors.Join(os.Mkdir(filepath.Dir(path), 0o700), tt.make(path)); err != nil {
				t.Fatal(err)
			}
			before, _ := os.ReadFile(path)
			_, err := Open(t.Context(), path, testSchema)
			if err == nil || cordon.KindOf(err) != tt.kind || !strings.Contains(err.Error(), tt.message) {
				t.Errorf("error %v, want %q in it", err, tt.message)
			}
			if after, _ := os.ReadFile(path); string(after) != string(before) {
				t.Error("the file was changed")
			}
			// Nothing is left open.
			if l, err := lock(path); err == nil {
				_ = l.Close() // the file is nobody's now
			} else if !errors.Is(err, fs.ErrNotExist) {
				t.Error(err)
			}
		})
	}
}

// TestMigrate interrupts migrations and takes them up again.
func TestMigrate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cordon.db")
	if err := create(path); err != nil {
		t.Fatal(err)
	}
	c, err := connect(path, pragmas...)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.close() }() // the test is over
	files := fstest.MapFS{
		"0001_a.sql": {Data: []byte("CREATE TABLE a (x) STRICT")}, // not valid SQL: a column needs a type
		"0002_b.sql": {Data: []byte("CREATE TABLE b (x INTEGER) STRICT; INSERT INTO a VALUES (2); SELECT nonsense")},
		"README":     {Data: []byte("not a migration")},
	}
	step := func(name string, wantErr string, wantVersion int, wantRows string) {
		t.Helper()
		err := migrate(t.Context(), c, path, Schema{testSchema.Application, files})
		if (err == nil) != (wantErr == "") || err != nil && !strings.Contains(err.Error(), wantErr) {
			t.Errorf("%s: error %v, want %q", name, err, wantErr)
		}
		if v, err := schemaVersion(c, path, testSchema.Application); err != nil || v != wantVersion {
			t.Errorf("%s: version %d, %v, want %d", name, v, err, wantVersion)
		}
		var rows []string
		if wantRows != "" {
			if err := c.Each("SELECT group_concat(x) FROM a", func(r *Row) { rows = append(rows, r.Text()) }); err != nil || rows[0] != wantRows {
				t.Errorf("%s: rows %q, %v, want %q", name, rows, err, wantRows)
			}
		}
	}
	step("first is broken", "0001_a.sql", 0, "")
	files["0001_a.sql"].Data = []byte("CREATE TABLE a (x INTEGER) STRICT; INSERT INTO a VALUES (1)")
	step("second is broken", "0002_b.sql", 1, "1")
	files["0002_b.sql"].Data = []byte("CREATE TABLE b (x INTEGER) STRICT; INSERT INTO a VALUES (2) -- ends in a comment")
	step("both", "", 2, "1,2")
	step("again", "", 2, "1,2")
	delete(files, "0002_b.sql")
	step("older version of Cordon", "Start the newer version", 2, "1,2")
}
