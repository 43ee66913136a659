package agentcmd

import (
	"crypto/sha256"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cordon-project/cordon"
)

// What a process has open is told as long as it has it open, if it is a program that
// has no name any more.
func TestReplacedProgram(t *testing.T) {
	open := func(content string, mode os.FileMode, remove bool) *os.File {
		path := filepath.Join(t.TempDir(), "executor")
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if remove {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
		t.Cleanup(func() { _ = f.Close() }) // only open
		return f
	}
	old := open("old", 0o755, true)
	open("current", 0o755, false)
	open("text", 0o644, true)
	told := func(content string) bool {
		return slices.Contains(replaced("/proc/self/fd"), cordon.Digest(sha256.Sum256([]byte(content))))
	}
	for content, want := range map[string]bool{"old": true, "current": false, "text": false} {
		if told(content) != want {
			t.Errorf("%s is told: %v", content, !want)
		}
	}
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	if told("old") {
		t.Error("it is told when it is closed")
	}
}
