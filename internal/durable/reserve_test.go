package durable_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon/internal/durable"
)

// The room of a reserve is given away for as long as what needs it takes.
func TestReserve(t *testing.T) {
	path := filepath.Join(t.TempDir(), "reserve")
	kept := func() bool {
		info, err := os.Stat(path)
		return err == nil && info.Size() == 1<<20
	}
	var r durable.Reserve
	full := fmt.Errorf("save: %w", &os.PathError{Op: "write", Path: "file", Err: unix.ENOSPC})
	if err := r.Spend(func() error { return full }); err != full {
		t.Errorf("without a reserve: %v", err)
	}
	for range 2 { // it may be there already
		if err := r.Keep(path); err != nil || !kept() {
			t.Fatalf("%v, kept %v", err, kept())
		}
	}
	bad := errors.New("bad")
	for name, c := range map[string]struct {
		f     func() error
		want  error
		calls int
	}{
		"room":               {func() error { return nil }, nil, 1},
		"another error":      {func() error { return bad }, bad, 1},
		"full":               {func() error { return map[bool]error{true: full}[kept()] }, nil, 2},
		"full, and then bad": {func() error { return map[bool]error{true: full, false: bad}[kept()] }, bad, 2},
		"full all the same":  {func() error { return full }, full, 2},
		"over quota":         {func() error { return map[bool]error{true: unix.EDQUOT}[kept()] }, nil, 2},
	} {
		calls := 0
		err := r.Spend(func() error {
			calls++
			return c.f()
		})
		if !errors.Is(err, c.want) || c.want == nil && err != nil || calls != c.calls || !kept() {
			t.Errorf("%s: %v after %d calls, kept %v", name, err, calls, kept())
		}
	}
	// Somebody took the file away.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := r.Spend(func() error { return full }); !errors.Is(err, unix.ENOSPC) || !kept() {
		t.Errorf("%v, kept %v", err, kept())
	}
}
