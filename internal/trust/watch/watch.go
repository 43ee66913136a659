// Package watch tells that files have changed, in directories that need not exist
// yet, some time after the last change of a burst.
//
// It promises that no change is lost: one that comes while nobody receives is told
// of later, and where the kernel had to drop events (inotify(7), IN_Q_OVERFLOW) it
// says that something has changed. A [Watch] is used by one goroutine.
package watch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// quiet is how long nothing may happen before a change counts as complete: a
	// package manager writes its files in bursts.
	quiet = 200 * time.Millisecond
	// patience is how long after a first change it is told of although changes keep
	// coming: in an upgrade of an hour, new programs are needed within it.
	patience = 5 * time.Second
)

// Matters reports whether a change of the file of that name, in the directory that
// it was given for, matters.
type Matters func(op fsnotify.Op, name string) bool

// Dirs are directories, each with those any of which says that a change matters.
type Dirs map[string][]Matters

// Add adds one for dir.
func (d Dirs) Add(dir string, m Matters) { d[dir] = append(d[dir], m) }

// Watch watches directories. One that does not exist is waited for in the nearest
// one above it that does.
type Watch struct {
	w    *fsnotify.Watcher
	dirs Dirs
	warn func(error)
}

// Open begins to watch. warn is told what goes wrong later on. Close it, unless
// [Watch.Bursts] does.
func Open(dirs Dirs, warn func(error)) (*Watch, error) {
	inner, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, err
	}
	w := &Watch{inner, dirs, warn}
	if err := w.arm(); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

// Close ends the watch.
func (w *Watch) Close() error { return w.w.Close() }

// Bursts returns a channel on which something arrives some time after a change that
// matters: when nothing has happened for 0.2 s, or after 5 s in any case. A change
// that comes while one waits to be received is not lost and not doubled. When ctx
// ends the watch is closed, and the channel, too; it is also if the kernel ends the
// watch.
func (w *Watch) Bursts(ctx context.Context) <-chan struct{} {
	raw, out := make(chan struct{}), make(chan struct{}, 1)
	go debounce(ctx, raw, out)
	go func() {
		defer close(raw)
		defer func() { _ = w.Close() }() // it only watches
		for {
			if _, ok := w.Next(ctx); !ok {
				return
			}
			select {
			case raw <- struct{}{}:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

// Next waits for a change that matters and returns what has changed, "" for
// anything. It is not ok when ctx or the watch has ended.
func (w *Watch) Next(ctx context.Context) (path string, ok bool) {
	for {
		select {
		case <-ctx.Done():
			return "", false
		case e, ok := <-w.w.Events:
			if !ok {
				return "", false
			}
			if w.matters(e) {
				return e.Name, true
			}
		case err, ok := <-w.w.Errors:
			if !ok {
				return "", false
			}
			w.warn(err)
			return "", true // events were lost, by far most often: look at everything
		}
	}
}

// arm watches what there is. It may be called again at any time.
func (w *Watch) arm() error {
	for dir := range w.dirs {
		for {
			err := w.w.Add(dir)
			if err == nil {
				break
			}
			up := filepath.Dir(dir)
			if !errors.Is(err, fs.ErrNotExist) || up == dir {
				return fmt.Errorf("watch %s: %w", dir, err)
			}
			dir = up
		}
	}
	return nil
}

func (w *Watch) matters(e fsnotify.Event) bool {
	name := filepath.Base(e.Name)
	if slices.ContainsFunc(w.dirs[filepath.Dir(e.Name)], func(m Matters) bool { return m(e.Op, name) }) {
		return true
	}
	// A directory that is waited for has come, or one that is watched has gone.
	for dir := range w.dirs {
		if dir == e.Name || strings.HasPrefix(dir, e.Name+"/") {
			if err := w.arm(); err != nil {
				w.warn(err)
			}
			return true
		}
	}
	return false
}

// debounce passes on bursts as one: after quiet, or patience.
func debounce(ctx context.Context, in <-chan struct{}, out chan<- struct{}) {
	defer close(out)
	var calm, late <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case _, ok := <-in:
			if !ok {
				return
			}
			calm = time.After(quiet)
			if late == nil {
				late = time.After(patience)
			}
			continue
		case <-calm:
		case <-late:
		}
		calm, late = nil, nil
		select {
		case out <- struct{}{}:
		default: // one is waiting already
		}
	}
}
