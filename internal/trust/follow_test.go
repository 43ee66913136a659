package trust

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/trust/fixture"
	"github.com/cordon-project/cordon/internal/trust/watch"
)

// watching starts watching, without waiting for the end of bursts.
func watching(t *testing.T, b *Builder) *watch.Watch {
	t.Helper()
	w, err := watch.Open(b.watched(), func(err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() }) // it only watches
	return w
}

// mattered returns what has changed so far that matters. It comes in the order of
// the changes, so it makes one itself and reads up to that.
func mattered(t *testing.T, w *watch.Watch, root *fixture.Root) (paths []string) {
	t.Helper()
	const last = "var/lib/dpkg/diversions"
	root.Write(last, "", 0o644)
	for {
		path, ok := w.Next(t.Context())
		if !ok {
			t.Fatal("the watch has ended")
		}
		if path == root.Path(last) {
			return paths
		}
		paths = append(paths, path)
	}
}

// TestWatchTargets says which changes matter.
func TestWatchTargets(t *testing.T) {
	root := fixture.NewRoot(t)
	root.Install(one("a", "/usr/bin/a", "a"))
	b := builder(root)
	b.RulesFile = filepath.Join(t.TempDir(), "etc/cordon/site.rules") // does not exist, nor does its directory
	b.GateFile = filepath.Join(filepath.Dir(b.RulesFile), "admitted") // beside it
	tg := watching(t, b)

	// What does not matter: the builder's own reading above all.
	for range 3 {
		build(t, b)
	}
	root.Write("var/lib/dpkg/lock", "", 0o644)
	root.Write("var/lib/dpkg/status-old", "", 0o644)
	root.Write("var/lib/other", "", 0o644)
	if got := mattered(t, tg, root); len(got) != 0 {
		t.Errorf("mattered: %v", got)
	}
	write := func(path, content string) func() {
		return func() {
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, c := range []struct {
		name string
		do   func()
	}{
		{"package", func() { root.Install(one("b", "/usr/bin/b", "b")) }},
		{"journal", func() { root.Write("var/lib/dpkg/updates/0001", "Package: b\nStatus: install ok installed\n\n", 0o644) }},
		{"new rules file", write(b.RulesFile, "path /opt\n")}, // with two directories that it is in
		{"rules file", write(b.RulesFile, "path /srv\n")},
		{"new gate file", write(b.GateFile, "1")},
		{"gate file", write(b.GateFile, "2")},
		{"rules file again", write(b.RulesFile, "path /opt\n")},
	} {
		c.do()
		if got := mattered(t, tg, root); len(got) == 0 {
			t.Errorf("%s: nothing mattered", c.name)
		}
	}
}

// TestWatchRPM says the same of rpm's database, which has no files beside it at
// first that SQLite makes when it is read.
func TestWatchRPM(t *testing.T) {
	root := fixture.NewRoot(t)
	root.InstallRPM(nil, one("r", "/usr/bin/r", "r"))
	root.Install(one("a", "/usr/bin/a", "a"))
	root.Remove("var/lib/rpm/rpmdb.sqlite-shm")
	root.Remove("var/lib/rpm/rpmdb.sqlite-wal")
	b := builder(root)
	tg := watching(t, b)
	for range 3 {
		build(t, b)
	}
	root.Write("var/lib/rpm/.rpm.lock", "", 0o644)
	if got := mattered(t, tg, root); len(got) != 0 {
		t.Errorf("mattered: %v", got)
	}
	root.InstallRPM(nil, one("s", "/usr/bin/s", "s"))
	if got := mattered(t, tg, root); len(got) == 0 {
		t.Error("nothing mattered")
	}
}

// TestFollow goes through the life of an agent.
func TestFollow(t *testing.T) {
	root := fixture.NewRoot(t)
	root.Install(one("a", "/usr/bin/a", "a"))
	b := builder(root)
	type outcome struct {
		set *cordon.TrustSet
		err error
	}
	outcomes, done := make(chan outcome), make(chan error)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		done <- b.Follow(ctx, func(set *cordon.TrustSet, _ Summary, err error) {
			select {
			case outcomes <- outcome{set, err}:
			case <-ctx.Done(): // nobody wants to know any more
			}
		})
	}()
	if o := <-outcomes; o.err != nil || origin(o.set, "a") == "" {
		t.Fatalf("first: %+v", o)
	}
	// Writing several files may take so long that some count as all.
	until := func(what string, is func(outcome) bool) {
		t.Helper()
		for o := range outcomes {
			if is(o) {
				return
			}
			t.Logf("%s: %+v", what, o)
		}
	}
	root.Install(one("b", "/usr/bin/b", "b"))
	until("after an installation", func(o outcome) bool { return o.err == nil && origin(o.set, "b") != "" })
	root.Write("var/lib/dpkg/status", "Package: a\n", 0o644)
	until("half-written", func(o outcome) bool { return o.set == nil && errors.As(o.err, new(*cordon.Error)) })
	root.Status()
	until("repaired", func(o outcome) bool { return o.err == nil && o.set.Len() == 2 })
	cancel()
	if err := <-done; err != nil {
		t.Errorf("at the end: %v", err)
	}
}

// TestFollowRests says that changes without end leave the machine most of its time.
func TestFollowRests(t *testing.T) {
	root := fixture.NewRoot(t)
	root.Install(one("a", "/usr/bin/a", "a"))
	synctest.Test(t, func(t *testing.T) {
		b := builder(root)
		defer b.Hurry()() // the builds take no time
		ctx, cancel := context.WithCancel(t.Context())
		changed := make(chan struct{}, 1)
		changed <- struct{}{}
		takes := []time.Duration{time.Second, time.Second, time.Millisecond, time.Minute, time.Second}
		want := []time.Duration{0, rests * time.Second, rests * time.Second, rests * time.Millisecond, longest}
		last := time.Now()
		err := b.follow(ctx, changed, func(_ *cordon.TrustSet, _ Summary, err error) {
			if got := time.Since(last); err != nil || got != want[0] {
				t.Errorf("it rested %v, not %v: %v", got, want[0], err)
			}
			time.Sleep(takes[0])
			takes, want, last = takes[1:], want[1:], time.Now()
			if len(want) == 0 {
				cancel()
				return
			}
			select {
			case changed <- struct{}{}:
			default:
			}
		})
		if err != nil || time.Since(last) != 0 {
			t.Errorf("the end was waited for %v: %v", time.Since(last), err)
		}
	})
}

// TestFollowYoung says that programs which were too young are looked at again
// without another change.
func TestFollowYoung(t *testing.T) {
	root := fixture.NewRoot(t)
	root.Install(one("a", "/usr/bin/a", "a"))
	b := builder(root)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var known []int
	changed := root.Changed("usr/bin/a")
	b.Now = func() time.Time {
		if len(known) == 0 { // however late the first build is
			return changed
		}
		return time.Now()
	}
	err := b.Follow(ctx, func(_ *cordon.TrustSet, sum Summary, err error) {
		if err != nil {
			t.Error(err)
		}
		if known = append(known, sum.Known); sum.Young == 0 {
			cancel()
		}
	})
	if err != nil || known[0] != 0 || known[len(known)-1] != 1 {
		t.Errorf("known %v, %v", known, err)
	}
}

// TestWatchImpossible says that Follow does not go on blindly.
func TestWatchImpossible(t *testing.T) {
	root := fixture.NewRoot(t)
	root.Write("var/lib/dpkg", "a file where a directory should be", 0o644)
	err := builder(root).Follow(t.Context(), func(*cordon.TrustSet, Summary, error) { t.Error("a build without a watch") })
	if err == nil || !strings.Contains(err.Error(), "watch ") {
		t.Errorf("got %v", err)
	}
}
