package trust

import (
	"crypto/sha256"
	"path/filepath"
	"testing"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/trust/fixture"
)

// What was trusted and is still started stays trusted when its package has another,
// also for the next agent; nothing becomes trusted because it is started.
func TestRunning(t *testing.T) {
	root := fixture.NewRoot(t)
	root.Install(one("init", "/usr/lib/executor", "old"), one("other", "/usr/bin/other", "other"))
	running := []string{"old", "own"}
	agent := func(cache string) *Builder {
		b := builder(root)
		b.CacheFile = cache
		b.Running = func() (all []cordon.Digest) {
			for _, r := range running {
				all = append(all, sha256.Sum256([]byte(r)))
			}
			return all
		}
		return b
	}
	check := func(b *Builder, want map[string]string) {
		t.Helper()
		set, _ := build(t, b)
		for content, want := range want {
			if got := origin(set, content); got != want {
				t.Errorf("%s: trusted because of %q, want %q", content, got, want)
			}
		}
	}
	cache := filepath.Join(t.TempDir(), "cache")
	before := agent(cache)
	check(before, map[string]string{"old": "dpkg:init", "own": ""})
	fixture.Tick(t)
	root.Install(one("init", "/usr/lib/executor", "new"))
	want := map[string]string{"old": "dpkg:init", "new": "dpkg:init", "own": ""}
	check(before, want)
	check(before, want)
	if got := origin(agent(cache).Last(), "old"); got != "dpkg:init" {
		t.Errorf("the next agent begins with it trusted because of %q", got)
	}
	next := agent(cache)
	check(next, want)
	running = nil
	check(next, map[string]string{"old": "", "new": "dpkg:init"})
}
