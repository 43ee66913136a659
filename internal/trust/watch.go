package trust

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/fileid"
	"github.com/cordon-project/cordon/internal/trust/dpkg"
	"github.com/cordon-project/cordon/internal/trust/rpm"
)

const (
	// quiet is how long nothing may happen before a change counts as complete: a
	// package manager writes its files in bursts.
	quiet = 200 * time.Millisecond
	// patience is how long after a first change the set is built although changes
	// keep coming: in an upgrade of an hour, new programs are needed within it.
	patience = 5 * time.Second
	// retryMin and retryMax bound the pause after a build that failed. Most often it
	// failed because the package manager was writing.
	retryMin = 2 * time.Second
	retryMax = 5 * time.Minute
)

// Follow builds the set at once, and again whenever a package database or the
// rules file changes, until ctx ends; then it returns nil. Each outcome is passed
// to each, one after the other; with an error the set is nil, and the one
// before stays valid. Failed builds are repeated with growing pauses. The
// returned error says that changes cannot be watched.
func (b *Builder) Follow(ctx context.Context, each func(*cordon.TrustSet, Summary, error)) error {
	// Watching begins before the first build, so that no change falls in between.
	changed, err := b.Watch(ctx)
	if err != nil {
		return err
	}
	pause := retryMin
	for {
		set, sum, err := b.next(ctx)
		if ctx.Err() != nil {
			return nil
		}
		each(set, sum, err)
		var again <-chan time.Time
		switch {
		case err != nil:
			again = time.After(pause)
			pause = min(2*pause, retryMax)
		case sum.Young > 0:
			// They are old enough then to be known by their identity.
			again = time.After(fileid.Settle + quiet)
			pause = retryMin
		default:
			pause = retryMin
		}
		select {
		case <-ctx.Done():
			return nil
		case <-again:
		case _, ok := <-changed:
			if !ok {
				if ctx.Err() != nil {
					return nil
				}
				return errors.New("watch package databases: the kernel ended the watch")
			}
		}
	}
}

// Watch returns a channel on which something arrives some time after a package
// database or the rules file has changed: when nothing has happened for 0.2 s, or
// after 5 s in any case. A change that comes while one waits to be received is
// not lost and not doubled. The channel is closed when ctx ends.
func (b *Builder) Watch(ctx context.Context) (<-chan struct{}, error) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch package databases: %w", err)
	}
	t := &targets{w: w, dirs: b.watched()}
	if err := t.arm(); err != nil {
		_ = w.Close() // it only watches
		return nil, err
	}
	raw, out := make(chan struct{}), make(chan struct{}, 1)
	go debounce(ctx, raw, out)
	go func() {
		defer close(raw)
		defer func() { _ = w.Close() }() // it only watches
		t.forward(ctx, raw, func(err error) { b.log().Warn("watching the package databases", "reason", err.Error()) })
	}()
	return out, nil
}

// watched names the directories to watch, and says which changes in them matter.
func (b *Builder) watched() map[string]func(fsnotify.Op, string) bool {
	under := func(dir string) string { return filepath.Join(b.root(), dir) }
	dirs := map[string]func(fsnotify.Op, string) bool{
		under(dpkg.Dir):              func(_ fsnotify.Op, name string) bool { return name == "status" || name == "diversions" },
		under(dpkg.Dir + "/info"):    func(fsnotify.Op, string) bool { return true },
		under(dpkg.Dir + "/updates"): func(_ fsnotify.Op, name string) bool { return strings.Trim(name, "0123456789") == "" },
	}
	for _, dir := range rpm.Dirs {
		// Reading the database must not seem to change it: SQLite writes its
		// shared-memory file then, and makes its log and sets the owner of that.
		dirs[under(dir)] = func(op fsnotify.Op, name string) bool {
			switch name {
			case "rpmdb.sqlite-wal":
				return op.Has(fsnotify.Write)
			case "rpmdb.sqlite", "Packages.db", "Packages":
				return op != fsnotify.Chmod
			}
			return false
		}
	}
	for _, file := range []string{b.RulesFile, b.GateFile} {
		path, err := filepath.Abs(file)
		if err != nil || file == "" {
			continue
		}
		dir := filepath.Dir(path)
		others := dirs[dir] // the files may be in one directory
		dirs[dir] = func(op fsnotify.Op, name string) bool {
			return name == filepath.Base(path) || others != nil && others(op, name)
		}
	}
	return dirs
}

// targets are the directories that should be watched. One that does not exist
// is waited for in the nearest one above it that does.
type targets struct {
	w    *fsnotify.Watcher
	dirs map[string]func(fsnotify.Op, string) bool
}

// arm watches what there is. It may be called again at any time.
func (t *targets) arm() error {
	for dir := range t.dirs {
		for {
			err := t.w.Add(dir)
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

// forward sends for every event that matters.
func (t *targets) forward(ctx context.Context, out chan<- struct{}, report func(error)) {
	for {
		hit := false
		select {
		case <-ctx.Done():
			return
		case e, ok := <-t.w.Events:
			if !ok {
				return
			}
			hit = t.matter(e, report)
		case err, ok := <-t.w.Errors:
			if !ok {
				return
			}
			report(err)
			hit = true // events were lost, by far most often: look at everything
		}
		if hit {
			select {
			case out <- struct{}{}:
			case <-ctx.Done():
				return
			}
		}
	}
}

func (t *targets) matter(e fsnotify.Event, report func(error)) bool {
	wanted, direct := t.dirs[filepath.Dir(e.Name)]
	if direct && wanted(e.Op, filepath.Base(e.Name)) {
		return true
	}
	// A directory that is waited for has come, or one that is watched has gone.
	for dir := range t.dirs {
		if dir == e.Name || strings.HasPrefix(dir, e.Name+"/") {
			if err := t.arm(); err != nil {
				report(err)
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
