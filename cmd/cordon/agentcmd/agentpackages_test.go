package agentcmd

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The archives are found in dpkg's arguments as dpkg finds them.
func TestArchivesIn(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a.deb", "sub/b.deb", "sub/deep/c.deb", "sub/readme"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// apt hands over a directory of links.
	if err := os.Symlink(filepath.Join(dir, "a.deb"), filepath.Join(dir, "sub/l.deb")); err != nil {
		t.Fatal(err)
	}
	got, err := archivesIn(dir, []string{"--unpack", "--status-fd", "23", "a.deb", filepath.Join(dir, "a.deb"), "--recursive", "sub", "nothing.deb"})
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, name := range []string{"a.deb", "a.deb", "sub/b.deb", "sub/deep/c.deb", "sub/l.deb"} {
		want = append(want, filepath.Join(dir, name))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// A process may have any name.
func TestParentIn(t *testing.T) {
	for stat, want := range map[string]int{
		"12 (sh) S 7 12 12 0 -1":        7,
		"12 (a) R 1 (b) S 7 12 12 0 -1": 7,
		"12 () S 8\n":                   8,
		"12 (a) S":                      0,
		"":                              0,
		"12 (a) S x":                    0,
	} {
		if got, err := parentIn(stat); got != want || (err == nil) != (want != 0) {
			t.Errorf("%q: %d, %v", stat, got, err)
		}
	}
}
