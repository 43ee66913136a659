package sqlite

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/store/sqlite/engine"
	"github.com/cordon-project/cordon/internal/store/storetest"
)

// childEnv, if set, makes the test binary a process that writes to the database
// which it names, and says what was acknowledged, until it is killed.
const childEnv = "CORDON_TEST_WRITE_TO"

func TestMain(m *testing.M) {
	if path := os.Getenv(childEnv); path != "" {
		go endWithParent()
		fmt.Fprintln(os.Stderr, writeForever(path))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// endWithParent ends this process when the test that started it is gone, however
// that ended: its end of the pipe on standard input is closed then. A writer that
// gets nowhere would otherwise go round for ever, and never print into the pipe
// that nobody reads.
func endWithParent() {
	_, _ = io.Copy(io.Discard, os.Stdin) // nothing is ever sent; it returns at the end
	os.Exit(1)
}

func crashMachine(i int) cordon.Machine { return storetest.Machine(fmt.Sprint("crash", i), "crash") }

const crashMachines = 20

// writeForever takes actions through their lives, in several goroutines. It
// prints each step when the store has acknowledged it.
func writeForever(path string) error {
	ctx := context.Background()
	s, err := Open(ctx, path)
	if err != nil {
		return err
	}
	// Those that a killed process left open, so that there is room for more.
	left, _, err := s.Actions(ctx, cordon.Query{Filter: cordon.Compare{Field: cordon.FieldStatus, Value: string(cordon.Pending)}})
	if err != nil {
		return err
	}
	var failed sync.Once
	failure := make(chan error, 1) // the first may be met before anybody waits for it
	fail := func(err error) { failed.Do(func() { failure <- err }) }
	step := func(name string, id cordon.ActionID, kind cordon.AuditKind, change func(*cordon.Action)) {
		_, err := s.ChangeAction(ctx, id, func(a cordon.Action) (cordon.Action, []cordon.AuditEntry, error) {
			change(&a)
			return a, []cordon.AuditEntry{{At: storetest.Noon, Kind: kind, Machine: a.Machine, Action: a.ID}}, nil
		})
		if err != nil {
			fail(err)
			return
		}
		fmt.Println(name, id) // one write(2)
	}
	deliver := func(a *cordon.Action) { a.Delivered = &storetest.Noon }
	end := func(a *cordon.Action) { a.Status = cordon.Succeeded }
	for _, a := range left {
		if a.Delivered == nil {
			step("delivered", a.ID, cordon.AuditDelivered, deliver)
		}
		step("ended", a.ID, cordon.AuditReport, end)
	}
	for range 8 {
		go func() {
			for {
				d := storetest.Draft(crashMachine(rand.IntN(crashMachines)).ID, []cordon.ActionType{cordon.RestrictCodeExecution, cordon.UnrestrictCodeExecution}[rand.IntN(2)])
				_, err := s.CreateAction(ctx, d)
				if cordon.CodeOf(err) == cordon.CodeActionInProgress {
					continue
				}
				if err != nil {
					fail(err)
					return
				}
				fmt.Println("created", d.ID)
				step("delivered", d.ID, cordon.AuditDelivered, deliver)
				step("ended", d.ID, cordon.AuditReport, end)
			}
		}()
	}
	return <-failure
}

// TestKilled kills a process that writes, at random points, and holds that
// everything that it was told is durable is there, and nothing is half there.
func TestKilled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cordon.db")
	s := openAt(t, path)
	for i := range crashMachines {
		if _, err := s.EnrolMachine(t.Context(), crashMachine(i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	rounds := 10
	if testing.Short() {
		rounds = 3
	}
	acknowledged := make(map[string][]cordon.ActionID) // by step
	for round := range rounds {
		lines := 1 + rand.IntN(2500) // at the upper end with checkpoints
		n := runAndKill(t, path, lines, acknowledged)
		s := openAt(t, path)
		t.Logf("round %d: killed after %d steps, %d were acknowledged; %d actions so far", round, lines, n, len(acknowledged["created"]))
		checkAfterCrash(t, s, acknowledged)
		checkFile(t, s)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if t.Failed() {
			return
		}
	}
}

// runAndKill starts the writing process, kills it after it has printed some
// lines, and collects all that it printed.
func runAndKill(t *testing.T, path string, lines int, acknowledged map[string][]cordon.ActionID) (n int) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+path)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	alive, err := cmd.StdinPipe() // open for as long as this process lives, see endWithParent
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = alive.Close() }() // Wait has closed it
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for scanner := bufio.NewScanner(out); scanner.Scan(); {
		step, id, ok := strings.Cut(scanner.Text(), " ")
		if !ok || len(id) != 36 {
			continue // cut off by the kill
		}
		acknowledged[step] = append(acknowledged[step], cordon.ActionID(id))
		if n++; n == lines {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = cmd.Wait() // killed
	if stderr.Len() > 0 || n < lines {
		t.Fatalf("the process ended by itself after %d steps: %s", n, stderr.String())
	}
	return n
}

func checkAfterCrash(t *testing.T, s *Store, acknowledged map[string][]cordon.ActionID) {
	t.Helper()
	all, _, err := s.Actions(t.Context(), cordon.Query{})
	if err != nil {
		t.Fatal(err)
	}
	byID := make(map[cordon.ActionID]cordon.Action)
	generations := make(map[cordon.MachineID][]uint64) // newest first
	audits := 0
	for _, a := range all {
		byID[a.ID] = a
		generations[a.Machine] = append(generations[a.Machine], a.Generation)
		want := []cordon.AuditKind{cordon.AuditCreated}
		if a.Delivered != nil {
			want = append(want, cordon.AuditDelivered)
		}
		if a.Status == cordon.Succeeded {
			want = append(want, cordon.AuditReport)
		}
		log, err := s.AuditOf(t.Context(), a.ID)
		if err != nil {
			t.Fatal(err)
		}
		var got []cordon.AuditKind
		for _, e := range log {
			got = append(got, e.Kind)
		}
		if !slices.Equal(got, want) {
			t.Errorf("action %s is %s, delivered %v, but its audit says %q", a.ID, a.Status, a.Delivered, got)
		}
		audits += len(log)
	}
	for step, ids := range acknowledged {
		for _, id := range ids {
			a, ok := byID[id]
			if !ok || step != "created" && a.Delivered == nil || step == "ended" && a.Status != cordon.Succeeded {
				t.Errorf("%s %s was acknowledged and is lost: %+v", step, id, a)
			}
		}
	}
	for id, gs := range generations {
		for i, g := range gs {
			if g != uint64(len(gs)-i) {
				t.Errorf("generations of machine %s, newest first: %d", id, gs)
				break
			}
		}
	}
	err = s.db.Read(t.Context(), func(c *engine.Conn) error {
		return c.Each("SELECT count(*) FROM audit WHERE kind <> 'enrolled'", func(r *engine.Row) {
			if n := r.Number(); n != int64(audits) {
				t.Errorf("%d audit entries, of which %d belong to actions", n, audits)
			}
		})
	})
	if err != nil {
		t.Error(err)
	}
}
