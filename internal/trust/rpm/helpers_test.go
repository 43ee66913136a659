package rpm

import (
	"crypto/md5"
	"crypto/sha256"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

func md5hex(s string) string { return fmt.Sprintf("%x", md5.Sum([]byte(s))) }
func shahex(s string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(s))) }

func describe(pkg, path string, size int64, mode uint16, config bool, digest string) string {
	return fmt.Sprintf("%s %s %d %o %t %s", pkg, path, size, mode, config, digest)
}

func copyFile(t testing.TB, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// difference returns what is only in a and only in b; both are sorted.
func difference(a, b []string) (onlyA, onlyB []string) {
	for len(a) > 0 || len(b) > 0 {
		switch {
		case len(b) == 0 || len(a) > 0 && a[0] < b[0]:
			onlyA, a = append(onlyA, a[0]), a[1:]
		case len(a) == 0 || b[0] < a[0]:
			onlyB, b = append(onlyB, b[0]), b[1:]
		default:
			a, b = a[1:], b[1:]
		}
	}
	return onlyA, onlyB
}

// testSQLite writes the tables of rpmdb.sqlite that matter.
func testSQLite(t testing.TB, headers ...[]byte) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "rpmdb.sqlite")
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec("PRAGMA page_size=512; PRAGMA synchronous=OFF; PRAGMA journal_mode=OFF; CREATE TABLE Packages (hnum INTEGER PRIMARY KEY AUTOINCREMENT, blob BLOB NOT NULL); " +
		"CREATE TABLE Name (key TEXT NOT NULL, hnum INTEGER NOT NULL, idx INTEGER NOT NULL)"); err != nil {
		t.Fatal(err)
	}
	for i, h := range headers {
		if _, err := db.Exec("INSERT INTO Packages (blob) VALUES (?); INSERT INTO Name VALUES ('name', ?, 0)", h, i+1); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
