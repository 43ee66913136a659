package sqlite

import (
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/store/storetest"
)

var update = flag.Bool("update", false, "write the golden files")

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got; -update writes it):\n%s", name, diff)
	}
}

// TestSchema shows in one place what all migrations together make.
func TestSchema(t *testing.T) {
	s := openNew(t)
	var b strings.Builder
	err := s.read(t.Context(), func(c *conn) error {
		return c.each("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY tbl_name, type = 'index', name", func(r *row) { fmt.Fprintf(&b, "%s;\n\n", r.text()) })
	})
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "schema.sql", b.String())
}

// TestPragmas holds what durability and integrity rest on.
func TestPragmas(t *testing.T) {
	s := openNew(t)
	get := func(c *conn, pragma string) (v any) {
		t.Helper()
		if err := c.each("PRAGMA "+pragma, func(r *row) { v = r.value() }); err != nil {
			t.Error(err)
		}
		return v
	}
	err := s.writer.do(t.Context(), func(tx *tx) error {
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
		c := <-s.readers
		if _, err := c.exec("DELETE FROM settings"); err == nil {
			t.Error("a reader can write")
		}
		defer func() { s.readers <- c }()
	}
}

func TestFileModes(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0))
	path := filepath.Join(t.TempDir(), "cordon.db")
	s := openAt(t, path)
	if err := s.PutSettings(t.Context(), map[string][]byte{"a": nil}); err != nil {
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
	if err := s.Close(); err != nil {
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
		s, err := Open(t.Context(), path)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := errors.Join(s.PutSettings(t.Context(), map[string][]byte{"a": nil}), s.Close()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if info, err := os.Stat(path); err != nil || info.Size() == 0 {
			t.Errorf("%s: not where it should be: %v", name, err)
		}
		if got := settings(t, openAt(t, path)); !slices.Equal(got, []string{"a"}) {
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
	s := openAt(t, path)
	_, err := Open(t.Context(), path)
	if want := fmt.Sprintf("%s is in use by another process (process %d)", path, os.Getpid()); cordon.KindOf(err) != cordon.Unavailable || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want %q in it", err, want)
	}
	if err := s.PutSettings(t.Context(), map[string][]byte{"a": nil}); err != nil { // it was not disturbed
		t.Error(err)
	}
	if err := s.Close(); err != nil {
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
			return errors.Join(c.script(sql), c.Close())
		}
	}
	tests := []struct {
		name    string
		make    func(path string) error
		kind    cordon.Kind
		message string
	}{
		{"newer", write(fmt.Sprintf("CREATE TABLE t (a); PRAGMA application_id = %d; PRAGMA user_version = 1000", applicationID)), cordon.Invalid, "has schema 1000, this version of Cordon knows schemas up to"},
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
			_, err := Open(t.Context(), path)
			if err == nil || cordon.KindOf(err) != tt.kind || !strings.Contains(err.Error(), tt.message) {
				t.Errorf("error %v, want %q in it", err, tt.message)
			}
			if after, _ := os.ReadFile(path); string(after) != string(before) {
				t.Error("the file was changed")
			}
			// Nothing is left open.
			if l, err := lock(path); err == nil {
				_ = l.Close()
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
	defer func() { _ = c.Close() }()
	files := fstest.MapFS{
		"migrations/0001_a.sql": {Data: []byte("CREATE TABLE a (x) STRICT")}, // not valid SQL: a column needs a type
		"migrations/0002_b.sql": {Data: []byte("CREATE TABLE b (x INTEGER) STRICT; INSERT INTO a VALUES (2); SELECT nonsense")},
		"migrations/README":     {Data: []byte("not a migration")},
	}
	step := func(name string, wantErr string, wantVersion int, wantRows string) {
		t.Helper()
		err := migrate(t.Context(), c, path, files)
		if (err == nil) != (wantErr == "") || err != nil && !strings.Contains(err.Error(), wantErr) {
			t.Errorf("%s: error %v, want %q", name, err, wantErr)
		}
		if v, err := schemaVersion(c, path); err != nil || v != wantVersion {
			t.Errorf("%s: version %d, %v, want %d", name, v, err, wantVersion)
		}
		var rows []string
		if wantRows != "" {
			if err := c.each("SELECT group_concat(x) FROM a", func(r *row) { rows = append(rows, r.text()) }); err != nil || rows[0] != wantRows {
				t.Errorf("%s: rows %q, %v, want %q", name, rows, err, wantRows)
			}
		}
	}
	step("first is broken", "0001_a.sql", 0, "")
	files["migrations/0001_a.sql"].Data = []byte("CREATE TABLE a (x INTEGER) STRICT; INSERT INTO a VALUES (1)")
	step("second is broken", "0002_b.sql", 1, "1")
	files["migrations/0002_b.sql"].Data = []byte("CREATE TABLE b (x INTEGER) STRICT; INSERT INTO a VALUES (2) -- ends in a comment")
	step("both", "", 2, "1,2")
	step("again", "", 2, "1,2")
	delete(files, "migrations/0002_b.sql")
	step("older version of Cordon", "Start the newer version", 2, "1,2")
}

// TestAddressesOfOldDatabase: machines that were enrolled before addresses were
// kept are found by those that they had.
func TestAddressesOfOldDatabase(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cordon.db")
	if err := create(path); err != nil {
		t.Fatal(err)
	}
	c, err := connect(path, pragmas...)
	if err != nil {
		t.Fatal(err)
	}
	first, err := migrations.ReadFile("migrations/0001_first.sql")
	if err != nil {
		t.Fatal(err)
	}
	if err := migrate(t.Context(), c, path, fstest.MapFS{"migrations/0001_first.sql": &fstest.MapFile{Data: first}}); err != nil {
		t.Fatal(err)
	}
	m := storetest.Machine("old", "old.example.org")
	m.Facts.Interfaces = append(m.Facts.Interfaces, cordon.Interface{IP: "2001:db8::1"}, cordon.Interface{IP: "::1"}, cordon.Interface{})
	facts, err := document(m.Facts)
	if err != nil {
		t.Fatal(err)
	}
	key, _ := machineKey(m.ID)
	for _, add := range []struct {
		sql  string
		args []any
	}{
		{"INSERT INTO machines (id, last_ip, last_seen, generation) VALUES (?, ?, ?, 0)", []any{key, m.Facts.LastIP, cordon.Ticks(m.LastSeen)}},
		{"INSERT INTO machine_details (machine, key, first_seen, facts, observed) VALUES (?, ?, ?, ?, '{}')", []any{key, []byte(m.Key), cordon.Ticks(m.FirstSeen), facts}},
	} {
		if _, err := c.exec(add.sql, add.args...); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }() // only read
	for address, want := range map[string]int{"10.1.2.3": 1, "2001:db8::1": 1, "127.0.0.1": 0, "::1": 0, "": 0} {
		found, err := s.MachinesByAddress(t.Context(), address, m.LastSeen, m.LastSeen, 10)
		if err != nil || len(found) != want {
			t.Errorf("%q: %d machines, %v; want %d", address, len(found), err, want)
		}
	}
	if got, err := s.Machine(t.Context(), m.ID); err != nil || got.Value != cordon.NormalValue || got.Tags != nil {
		t.Errorf("labels %+v, %v", got.Labels, err)
	}
}

// TestPlans shows how SQLite answers the queries that must stay fast however
// many rows there are.
func TestPlans(t *testing.T) {
	s := openNew(t)
	id := storetest.Machine("plans", "").ID
	key, _ := machineKey(id)
	var b strings.Builder
	explain := func(name, sql string, args ...any) (plan string) {
		t.Helper()
		fmt.Fprintf(&b, "%s\n", name)
		err := s.read(t.Context(), func(c *conn) error {
			return c.eachOnce(t.Context(), "EXPLAIN QUERY PLAN "+sql, func(r *row) {
				r.next = 3
				step := r.text()
				plan += step + "\n"
				fmt.Fprintf(&b, "    %s\n", step)
			}, args...)
		})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		return plan
	}
	list := func(name string, table table, q cordon.Query) string {
		t.Helper()
		q.Top, q.HasTop = 100, true
		_, page, _, err := compile(table, q)
		if err != nil {
			t.Fatal(err)
		}
		return explain(name, page.sql.String(), page.args...)
	}
	eq := func(f cordon.Field, v cordon.Value) cordon.Expr {
		return cordon.Compare{Field: f, Op: cordon.Eq, Value: v}
	}
	type q = cordon.Query
	since := func(f cordon.Field) cordon.Expr {
		return cordon.Compare{Field: f, Op: cordon.Ge, Value: storetest.Noon}
	}
	before := func(f cordon.Field) cordon.Expr {
		return cordon.Compare{Field: f, Op: cordon.Lt, Value: storetest.Noon}
	}
	by := func(f cordon.Field, desc bool) []cordon.Sort { return []cordon.Sort{{Field: f, Desc: desc}} }
	// These have to begin with the first row of their page and end with the last one,
	// each page of them: no row is looked at in vain, and none is sorted.
	created := since("creationDateTimeUtc")
	for _, page := range []struct {
		name  string
		query q
	}{
		{"actions", q{}},
		{"actions by creation", q{OrderBy: by("creationDateTimeUtc", false)}},
		{"actions by update", q{OrderBy: by("lastUpdateDateTimeUtc", true)}},
		{"actions of a machine", q{Filter: eq("machineId", string(id))}},
		{"actions of a status", q{Filter: eq("status", "Failed")}},
		{"actions of a status by creation", q{Filter: eq("status", "Failed"), OrderBy: by("creationDateTimeUtc", false)}},
		{"actions of a status of a time", q{Filter: cordon.And{X: eq("status", "Failed"), Y: cordon.And{X: created, Y: before("creationDateTimeUtc")}}}},
		{"actions of a time", q{Filter: cordon.And{X: created, Y: before("creationDateTimeUtc")}}},
		{"actions of a time by creation", q{Filter: created, OrderBy: by("creationDateTimeUtc", true)}},
		{"actions updated since, by update", q{Filter: since("lastUpdateDateTimeUtc"), OrderBy: by("lastUpdateDateTimeUtc", false)}},
	} {
		next := page.query
		_, _, order, err := compile(actionsTable, next)
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range order {
			next.After = append(next.After, map[cordon.Type]cordon.Value{cordon.TypeTime: storetest.Noon, cordon.TypeInt: int64(7)}[k.typ])
		}
		first, rest := list(page.name, actionsTable, page.query), list("… a later page", actionsTable, next)
		if strings.Contains(first+rest, "TEMP B-TREE") || strings.Contains(rest, "SCAN") || !strings.Contains(rest, "rowid)") && !strings.Contains(rest, "generation<?") || strings.Contains(first, "SCAN") != (page.query.Filter == nil) || strings.Contains(first, "SCAN a\n") {
			t.Errorf("%s: a page costs more than its rows:\n%s\n%s", page.name, first, rest)
		}
	}
	list("actions of a machine of a type", actionsTable, q{Filter: cordon.And{X: eq("type", "Isolate"), Y: eq("machineId", string(id))}})
	list("actions of some machines", actionsTable, q{Filter: cordon.In{Field: "machineId", Values: []cordon.Value{string(id), string(id)}}})
	list("action", actionsTable, q{Filter: eq("id", "x")})
	list("some actions", actionsTable, q{Filter: cordon.In{Field: "id", Values: []cordon.Value{"x", "y"}}})
	list("actions of a machine of a time", actionsTable, q{Filter: cordon.And{X: eq("machineId", string(id)), Y: created}})
	list("actions of a machine by creation", actionsTable, q{Filter: eq("machineId", string(id)), OrderBy: by("creationDateTimeUtc", true)})
	list("actions of a machine of a status", actionsTable, q{Filter: cordon.And{X: eq("machineId", string(id)), Y: eq("status", "Failed")}})
	list("open actions of a machine", actionsTable, q{Filter: cordon.And{X: eq("machineId", string(id)), Y: eq("status", "Pending")}})
	list("actions of some statuses", actionsTable, q{Filter: cordon.In{Field: "status", Values: []cordon.Value{"Failed", "TimeOut"}}})
	list("actions of a status by update", actionsTable, q{Filter: eq("status", "Failed"), OrderBy: by("lastUpdateDateTimeUtc", true)})
	list("pending actions", actionsTable, q{Filter: eq("status", "Pending")})
	list("open actions", actionsTable, q{Filter: cordon.In{Field: "status", Values: []cordon.Value{"Pending", "InProgress"}}})
	list("open actions, either or", actionsTable, q{Filter: cordon.Or{X: eq("status", "Pending"), Y: eq("status", "InProgress")}})
	list("open actions by time", actionsTable, q{Filter: eq("status", "Pending"), OrderBy: []cordon.Sort{{Field: "creationDateTimeUtc"}}})
	list("actions updated since", actionsTable, q{Filter: cordon.Compare{Field: "lastUpdateDateTimeUtc", Op: cordon.Gt, Value: storetest.Noon}})
	list("actions updated since, by time", actionsTable, q{Filter: cordon.Compare{Field: "lastUpdateDateTimeUtc", Op: cordon.Gt, Value: storetest.Noon}, OrderBy: []cordon.Sort{{Field: "lastUpdateDateTimeUtc"}}})
	list("actions created since", actionsTable, q{Filter: cordon.Compare{Field: "creationDateTimeUtc", Op: cordon.Gt, Value: storetest.Noon}})
	machines := machinesTable(storetest.Noon)
	list("machines", machines, q{})
	list("machine", machines, q{Filter: eq("id", string(id))})
	list("machine of a name", machines, q{Filter: eq("computerDnsName", "x")})
	list("machines whose names begin", machines, q{Filter: cordon.Match{Field: "computerDnsName", Kind: cordon.StartsWith, Text: "x"}})
	list("machine of a device id", machines, q{Filter: eq("aadDeviceId", "x")})
	list("machines with a tag", machines, q{Filter: cordon.Any{Field: "machineTags", X: eq(cordon.ElementField, "x")}})
	list("machines whose tags begin", machines, q{Filter: cordon.Any{Field: "machineTags", X: cordon.Match{Field: cordon.ElementField, Kind: cordon.StartsWith, Text: "x"}}})
	list("machines of a group", machines, q{Filter: eq("rbacGroupId", int64(7))})
	explain("TrustOf", trustOf, "all", "machine:", key)
	explain("Groups", groups)
	explain("MachinesByAddress", "SELECT "+machineColumns+" FROM "+machineTables+" WHERE "+byAddress, "192.0.2.1", int64(0), int64(1), int64(10))
	explain("OpenActions", "SELECT "+actionColumns+" FROM actions a WHERE "+openActions, key)
	explain("ExpiredActions", expiredActions, int64(0), int64(0), int64(10))
	explain("CreateAction", nextAction, key)
	explain("AuditOf", auditOf, "x")
	const newest = " ORDER BY at DESC, seq DESC LIMIT 100"
	explain("AuditEntries", auditEntries+newest, int64(0))
	explain("… of a kind, a later page", auditEntries+" AND (at, seq) < (?, ?) AND kind IN (?, ?)"+newest, int64(0), int64(7), int64(7), "trust", "group")
	golden(t, "plans.txt", b.String())
}

// TestMigrateCredentials: the one application of a server that knew one secret
// for each still gets in, and can manage applications.
func TestMigrateCredentials(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cordon.db")
	if err := create(path); err != nil {
		t.Fatal(err)
	}
	c, err := connect(path, pragmas...)
	if err != nil {
		t.Fatal(err)
	}
	first, err := migrations.ReadFile("migrations/0001_first.sql")
	if err != nil {
		t.Fatal(err)
	}
	if err := migrate(t.Context(), c, path, fstest.MapFS{"migrations/0001_first.sql": {Data: first}}); err != nil {
		t.Fatal(err)
	}
	hash := sha256.Sum256([]byte("secret"))
	for i, permissions := range []string{`["Machine.Read.All"]`, `["Machine.Scan"]`, `null`} {
		if _, err := c.exec("INSERT INTO applications VALUES (?, 'o', 'Cordon bootstrap', ?, ?, ?)", fmt.Sprint(i), hash[:], permissions, cordon.Ticks(storetest.Noon.Add(time.Duration(i)*time.Hour))); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	all, err := openAt(t, path).Applications(t.Context())
	if err != nil || len(all) != 3 {
		t.Fatalf("%+v, %v", all, err)
	}
	for i, want := range [][]cordon.Permission{{cordon.MachineReadAll, cordon.ApplicationReadAll, cordon.ApplicationReadWriteAll, cordon.Administer, cordon.AuditLogReadAll}, {cordon.MachineScan}, {}} {
		a := all[i]
		if known, live := a.CheckSecret("secret", storetest.Noon); !known || !live || a.Secrets[0].Created.IsZero() || a.Secrets[0].Expires != nil {
			t.Errorf("secrets %+v", a.Secrets)
		}
		if !slices.Equal(a.Permissions, want) {
			t.Errorf("permissions %v, want %v", a.Permissions, want)
		}
	}
}
