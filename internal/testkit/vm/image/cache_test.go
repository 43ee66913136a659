package image

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
)

// Who comes while something is built waits for it; what failed or was broken off
// is built anew; another recipe is another artifact.
func TestCached(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	ctx := t.Context()
	broken := errors.New("broken")
	if _, err := cached(ctx, "a", "1", func(dir string) error {
		return errors.Join(os.WriteFile(dir+"/half", nil, 0o600), broken)
	}); !errors.Is(err, broken) {
		t.Fatalf("a failed build is %v", err)
	}
	var builds atomic.Int32
	build := func(dir string) error {
		builds.Add(1)
		if left, _ := os.ReadDir(dir); len(left) > 0 {
			t.Error("a build finds what another left")
		}
		return os.WriteFile(dir+"/whole", nil, 0o600)
	}
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			dir, err := cached(ctx, "a", "1", build)
			if _, e := os.Stat(filepath.Join(dir, "whole")); err != nil || e != nil {
				t.Error(err, e)
			}
		})
	}
	all.Wait()
	if n := builds.Load(); n != 1 {
		t.Errorf("built %d times", n)
	}
	if _, err := cached(ctx, "a", "2", build); err != nil || builds.Load() != 2 {
		t.Errorf("another recipe was built %d times, %v", builds.Load()-1, err)
	}
}

func TestLockEnds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := lock(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := lock(ctx, path); !errors.Is(err, context.Canceled) {
		t.Errorf("waiting for a lock ends with %v", err)
	}
}
