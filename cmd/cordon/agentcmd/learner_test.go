package agentcmd

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/enforce"
	"github.com/cordon-project/cordon/internal/trust"
)

// shownTo is an enforcer that notes what it is shown.
type shownTo struct {
	enforce.None
	policy cordon.Interpreters
	paths  []string
	fails  bool
}

func (s *shownTo) Describe() enforce.Description {
	return enforce.Description{Interpreters: s.policy}
}

func (s *shownTo) Learn(path string) error {
	s.paths = append(s.paths, filepath.Base(path))
	if s.fails {
		return errors.New("no")
	}
	return nil
}

func (s *shownTo) LearnRefused(path string) error {
	return s.Learn(path)
}

func (s *shownTo) saw(t *testing.T, when string, want ...string) {
	t.Helper()
	if !slices.Equal(s.paths, want) {
		t.Errorf("%s: shown %q, not %q", when, s.paths, want)
	}
	s.paths = nil
}

func TestLearner(t *testing.T) {
	root := t.TempDir()
	write := func(path, text string) string {
		path = filepath.Join(root, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	builder := &trust.Builder{Root: root, ProgramText: true, RulesFile: write("rules", "path /lib\n"), Log: slog.New(slog.DiscardHandler)}
	build := func() {
		t.Helper()
		if _, _, err := builder.Build(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	a, b := write("lib/a.py", "a"), write("lib/b.pl", "b")
	build()
	e := &shownTo{policy: cordon.TrustedScripts}
	l := newLearner(e, builder, slog.New(slog.DiscardHandler))
	l.learn(t.Context())
	e.saw(t, "first", "a.py", "b.pl")
	l.learn(t.Context())
	e.saw(t, "nothing has changed")
	write("lib/b.pl", "another")
	build()
	l.learn(t.Context())
	e.saw(t, "changed", "b.pl")
	refuse := func(l *learner, path string, unseen bool) { l.refused(enforce.Refusal{Path: path, Unseen: unseen}) }
	refuse(l, a, true)
	refuse(l, a, false)
	refuse(l, filepath.Join(root, "rules"), false)
	e.saw(t, "refused for another reason: only what was shown before", "a.py", "a.py")
	refuse(l, "/own.txt", true)
	e.saw(t, "refused, and not known", "own.txt")
	var named []string
	for range 2 * maxNamed {
		refuse(l, "/flood.txt", true)
		named = append(named, "flood.txt")
	}
	e.saw(t, "a flood of what nobody knows, after one", named[:maxNamed-1]...)
	write("lib/c.sh", "c")
	e.fails = true
	l.unpacked(t.Context())
	e.saw(t, "unpacked", "c.sh")
	e.fails = false
	l.learn(t.Context())
	e.saw(t, "what failed is tried again", "c.sh")
	if err := os.Remove(b); err != nil {
		t.Fatal(err)
	}
	l.learn(t.Context())
	e.saw(t, "gone")
	write("lib/b.pl", "again") // a set does not shrink to less than half
	c := filepath.Join(root, "lib/c.sh")
	if err := os.Remove(c); err != nil {
		t.Fatal(err)
	}
	build()
	l.learn(t.Context())
	e.saw(t, "one back, one gone", "b.pl")
	refuse(l, c, false)
	e.saw(t, "refused, and no text any more")

	open := &shownTo{policy: cordon.OpenInterpreters}
	l = newLearner(open, builder, slog.New(slog.DiscardHandler))
	l.learn(t.Context())
	l.unpacked(t.Context())
	refuse(l, a, true)
	open.saw(t, "open interpreters")
}
