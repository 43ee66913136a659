package agentcmd

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/enforce"
	"github.com/cordon-project/cordon/internal/fileid"
	"github.com/cordon-project/cordon/internal/trust"
)

// learner shows an enforcer the trusted files that interpreters may be told to
// run: the kernel cannot read a file while it is being opened, and refuses one
// that it was not shown as it is.
type learner struct {
	show  func(path string) error // nil: the enforcer need not be shown anything
	found func(path string) error // the same of a file that somebody else named
	built *trust.Builder
	log   *slog.Logger

	mu    sync.Mutex
	shown map[string]cordon.FileID
	since time.Time // when the minute of named began
	named int       // files that others named in it
}

// maxNamed is how many refused files a minute are shown that nobody but who made
// them has named: each is hashed, and what the kernel remembers has an end.
const maxNamed = 60

// newLearner returns a learner that does nothing unless e judges by what it was shown.
func newLearner(e enforce.Enforcer, built *trust.Builder, log *slog.Logger) *learner {
	l := &learner{built: built, log: log, shown: map[string]cordon.FileID{}}
	if shows, ok := e.(interface {
		Learn(path string) error
		LearnRefused(path string) error
	}); ok && e.Describe().Interpreters == cordon.TrustedScripts {
		l.show, l.found = shows.Learn, shows.LearnRefused
	}
	return l
}

// learn shows every text that was not shown as it is now. The kernel hashes them
// meanwhile, so it takes its time unless somebody is in a hurry.
func (l *learner) learn(ctx context.Context) {
	if l.show == nil {
		return
	}
	began, n, failed := time.Now(), 0, 0
	pause, end := l.built.AtLeisure(ctx)
	defer end()
	texts := l.built.Texts()
	l.forget(texts)
	for _, path := range texts {
		if ctx.Err() != nil {
			return
		}
		tried, ok := l.current(path)
		if tried {
			n++
		}
		if !ok {
			failed++
		}
		pause()
	}
	l.log.Info("files shown that interpreters may run", "files", n, "failed", failed, "duration", time.Since(began))
}

// forget drops what is no text any more: packages come and go for as long as an
// agent runs.
func (l *learner) forget(texts []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	maps.DeleteFunc(l.shown, func(path string, _ cordon.FileID) bool {
		_, is := slices.BinarySearch(texts, path)
		return !is
	})
}

// current shows a text if it was not shown as it is now.
func (l *learner) current(path string) (tried, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var st unix.Stat_t
	if unix.Lstat(path, &st) != nil {
		delete(l.shown, path) // gone since
		return false, true
	}
	id := fileid.FromStat(&st)
	if l.shown[path] == id {
		return false, true
	}
	return true, l.one(path, id)
}

// unpacked shows what a package manager has just unpacked, and does not wait for
// the next build of the trust set: services that it starts cannot.
func (l *learner) unpacked(ctx context.Context) {
	if l.show == nil {
		return
	}
	defer l.built.Hurry()()
	if _, _, err := l.built.Build(ctx); err != nil {
		l.log.WarnContext(ctx, "what was just unpacked is not shown to the kernel yet", "err", err)
		return
	}
	l.learn(ctx)
}

// refused shows a text that was refused: the kernel forgets those that somebody
// opens for writing, even if they stay what they were, and of a content that is
// trusted by its digest alone nobody has said in which file it is.
func (l *learner) refused(r enforce.Refusal) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if id, ok := l.shown[r.Path]; ok {
		l.one(r.Path, id)
	} else if r.Unseen && l.found != nil {
		if time.Since(l.since) > time.Minute {
			l.since, l.named = time.Now(), 0
		}
		if l.named++; l.named > maxNamed {
			return
		}
		if err := l.found(r.Path); err != nil {
			l.log.Debug("a refused file was not shown to the kernel", "err", err)
		}
	}
}

// one is called with mu held.
func (l *learner) one(path string, id cordon.FileID) bool {
	if err := l.show(path); err != nil {
		l.log.Debug("a file that interpreters may be told to run was not shown to the kernel", "err", err)
		return false
	}
	l.shown[path] = id
	return true
}
