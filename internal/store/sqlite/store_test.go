package sqlite

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/store/sqlite/engine"
	"github.com/cordon-project/cordon/internal/store/storetest"
)

func openNew(t *testing.T) *Store {
	t.Helper()
	return openAt(t, filepath.Join(t.TempDir(), "cordon.db"))
}

func openAt(t *testing.T, path string) *Store {
	t.Helper()
	s, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestDiskFull(t *testing.T) {
	s := openNew(t)
	m := storetest.Machine("full", "full")
	if _, err := s.EnrolMachine(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	limit := func(pages string) {
		t.Helper()
		if err := s.db.Write(t.Context(), func(t *engine.Tx) error {
			_, _, err := t.Exec("PRAGMA max_page_count = " + pages)
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	limit("40")
	long := strings.Repeat("x", cordon.MaxComment)
	acknowledged := 0
	var full error
	for full == nil {
		d := storetest.Draft(m.ID, cordon.ActionType(fmt.Sprint("Type", acknowledged)))
		d.Comment = long
		if _, full = s.CreateAction(t.Context(), d); full == nil {
			acknowledged++
		}
	}
	if cordon.KindOf(full) != cordon.Unavailable || !strings.Contains(full.Error(), "disk is full") {
		t.Errorf("error %v", full)
	}
	all, _, err := s.Actions(t.Context(), cordon.Query{})
	if err != nil || len(all) != acknowledged || acknowledged == 0 {
		t.Errorf("%d actions of %d, %v", len(all), acknowledged, err)
	}
	limit("4000000000")
	d := storetest.Draft(m.ID, "Next")
	d.Comment = long
	if a, err := s.CreateAction(t.Context(), d); err != nil || a.Generation != uint64(acknowledged)+1 {
		t.Errorf("generation %d after %d, %v", a.Generation, acknowledged, err)
	}
	checkFile(t, s)
}

// checkFile lets SQLite look for damage.
func checkFile(t *testing.T, s *Store) {
	t.Helper()
	var lines []string
	collect := func(r *engine.Row) { lines = append(lines, r.Text()) }
	err := s.db.Read(t.Context(), func(c *engine.Conn) error {
		return errors.Join(c.Each("PRAGMA integrity_check", collect), c.Each("PRAGMA foreign_key_check", collect))
	})
	if err != nil || !slices.Equal(lines, []string{"ok"}) {
		t.Errorf("integrity: %q, %v", lines, err)
	}
}

// TestOrigin holds that a change cannot make an action another one.
func TestOrigin(t *testing.T) {
	s := openNew(t)
	m := storetest.Machine("origin", "origin")
	if _, err := s.EnrolMachine(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	a, err := s.CreateAction(t.Context(), storetest.Draft(m.ID, cordon.RestrictCodeExecution))
	if err != nil {
		t.Fatal(err)
	}
	for i, forge := range []func(*cordon.Action){
		func(a *cordon.Action) { a.ID = "x" }, func(a *cordon.Action) { a.Machine = "x" }, func(a *cordon.Action) { a.Generation++ },
		func(a *cordon.Action) { a.Type = "x" }, func(a *cordon.Action) { a.Comment = "x" }, func(a *cordon.Action) { a.Expires = a.Expires.Add(time.Second) },
	} {
		_, err := s.ChangeAction(t.Context(), a.ID, func(a cordon.Action) (cordon.Action, []cordon.AuditEntry, error) {
			forge(&a)
			a.Status = cordon.Failed
			return a, nil, nil
		})
		if err == nil || cordon.KindOf(err) != cordon.Internal {
			t.Errorf("%d: error %v", i, err)
		}
	}
	if got, err := s.Action(t.Context(), a.ID); err != nil || got != a {
		t.Errorf("after it: %+v, %v", got, err)
	}
}

// TestEnrolmentIsAudited looks where [cordon.Store] does not show it.
func TestEnrolmentIsAudited(t *testing.T) {
	s := openNew(t)
	m := storetest.Machine("audited", "audited")
	for range 2 {
		if _, err := s.EnrolMachine(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	err := s.db.Read(t.Context(), func(c *engine.Conn) error {
		return c.Each("SELECT kind, machine, actor, at FROM audit", func(r *engine.Row) { got = append(got, fmt.Sprint(r.Text(), r.Text(), r.Text(), r.Time())) })
	})
	want := fmt.Sprint("enrolled", string(m.ID), string(m.ID), storetest.Noon)
	if err != nil || !slices.Equal(got, []string{want, want}) {
		t.Errorf("audit: %q, %v", got, err)
	}
}

// TestOneState holds that a page and its count are of the same moment.
func TestOneState(t *testing.T) {
	s := openNew(t)
	m := storetest.Machine("state", "state")
	if _, err := s.EnrolMachine(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	done := make(chan struct{})
	wg.Go(func() {
		defer close(done)
		for i := range 300 {
			if _, err := s.CreateAction(t.Context(), storetest.Draft(m.ID, cordon.ActionType(fmt.Sprint("Type", i)))); err != nil {
				t.Error(err)
			}
		}
	})
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if all, l, err := s.Actions(t.Context(), cordon.Query{Count: true}); err != nil || l.Count != len(all) {
					t.Errorf("%d rows, count %d, %v", len(all), l.Count, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// TestImpossibleGeneration: a machine that lies about its generation must not
// bring the numbers to their end.
func TestImpossibleGeneration(t *testing.T) {
	s := openNew(t)
	m := storetest.Machine("liar", "liar")
	if _, err := s.EnrolMachine(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	for _, g := range []uint64{maxGeneration + 1, 1 << 63, 1<<64 - 1} {
		if err := s.MachineSaid(t.Context(), m.ID, nil, cordon.Observed{Generation: g}, storetest.Noon); cordon.KindOf(err) != cordon.Invalid {
			t.Errorf("generation %d: error %v", g, err)
		}
		m.Generation = g
		if _, err := s.EnrolMachine(t.Context(), m); cordon.KindOf(err) != cordon.Invalid {
			t.Errorf("generation %d: error %v", g, err)
		}
	}
	if err := s.MachineSaid(t.Context(), m.ID, nil, cordon.Observed{Generation: maxGeneration}, storetest.Noon); err != nil {
		t.Fatal(err)
	}
	a, err := s.CreateAction(t.Context(), storetest.Draft(m.ID, cordon.RestrictCodeExecution))
	if err != nil || a.Generation != maxGeneration+1 {
		t.Errorf("generation %d, %v", a.Generation, err)
	}
}
