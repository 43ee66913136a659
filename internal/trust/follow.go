package trust

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/fileid"
	"github.com/cordon-project/cordon/internal/trust/dpkg"
	"github.com/cordon-project/cordon/internal/trust/rpm"
	"github.com/cordon-project/cordon/internal/trust/watch"
)

const (
	// retryMin and retryMax bound the pause after a build that failed. Most often it
	// failed because the package manager was writing.
	retryMin = 2 * time.Second
	retryMax = 5 * time.Minute
	// longest is how long a builder rests after a build at most: in an upgrade of an
	// hour, new programs are needed within it.
	longest = 5 * time.Second
	// older is how long after a build its young programs are old enough to be known
	// by their identity.
	older = fileid.Settle + 200*time.Millisecond
)

// Follow builds the set at once, and again whenever a package database or the
// rules file changes, until ctx ends; then it returns nil. Each outcome is passed
// to each, one after the other; with an error the set is nil, and the one
// before stays valid. Between builds it rests three times as long as the last one
// and each took, 5 s at most: who cannot wait calls [Builder.Build]. Failed builds
// are repeated with growing pauses. The returned error says that changes cannot be
// watched.
func (b *Builder) Follow(ctx context.Context, each func(*cordon.TrustSet, Summary, error)) error {
	// Watching begins before the first build, so that no change falls in between.
	w, err := watch.Open(b.watched(), func(err error) { b.log().Warn("watching the package databases", "reason", err.Error()) })
	if err != nil {
		return fmt.Errorf("watch package databases: %w", err)
	}
	return b.follow(ctx, w.Bursts(ctx), each)
}

func (b *Builder) follow(ctx context.Context, changed <-chan struct{}, each func(*cordon.TrustSet, Summary, error)) error {
	pause := retryMin
	for {
		began := time.Now()
		set, sum, err := b.next(ctx)
		if ctx.Err() != nil {
			return nil
		}
		each(set, sum, err)
		// A package manager changes its database at every step. What it installs would wait
		// for the processor more than for anything else if each had a set of its own.
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(min(rests*time.Since(began), longest)):
		}
		var again <-chan time.Time
		switch {
		case err != nil:
			again = time.After(pause)
			pause = min(2*pause, retryMax)
		case sum.Young > 0:
			again = time.After(older)
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

// watched names the directories to watch, and says which changes in them matter.
func (b *Builder) watched() watch.Dirs {
	dirs := watch.Dirs{}
	add := func(dir string, m watch.Matters) { dirs.Add(filepath.Join(b.root(), dir), m) }
	add(dpkg.Dir, func(_ fsnotify.Op, name string) bool { return name == "status" || name == "diversions" })
	add(dpkg.Dir+"/info", func(fsnotify.Op, string) bool { return true })
	add(dpkg.Dir+"/updates", func(_ fsnotify.Op, name string) bool { return strings.Trim(name, "0123456789") == "" })
	for _, dir := range rpm.Dirs {
		// Reading the database must not seem to change it: SQLite writes its
		// shared-memory file then, and makes its log and sets the owner of that.
		add(dir, func(op fsnotify.Op, name string) bool {
			switch name {
			case "rpmdb.sqlite-wal":
				return op.Has(fsnotify.Write)
			case "rpmdb.sqlite", "Packages.db", "Packages":
				return op != fsnotify.Chmod
			}
			return false
		})
	}
	for _, file := range []string{b.RulesFile, b.GateFile} {
		if path, err := filepath.Abs(file); err == nil && file != "" {
			dirs.Add(filepath.Dir(path), func(_ fsnotify.Op, name string) bool { return name == filepath.Base(path) })
		}
	}
	return dirs
}
