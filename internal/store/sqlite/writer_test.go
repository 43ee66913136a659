package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cordon-project/cordon"
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

// occupy keeps the writer busy with a transaction until release is called.
func occupy(t *testing.T, s *Store) (release func()) {
	t.Helper()
	begun, gate, done := make(chan struct{}), make(chan struct{}), make(chan error)
	go func() {
		done <- s.writer.do(context.Background(), func(*tx) error {
			close(begun)
			<-gate
			return nil
		})
	}()
	<-begun
	return func() {
		close(gate)
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// waiting returns when n jobs wait for the writer.
func waiting(s *Store, n int) {
	for len(s.writer.jobs) < n {
		runtime.Gosched()
	}
}

// put is work that stores a setting.
func put(name string) func(*tx) error {
	return func(t *tx) error {
		_, _, err := t.exec("INSERT OR REPLACE INTO settings (name, value) VALUES (?, ?)", name, []byte(name))
		return err
	}
}

func settings(t *testing.T, s *Store) (names []string) {
	t.Helper()
	err := s.read(t.Context(), func(c *conn) error {
		return c.each("SELECT name FROM settings ORDER BY name", func(r *row) { names = append(names, r.text()) })
	})
	if err != nil {
		t.Error(err)
	}
	return names
}

// TestGroup holds that all that waits shares transactions, of maxGroup at most:
// each job looks, from outside, at what has been committed when it runs.
func TestGroup(t *testing.T) {
	s := openNew(t)
	release := occupy(t, s)
	const jobs = 2*maxGroup + 50
	var mu sync.Mutex
	groups := make(map[int]int)
	var wg sync.WaitGroup
	for i := range jobs {
		wg.Go(func() {
			err := s.writer.do(t.Context(), func(tx *tx) error {
				mu.Lock()
				groups[len(settings(t, s))]++
				mu.Unlock()
				return put(fmt.Sprintf("%04d", i))(tx)
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	waiting(s, maxGroup)
	release()
	wg.Wait()
	largest := 0
	for _, n := range groups {
		largest = max(largest, n)
	}
	if largest != maxGroup {
		t.Errorf("sizes of groups: %v, want the first to be %d and none to be larger", groups, maxGroup)
	}
	if n := len(settings(t, s)); n != jobs {
		t.Errorf("%d of %d are there", n, jobs)
	}
}

// TestFailsAlone holds that a job that fails leaves nothing behind, whatever it
// has written, and takes nobody with it who shares its transaction.
func TestFailsAlone(t *testing.T) {
	s := openNew(t)
	refusal := errors.New("on purpose")
	runs := 0
	jobs := []struct {
		name string
		work func(*tx) error
		want func(error) bool
	}{
		{"first", put("first"), isNil},
		{"refuses", func(*tx) error { return refusal }, func(err error) bool { return err == refusal }},
		{"writes, then refuses", func(t *tx) error { _ = put("half")(t); return refusal }, func(err error) bool { return err == refusal }},
		{"counts", func(t *tx) error { runs++; return put(fmt.Sprintf("run %d", runs))(t) }, isNil},
		{"breaks a constraint", func(t *tx) error {
			_, _, err := t.exec("INSERT INTO settings (name, value) VALUES ('x', 1)")
			return err
		}, isKind(cordon.Internal)},
		{"writes, then panics", func(t *tx) error {
			_ = t.script("INSERT INTO settings (name, value) VALUES ('half', x'')")
			panic("on purpose")
		}, isKind(cordon.Internal)},
		{"is not SQL", func(t *tx) error { _, _, err := t.exec("SELEC"); return err }, isKind(cordon.Internal)},
		{"asks nonsense", func(t *tx) error { return t.each("SELEC", func(*row) {}) }, isKind(cordon.Internal)},
		{"last", put("last"), isNil},
	}
	release := occupy(t, s)
	var wg sync.WaitGroup
	for i, j := range jobs {
		wg.Go(func() {
			if err := s.writer.do(t.Context(), j.work); !j.want(err) {
				t.Errorf("%s: error %v", j.name, err)
			}
		})
		waiting(s, i+1) // in this order
	}
	release()
	wg.Wait()
	// Everything ran again without each of those that had to go.
	if got := settings(t, s); !slices.Equal(got, []string{"first", "last", "run 5"}) || runs != 5 {
		t.Errorf("there are %q after %d runs", got, runs)
	}
}

func isNil(err error) bool { return err == nil }

func isKind(k cordon.Kind) func(error) bool {
	return func(err error) bool { return err != nil && cordon.KindOf(err) == k }
}

// TestCommitFails holds that nobody is told that a change is there when the
// commit failed, and that the writer goes on.
func TestCommitFails(t *testing.T) {
	s := openNew(t)
	release := occupy(t, s)
	var wg sync.WaitGroup
	work := []func(*tx) error{
		put("before"),
		func(t *tx) error {
			if err := t.script("PRAGMA defer_foreign_keys = ON"); err != nil {
				return err
			}
			_, _, err := t.exec("INSERT INTO machine_details (machine, key, first_seen, facts, observed) VALUES (x'00', x'00', 0, '', '')")
			return err // nil: the commit is what fails
		},
		func(*tx) error { return cordon.Errorf(cordon.Conflict, "", "a decision") },
		put("after"),
	}
	for i, w := range work {
		wg.Go(func() {
			if err := s.writer.do(t.Context(), w); err == nil || !strings.Contains(err.Error(), "FOREIGN KEY") {
				t.Errorf("job %d: error %v", i, err)
			}
		})
		waiting(s, i+1)
	}
	release()
	wg.Wait()
	if got := settings(t, s); len(got) != 0 {
		t.Errorf("there are %q", got)
	}
	if err := s.writer.do(t.Context(), put("next")); err != nil {
		t.Error(err)
	}
}

func TestDiskFull(t *testing.T) {
	s := openNew(t)
	m := storetest.Machine("full", "full")
	if _, err := s.EnrolMachine(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	limit := func(expr string) {
		t.Helper()
		if err := s.writer.do(t.Context(), func(t *tx) error { return t.script("PRAGMA max_page_count = " + expr) }); err != nil {
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
	collect := func(r *row) { lines = append(lines, r.text()) }
	err := s.read(t.Context(), func(c *conn) error {
		return errors.Join(c.each("PRAGMA integrity_check", collect), c.each("PRAGMA foreign_key_check", collect))
	})
	if err != nil || !slices.Equal(lines, []string{"ok"}) {
		t.Errorf("integrity: %q, %v", lines, err)
	}
}

// TestGivenUp ends a caller's context before, and after, the writer has begun
// with the caller's change.
func TestGivenUp(t *testing.T) {
	s := openNew(t)
	ctx, cancel := context.WithCancel(t.Context())
	release := occupy(t, s)
	answer := make(chan error)
	go func() { answer <- s.writer.do(ctx, put("withdrawn")) }()
	waiting(s, 1)
	cancel()
	if err := <-answer; cordon.KindOf(err) != cordon.Unavailable || !errors.Is(err, context.Canceled) { // the writer is still busy
		t.Errorf("withdrawn: error %v", err)
	}
	release()

	ctx, cancel = context.WithCancel(t.Context())
	begun, gate := make(chan struct{}), make(chan struct{})
	go func() {
		answer <- s.writer.do(ctx, func(t *tx) error {
			close(begun)
			<-gate
			return put("begun")(t)
		})
	}()
	<-begun
	cancel()
	close(gate)
	if err := <-answer; err != nil {
		t.Errorf("begun: error %v", err)
	}
	if got := settings(t, s); !slices.Equal(got, []string{"begun"}) {
		t.Errorf("there are %q", got)
	}

	// Nor does a reader wait for longer than its caller.
	var held []*conn
	for range readers {
		held = append(held, <-s.readers)
	}
	if _, err := s.Setting(ctx, "begun"); cordon.KindOf(err) != cordon.Unavailable || !errors.Is(err, context.Canceled) {
		t.Errorf("reading: error %v", err)
	}
	for _, c := range held {
		s.readers <- c
	}
}

// TestClose holds that Close finishes what was submitted, and no more.
func TestClose(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cordon.db")
	s := openAt(t, path)
	release := occupy(t, s)
	var wg sync.WaitGroup
	const jobs = maxGroup
	for i := range jobs {
		wg.Go(func() {
			if err := s.writer.do(t.Context(), put(fmt.Sprintf("%04d", i))); err != nil {
				t.Error(err)
			}
		})
	}
	waiting(s, jobs)
	closed := make(chan error, 2)
	for range 2 { // twice is no harm
		go func() { closed <- s.Close() }()
	}
	for stopping := false; !stopping; runtime.Gosched() {
		s.writer.mu.RLock()
		stopping = s.writer.closed
		s.writer.mu.RUnlock()
	}
	if err := s.PutSettings(t.Context(), map[string][]byte{"late": nil}); cordon.KindOf(err) != cordon.Unavailable {
		t.Errorf("late: error %v", err)
	}
	reader := <-s.readers // a query that still runs
	query := func() {
		if err := reader.each("SELECT count(*) FROM settings", func(*row) {}); err != nil {
			t.Errorf("a query was cut off: %v", err)
		}
	}
	query()
	release()
	wg.Wait()
	<-s.closing
	for len(s.readers) > 0 {
		runtime.Gosched()
	}
	select {
	case <-closed:
		t.Error("did not wait for a query")
	default:
	}
	query()
	s.readers <- reader
	for range 2 {
		if err := <-closed; err != nil {
			t.Error(err)
		}
	}
	if _, err := s.Setting(t.Context(), "0000"); cordon.KindOf(err) != cordon.Unavailable {
		t.Errorf("reading: error %v", err)
	}
	if _, err := os.Stat(path + "-wal"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the -wal file is still there: %v", err)
	}
	if got := settings(t, openAt(t, path)); len(got) != jobs {
		t.Errorf("%d of %d are there", len(got), jobs)
	}
}

// TestPanic holds that a change that panics is an error for its caller and
// nothing to anybody else.
func TestPanic(t *testing.T) {
	s := openNew(t)
	m := storetest.Machine("panic", "panic")
	if _, err := s.EnrolMachine(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	a, err := s.CreateAction(t.Context(), storetest.Draft(m.ID, cordon.RestrictCodeExecution))
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.ChangeAction(t.Context(), a.ID, func(cordon.Action) (cordon.Action, []cordon.AuditEntry, error) { panic("on purpose") })
	var e *cordon.Error
	if !errors.As(err, &e) || e.Kind != cordon.Internal || !strings.Contains(e.Err.Error(), "on purpose") || strings.Contains(e.Message, "on purpose") {
		t.Errorf("error %#v", err)
	}
	if got, err := s.Action(t.Context(), a.ID); err != nil || got != a {
		t.Errorf("after it: %+v, %v", got, err)
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
	err := s.read(t.Context(), func(c *conn) error {
		return c.each("SELECT kind, machine, actor, at FROM audit", func(r *row) { got = append(got, fmt.Sprint(r.text(), r.text(), r.text(), r.time())) })
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
	for range readers {
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
