package disk

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cordon-project/cordon"
)

func TestOneAtATime(t *testing.T) {
	path := filepath.Join(t.TempDir(), "data")
	d, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); err == nil || err.Error() != "another agent is running with the data directory "+path {
		t.Errorf("a second one: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if d, err = Open(path); err != nil {
		t.Fatalf("after it has ended: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

// What was saved is what is read, also by who does not hold the directory.
func TestState(t *testing.T) {
	d, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close() }() // the test is over
	if s, err := d.State(); err != nil || !cmp.Equal(s, State{}) {
		t.Errorf("before anything was saved: %+v, %v", s, err)
	}
	want := State{Standing: cordon.Standing{Generation: 7, Mode: cordon.ModeEnforce}}
	want.Remember(Outcome{Action: "a", Generation: 7, State: cordon.ReportSucceeded}, "report")
	if err := d.SaveState(want); err != nil {
		t.Fatal(err)
	}
	if got, err := d.State(); err != nil || !cmp.Equal(got, want) {
		t.Errorf("%v\n%s", err, cmp.Diff(want, got))
	}
	if got, err := Persisted(d.Path()); err != nil || got != want.Standing {
		t.Errorf("%+v, %v", got, err)
	}
	if err := os.Truncate(filepath.Join(d.Path(), StateFile), 10); err != nil {
		t.Fatal(err)
	}
	if s, err := d.State(); err == nil {
		t.Errorf("cut off, it reads as %+v", s)
	}
	if s, err := Persisted(d.Path()); err == nil {
		t.Errorf("cut off, it reads as %+v", s)
	}
}

// The newest are kept, and what the server has settled goes.
func TestBounds(t *testing.T) {
	var s State
	id := func(n int) cordon.ActionID { return cordon.ActionID(fmt.Sprint(n)) }
	const all = MaxOutbox + 3
	for n := range all {
		s.Remember(Outcome{Action: id(n), Generation: uint64(n)}, fmt.Sprint("report ", n))
	}
	if len(s.Recent) != MaxRecent || len(s.Outbox) != MaxOutbox || s.Reports()[0] != "report 3" {
		t.Errorf("%d recent, %d in the outbox, the oldest is %q", len(s.Recent), len(s.Outbox), s.Reports()[0])
	}
	for n, want := range map[int]bool{all - 1: true, all - MaxRecent: true, all - MaxRecent - 1: false} {
		if o, ok := s.Recall(id(n)); ok != want || ok && o.Generation != uint64(n) {
			t.Errorf("%d: %+v, %v", n, o, ok)
		}
	}
	before := s.Outbox
	if s.Settle([]cordon.ActionID{"nobody's"}) || len(s.Outbox) != MaxOutbox {
		t.Error("what nobody settled is settled")
	}
	if !s.Settle([]cordon.ActionID{id(3), id(5)}) || len(s.Outbox) != MaxOutbox-2 || s.Reports()[0] != "report 4" {
		t.Errorf("%d are left, the oldest is %q", len(s.Outbox), s.Reports()[0])
	}
	if before[0].Report != "report 3" || before[2].Report != "report 5" {
		t.Error("a copy of the state from before was changed")
	}
}
