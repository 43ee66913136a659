package agentcmd

import (
	"crypto/sha256"
	"os"
	"path/filepath"
	"testing"

	"github.com/cordon-project/cordon"
)

// What the first process starts services through stays trusted as long as it has it
// open, although a package brought another.
func TestReplacedProgram(t *testing.T) {
	set := func(contents ...string) *cordon.TrustSet {
		var entries []cordon.TrustEntry
		for _, c := range contents {
			entries = append(entries, cordon.TrustEntry{Digest: sha256.Sum256([]byte(c)), Size: int64(len(c)), Origin: "dpkg:systemd"})
		}
		return cordon.NewTrustSet(entries, nil)
	}
	open := func(content string, mode os.FileMode) *os.File {
		path := filepath.Join(t.TempDir(), "executor")
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() }) // only open
		return f
	}
	old := open("old", 0o755)
	open("own", 0o755)
	open("text", 0o644)
	with := keepRunning("/proc/self/fd")
	if got := with(set("old", "text")); got.Len() != 2 {
		t.Errorf("%d programs in the first set", got.Len())
	}
	for range 2 {
		got := with(set("new"))
		for content, want := range map[string]bool{"old": true, "new": true, "own": false, "text": false} {
			if got.Contains(sha256.Sum256([]byte(content))) != want {
				t.Errorf("after an upgrade: trusted %s: %v", content, !want)
			}
		}
	}
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	if got := with(set("new")); got.Len() != 1 {
		t.Errorf("%d programs when it is closed", got.Len())
	}
}
