package sqlite

import (
	"crypto/sha256"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/store/sqlite/compile"
	"github.com/cordon-project/cordon/internal/store/sqlite/engine"
	"github.com/cordon-project/cordon/internal/store/storetest"
	"github.com/cordon-project/cordon/internal/testkit/golden"
)

// TestSchema shows in one place what all migrations together make.
func TestSchema(t *testing.T) {
	s := openNew(t)
	var b strings.Builder
	err := s.db.Read(t.Context(), func(c *engine.Conn) error {
		return c.Each("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY tbl_name, type = 'index', name", func(r *engine.Row) { fmt.Fprintf(&b, "%s;\n\n", r.Text()) })
	})
	if err != nil {
		t.Fatal(err)
	}
	golden.Compare(t, "testdata/schema.sql", b.String())
}

// openFirst opens the database of a server of the first version.
func openFirst(t *testing.T, path string) *engine.DB {
	t.Helper()
	const name = "0001_first.sql"
	sql, err := migrations.ReadFile("migrations/" + name)
	if err != nil {
		t.Fatal(err)
	}
	db, err := engine.Open(t.Context(), path, engine.Schema{Application: applicationID, Migrations: fstest.MapFS{name: {Data: sql}}})
	if err != nil {
		t.Fatal(err)
	}
	return db
}

// TestAddressesOfOldDatabase: machines that were enrolled before addresses were
// kept are found by those that they had.
func TestAddressesOfOldDatabase(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cordon.db")
	db := openFirst(t, path)
	m := storetest.Machine("old", "old.example.org")
	m.Facts.Interfaces = append(m.Facts.Interfaces, cordon.Interface{IP: "2001:db8::1"}, cordon.Interface{IP: "::1"}, cordon.Interface{})
	facts, err := engine.JSON(m.Facts)
	if err != nil {
		t.Fatal(err)
	}
	key, _ := machineKey(m.ID)
	err = db.Write(t.Context(), func(t *engine.Tx) error {
		_, _, err := t.Exec("INSERT INTO machines (id, last_ip, last_seen, generation) VALUES (?, ?, ?, 0)", key, m.Facts.LastIP, cordon.Ticks(m.LastSeen))
		if err == nil {
			_, _, err = t.Exec("INSERT INTO machine_details (machine, key, first_seen, facts, observed) VALUES (?, ?, ?, ?, '{}')", key, []byte(m.Key), cordon.Ticks(m.FirstSeen), facts)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
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
		err := s.db.Read(t.Context(), func(c *engine.Conn) error {
			return c.EachOnce(t.Context(), "EXPLAIN QUERY PLAN "+sql, func(r *engine.Row) {
				for range 3 {
					r.Value() // the numbers of the step
				}
				step := r.Text()
				plan += step + "\n"
				fmt.Fprintf(&b, "    %s\n", step)
			}, args...)
		})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		return plan
	}
	list := func(name string, table compile.Table, q cordon.Query) string {
		t.Helper()
		q.Top, q.HasTop = 100, true
		answer, err := compile.Query(table, q)
		if err != nil {
			t.Fatal(err)
		}
		return explain(name, answer.Page.String(), answer.Page.Args...)
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
		answer, err := compile.Query(actionsTable, next)
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range answer.Order {
			next.After = append(next.After, map[cordon.Type]cordon.Value{cordon.TypeTime: storetest.Noon, cordon.TypeInt: int64(7)}[k.Type])
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
	golden.Compare(t, "testdata/plans.txt", b.String())
}

// TestMigrateCredentials: the one application of a server that knew one secret
// for each still gets in, and can manage applications.
func TestMigrateCredentials(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cordon.db")
	db := openFirst(t, path)
	hash := sha256.Sum256([]byte("secret"))
	for i, permissions := range []string{`["Machine.Read.All"]`, `["Machine.Scan"]`, `null`} {
		err := db.Write(t.Context(), func(t *engine.Tx) error {
			_, _, err := t.Exec("INSERT INTO applications VALUES (?, 'o', 'Cordon bootstrap', ?, ?, ?)", fmt.Sprint(i), hash[:], permissions, cordon.Ticks(storetest.Noon.Add(time.Duration(i)*time.Hour)))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
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
