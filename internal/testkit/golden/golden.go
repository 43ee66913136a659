// Package golden compares what tests see with files that hold what is right, and
// writes these where a test is run with -update: what that changes is then in the
// difference that a reviewer reads.
//
// It owns the flag -update of every test that imports it.
package golden

import (
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write what was seen into the golden files")

// Compare fails the test unless the file at path holds got, to the byte. With
// -update it makes that so.
func Compare[T string | []byte](t testing.TB, path string, got T) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v; -update writes it", err)
	}
	// By lines, or a long file has them cut anywhere.
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(string(got), "\n")); diff != "" {
		t.Errorf("%s is not what was seen (-file +seen); if that is right, -update writes it:\n%s", path, diff)
	}
}
