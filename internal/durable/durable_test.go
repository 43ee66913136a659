package durable_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/cordon-project/cordon/internal/durable"
)

func TestReplace(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	if err := os.WriteFile(path, []byte("old, and longer"), 0o644); err != nil {
		t.Fatal(err)
	}
	// What a crash left is overwritten, and does not stay.
	if err := os.WriteFile(path+".new", []byte("half of what was to be the content"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, content := range []string{"new", "", "newer"} {
		if err := durable.Replace(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if got, rerr := os.ReadFile(path); rerr != nil || err != nil || string(got) != content || info.Mode() != 0o600 {
			t.Errorf("%q, %v, %v", got, info, err)
		}
	}

	// What fails changes nothing, and leaves nothing behind.
	occupied := filepath.Join(dir, "directory")
	if err := os.MkdirAll(filepath.Join(occupied, "full"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{occupied, filepath.Join(dir, "no", "file")} {
		if err := durable.Replace(path, []byte("x"), 0o600); err == nil {
			t.Errorf("%s was replaced", path)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 2 {
		t.Errorf("%v, %v", left, err)
	}
}
