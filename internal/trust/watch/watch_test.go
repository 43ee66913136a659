package watch

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fsnotify/fsnotify"
)

func TestDebounce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		in, out := make(chan struct{}), make(chan struct{}, 1)
		go debounce(ctx, in, out)
		start := time.Now()
		expect := func(what string, want time.Duration) {
			t.Helper()
			<-out
			if got := time.Since(start); got != want {
				t.Errorf("%s: after %v, want %v", what, got, want)
			}
			start = time.Now()
		}
		in <- struct{}{}
		expect("a single change", quiet)
		for range 3 {
			in <- struct{}{}
			time.Sleep(quiet / 2)
		}
		expect("a burst", 2*(quiet/2)+quiet)
		stop := make(chan struct{})
		go func() {
			for {
				select {
				case in <- struct{}{}:
					time.Sleep(quiet / 2)
				case <-stop:
					return
				}
			}
		}()
		expect("changes without end", patience)
		close(stop)
		// Changes are not lost while nobody receives, and two of them are one.
		in <- struct{}{}
		time.Sleep(patience)
		in <- struct{}{}
		time.Sleep(patience)
		expect("late", 2*patience)
		select {
		case <-out:
			t.Error("it came twice")
		default:
		}
		cancel()
		if _, ok := <-out; ok {
			t.Error("the channel was not closed")
		}
	})
}

// A directory that comes later is watched from then on, and files of one directory
// may matter for different reasons.
func TestWatch(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "not", "yet")
	named := func(want string) Matters { return func(_ fsnotify.Op, name string) bool { return name == want } }
	dirs := Dirs{}
	dirs.Add(dir, named("one"))
	dirs.Add(dir, named("two"))
	dirs.Add(root, named("last"))
	w, err := Open(dirs, func(err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	write := func(path string) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, nil, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	// Changes come in their order, so one more says that there are no others.
	last := filepath.Join(root, "last")
	changed := func() (paths []string) {
		t.Helper()
		write(last)
		for {
			path, ok := w.Next(t.Context())
			if !ok {
				t.Fatal("it has ended")
			}
			if path == last {
				return slices.Compact(paths)
			}
			paths = append(paths, path)
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if got := changed(); len(got) == 0 {
		t.Error("the directory that was waited for came, and nothing was said")
	}
	for name, want := range map[string][]string{"one": {filepath.Join(dir, "one")}, "two": {filepath.Join(dir, "two")}, "three": nil} {
		changed() // of the one before
		write(filepath.Join(dir, name))
		if got := changed(); !slices.Equal(got, want) {
			t.Errorf("%s: %q", name, got)
		}
	}
	// It comes again after it has gone.
	if err := os.RemoveAll(filepath.Dir(dir)); err != nil {
		t.Fatal(err)
	}
	changed()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	changed()
	write(filepath.Join(dir, "one"))
	if got := changed(); !slices.Contains(got, filepath.Join(dir, "one")) {
		t.Errorf("in a new directory: %q", got)
	}

	ctx, cancel := context.WithCancel(t.Context())
	bursts := w.Bursts(ctx)
	write(filepath.Join(dir, "two"))
	if _, ok := <-bursts; !ok {
		t.Error("it has ended")
	}
	cancel()
	for range bursts { // until it is closed
	}
	if _, ok := w.Next(t.Context()); ok {
		t.Error("a watch that has ended has news")
	}
}

func TestImpossible(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	dirs := Dirs{}
	dirs.Add(filepath.Join(path, "below"), func(fsnotify.Op, string) bool { return true })
	if _, err := Open(dirs, func(error) {}); err == nil {
		t.Error("a directory below a file is watched")
	}
}
