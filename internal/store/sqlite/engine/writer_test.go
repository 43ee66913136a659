package engine

import (
	"cmp"
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

	"github.com/cordon-project/cordon"
)

// occupy keeps the writer busy with a transaction until release is called.
func occupy(t *testing.T, db *DB) (release func()) {
	t.Helper()
	begun, gate, done := make(chan struct{}), make(chan struct{}), make(chan error)
	go func() {
		done <- db.Write(context.Background(), func(*Tx) error {
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
func waiting(db *DB, n int) {
	for len(db.writer.jobs) < n {
		runtime.Gosched()
	}
}

// put is work that stores a word.
func put(word string) func(*Tx) error {
	return func(t *Tx) error {
		_, _, err := t.Exec("INSERT OR REPLACE INTO words (word) VALUES (?)", word)
		return err
	}
}

// find returns all words.
func find(ctx context.Context, db *DB) (words []string, err error) {
	err = db.Read(ctx, func(c *Conn) error {
		return c.Each("SELECT word FROM words ORDER BY word", func(r *Row) { words = append(words, r.Text()) })
	})
	return words, err
}

func words(t *testing.T, db *DB) []string {
	t.Helper()
	found, err := find(t.Context(), db)
	if err != nil {
		t.Error(err)
	}
	return found
}

// TestGroup holds that all that waits shares transactions, of maxGroup at most:
// each job looks, from outside, at what has been committed when it runs.
func TestGroup(t *testing.T) {
	db := openNew(t)
	release := occupy(t, db)
	const jobs = 2*maxGroup + 50
	var mu sync.Mutex
	groups := make(map[int]int)
	var wg sync.WaitGroup
	for i := range jobs {
		wg.Go(func() {
			err := db.Write(t.Context(), func(tx *Tx) error {
				mu.Lock()
				groups[len(words(t, db))]++
				mu.Unlock()
				return put(fmt.Sprintf("%04d", i))(tx)
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	waiting(db, maxGroup)
	release()
	wg.Wait()
	largest := 0
	for _, n := range groups {
		largest = max(largest, n)
	}
	if largest != maxGroup {
		t.Errorf("sizes of groups: %v, want the first to be %d and none to be larger", groups, maxGroup)
	}
	if n := len(words(t, db)); n != jobs {
		t.Errorf("%d of %d are there", n, jobs)
	}
}

// TestFailsAlone holds that a job that fails leaves nothing behind, whatever it
// has written, and takes nobody with it who shares its transaction.
func TestFailsAlone(t *testing.T) {
	db := openNew(t)
	refusal := errors.New("on purpose")
	runs := 0
	jobs := []struct {
		name string
		work func(*Tx) error
		want func(error) bool
	}{
		{"first", put("first"), isNil},
		{"refuses", func(*Tx) error { return refusal }, func(err error) bool { return err == refusal }},
		{"writes, then refuses", func(t *Tx) error { return cmp.Or(put("half")(t), refusal) }, func(err error) bool { return err == refusal }},
		{"counts", func(t *Tx) error { runs++; return put(fmt.Sprintf("run %d", runs))(t) }, isNil},
		{"breaks a constraint", func(t *Tx) error {
			_, _, err := t.Exec("INSERT INTO words (word) VALUES (NULL)")
			return err
		}, isKind(cordon.Internal)},
		{"writes, then panics", func(t *Tx) error {
			if err := t.conn.script("INSERT INTO words (word) VALUES ('half')"); err != nil {
				return nil
			}
			panic("on purpose")
		}, isKind(cordon.Internal)},
		{"is not SQL", func(t *Tx) error { _, _, err := t.Exec("SELEC"); return err }, isKind(cordon.Internal)},
		{"asks nonsense", func(t *Tx) error { return t.Each("SELEC", func(*Row) {}) }, isKind(cordon.Internal)},
		{"last", put("last"), isNil},
	}
	release := occupy(t, db)
	var wg sync.WaitGroup
	for i, j := range jobs {
		wg.Go(func() {
			if err := db.Write(t.Context(), j.work); !j.want(err) {
				t.Errorf("%s: error %v", j.name, err)
			}
		})
		waiting(db, i+1) // in this order
	}
	release()
	wg.Wait()
	// Everything ran again without each of those that had to go.
	if got := words(t, db); !slices.Equal(got, []string{"first", "last", "run 5"}) || runs != 5 {
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
	db := openNew(t)
	release := occupy(t, db)
	var wg sync.WaitGroup
	work := []func(*Tx) error{
		put("before"),
		func(t *Tx) error {
			if err := t.conn.script("PRAGMA defer_foreign_keys = ON"); err != nil {
				return err
			}
			_, _, err := t.Exec("INSERT INTO meanings (word) VALUES ('nobody''s')")
			return err // nil: the commit is what fails
		},
		func(*Tx) error { return cordon.Errorf(cordon.Conflict, "", "a decision") },
		put("after"),
	}
	for i, w := range work {
		wg.Go(func() {
			if err := db.Write(t.Context(), w); err == nil || !strings.Contains(err.Error(), "FOREIGN KEY") {
				t.Errorf("job %d: error %v", i, err)
			}
		})
		waiting(db, i+1)
	}
	release()
	wg.Wait()
	if got := words(t, db); len(got) != 0 {
		t.Errorf("there are %q", got)
	}
	if err := db.Write(t.Context(), put("next")); err != nil {
		t.Error(err)
	}
}

// TestGivenUp ends a caller's context before, and after, the writer has begun
// with the caller's change.
func TestGivenUp(t *testing.T) {
	db := openNew(t)
	ctx, cancel := context.WithCancel(t.Context())
	release := occupy(t, db)
	answer := make(chan error)
	go func() { answer <- db.Write(ctx, put("withdrawn")) }()
	waiting(db, 1)
	cancel()
	if err := <-answer; cordon.KindOf(err) != cordon.Unavailable || !errors.Is(err, context.Canceled) { // the writer is still busy
		t.Errorf("withdrawn: error %v", err)
	}
	release()

	ctx, cancel = context.WithCancel(t.Context())
	begun, gate := make(chan struct{}), make(chan struct{})
	go func() {
		answer <- db.Write(ctx, func(t *Tx) error {
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
	if got := words(t, db); !slices.Equal(got, []string{"begun"}) {
		t.Errorf("there are %q", got)
	}

	// Nor does a reader wait for longer than its caller.
	var held []*Conn
	for range readers {
		held = append(held, <-db.readers)
	}
	if _, err := find(ctx, db); cordon.KindOf(err) != cordon.Unavailable || !errors.Is(err, context.Canceled) {
		t.Errorf("reading: error %v", err)
	}
	for _, c := range held {
		db.readers <- c
	}
}

// TestClose holds that Close finishes what was submitted, and no more.
func TestClose(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cordon.db")
	db := openAt(t, path)
	release := occupy(t, db)
	var wg sync.WaitGroup
	const jobs = maxGroup
	for i := range jobs {
		wg.Go(func() {
			if err := db.Write(t.Context(), put(fmt.Sprintf("%04d", i))); err != nil {
				t.Error(err)
			}
		})
	}
	waiting(db, jobs)
	closed := make(chan error, 2)
	for range 2 { // twice is no harm
		go func() { closed <- db.Close() }()
	}
	for stopping := false; !stopping; runtime.Gosched() {
		db.writer.mu.RLock()
		stopping = db.writer.closed
		db.writer.mu.RUnlock()
	}
	if err := db.Write(t.Context(), put("late")); cordon.KindOf(err) != cordon.Unavailable {
		t.Errorf("late: error %v", err)
	}
	reader := <-db.readers // a query that still runs
	query := func() {
		if err := reader.Each("SELECT count(*) FROM words", func(*Row) {}); err != nil {
			t.Errorf("a query was cut off: %v", err)
		}
	}
	query()
	release()
	wg.Wait()
	<-db.closing
	for len(db.readers) > 0 {
		runtime.Gosched()
	}
	select {
	case <-closed:
		t.Error("did not wait for a query")
	default:
	}
	query()
	db.readers <- reader
	for range 2 {
		if err := <-closed; err != nil {
			t.Error(err)
		}
	}
	if _, err := find(t.Context(), db); cordon.KindOf(err) != cordon.Unavailable {
		t.Errorf("reading: error %v", err)
	}
	if _, err := os.Stat(path + "-wal"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the -wal file is still there: %v", err)
	}
	if got := words(t, openAt(t, path)); len(got) != jobs {
		t.Errorf("%d of %d are there", len(got), jobs)
	}
}

// TestPanic holds that a change that panics is an error for its caller and
// nothing to anybody else.
func TestPanic(t *testing.T) {
	db := openNew(t)
	err := db.Write(t.Context(), func(t *Tx) error {
		if err := put("half")(t); err != nil {
			return err
		}
		panic("on purpose")
	})
	var e *cordon.Error
	if !errors.As(err, &e) || e.Kind != cordon.Internal || !strings.Contains(e.Err.Error(), "on purpose") || strings.Contains(e.Message, "on purpose") {
		t.Errorf("error %#v", err)
	}
	if err := db.Write(t.Context(), put("next")); err != nil || !slices.Equal(words(t, db), []string{"next"}) {
		t.Errorf("after it: %q, %v", words(t, db), err)
	}
}
