package golden

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// judge is a test that keeps what it is told.
type judge struct {
	testing.TB
	said string
}

func (j *judge) Helper() {}

func (j *judge) Errorf(format string, args ...any) { j.said += fmt.Sprintf(format, args...) }

func (j *judge) Fatalf(format string, args ...any) {
	j.Errorf(format, args...)
	panic(j)
}

func compare(t *testing.T, path, got string) (said string) {
	j := &judge{TB: t}
	defer func() {
		if p := recover(); p != nil && p != any(j) {
			panic(p)
		}
		said = j.said
	}()
	Compare(j, path, got)
	return
}

func TestCompare(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if said := compare(t, path, "x"); !strings.Contains(said, "no such file") {
		t.Errorf("without a file: %q", said)
	}
	*update = true
	defer func() { *update = false }()
	if said := compare(t, path, "one\n"); said != "" {
		t.Error(said)
	}
	if now, err := os.ReadFile(path); err != nil || string(now) != "one\n" {
		t.Errorf("-update wrote %q, %v", now, err)
	}
	*update = false
	if said := compare(t, path, "one\n"); said != "" {
		t.Error(said)
	}
	for _, other := range []string{"one", "One\n", ""} {
		if said := compare(t, path, other); !strings.Contains(said, path) {
			t.Errorf("%q is the same as %q", other, "one\n")
		}
	}
	if now, err := os.ReadFile(path); err != nil || string(now) != "one\n" {
		t.Errorf("a comparison left %q, %v", now, err)
	}
}
