package trust

import (
	"crypto/sha256"
	"path/filepath"
	"testing"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/trust/fixture"
)

// While there is a gate, a package database adds only what the gate lets in, also
// after a restart, and so do rules; what was trusted stays.
func TestGate(t *testing.T) {
	root := fixture.NewRoot(t)
	root.Install(one("old", "/usr/bin/old", "old"), one("changed", "/usr/bin/changed", "before"))
	root.Write("opt/cordon/cordon", "cordon", 0o755)
	admitted := cordon.Digest(sha256.Sum256([]byte("admitted")))
	var gate func(cordon.Digest) bool
	b := builder(root)
	b.CacheFile = filepath.Join(t.TempDir(), "cache")
	b.Self = []string{"/opt/cordon/cordon"}
	b.Gate = func() func(cordon.Digest) bool { return gate }
	build(t, b)

	gate = func(d cordon.Digest) bool { return d == admitted }
	fixture.Tick(t)
	root.Install(one("new", "/usr/bin/new", "new"), one("good", "/usr/bin/good", "admitted"), one("changed", "/usr/bin/changed", "after"))
	root.Write("opt/cordon/cordon", "another", 0o755)
	check := func(b *Builder, want map[string]bool, withheld int) {
		t.Helper()
		set, sum := build(t, b)
		for content, want := range want {
			if got := origin(set, content) != ""; got != want {
				t.Errorf("%s: trusted %v, want %v", content, got, want)
			}
		}
		if sum.Withheld.N != withheld {
			t.Errorf("withheld %+v, want %d", sum.Withheld, withheld)
		}
	}
	want := map[string]bool{"old": true, "admitted": true, "new": false, "after": false, "another": false}
	check(b, want, 3)
	check(b, want, 3)
	again := builder(root)
	again.CacheFile, again.Self, again.Gate = b.CacheFile, b.Self, b.Gate
	check(again, want, 3)
	// What was admitted once stays, when the gate has forgotten it.
	gate = func(cordon.Digest) bool { return false }
	check(again, want, 3)
	// Who is root can write rules.
	again.RulesFile = rulesFile(t, "path /opt/tools\nsha256 "+cordon.Digest(sha256.Sum256([]byte("own"))).String()+"\n")
	root.Write("opt/tools/tool", "tool", 0o755)
	want["own"], want["tool"] = false, false
	check(again, want, 5)
	gate = nil
	check(again, map[string]bool{"old": true, "admitted": true, "new": true, "after": true, "another": true, "own": true, "tool": true}, 0)

	// And what they name is as it was before, whatever becomes of them.
	gate = func(cordon.Digest) bool { return false }
	for _, text := range []string{"", "path /opt/none\n"} {
		again.RulesFile = rulesFile(t, text)
		check(again, map[string]bool{"own": true, "tool": true}, 0)
	}
	gate = nil
	check(again, map[string]bool{"own": false, "tool": false}, 0)
}

// A machine that is restricted while a set is built takes nothing from it that was
// not there before.
func TestGateCloses(t *testing.T) {
	root := fixture.NewRoot(t)
	root.Install(one("old", "/usr/bin/old", "old"))
	b := builder(root)
	asked := 0
	b.Gate = func() func(cordon.Digest) bool {
		if asked++; asked < 2 {
			return nil
		}
		return func(cordon.Digest) bool { return false }
	}
	b.RulesFile = rulesFile(t, "")
	build(t, b) // the first set has nothing before it, and asks nobody
	fixture.Tick(t)
	root.Install(one("new", "/usr/bin/new", "new"))
	b.RulesFile = rulesFile(t, "sha256 "+cordon.Digest(sha256.Sum256([]byte("own"))).String()+"\n")
	set, _ := build(t, b)
	for content, want := range map[string]bool{"old": true, "new": false, "own": false} {
		if got := origin(set, content) != ""; got != want {
			t.Errorf("%s: trusted %v, want %v", content, got, want)
		}
	}
	if asked != 2 {
		t.Errorf("the gate was asked %d times", asked)
	}
}

// Where nothing is known of the time before, the database is all there is.
func TestGateWithoutBefore(t *testing.T) {
	root := fixture.NewRoot(t)
	root.Install(one("p", "/usr/bin/p", "program"))
	b := builder(root)
	b.Gate = func() func(cordon.Digest) bool { return func(cordon.Digest) bool { return false } }
	set, _ := build(t, b)
	if origin(set, "program") == "" {
		t.Error("a machine that lost its cache can run nothing")
	}
}
