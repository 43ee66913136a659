package agent

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/cordon-project/cordon"
)

// People are told once for each restriction and once for its end, whatever
// brought it about, and of nothing else.
func TestChanged(t *testing.T) {
	f := newFixture(t)
	told := func(what string, want ...bool) {
		t.Helper()
		if !slices.Equal(f.changed, want) {
			t.Errorf("%s: told %v, want %v", what, f.changed, want)
		}
		f.changed = nil
	}
	f.obey(f.order(1, cordon.UnrestrictOrder))
	told("nothing to lift")
	f.kernel.failOn(cordon.ModeEnforce, errors.New("no"))
	f.obey(f.order(2, cordon.RestrictOrder))
	told("failed")
	f.kernel.failOn("", nil)
	f.obey(f.order(3, cordon.RestrictOrder))
	told("restricted", true)
	f.obey(f.order(4, cordon.RestrictOrder, lease(time.Hour)))
	told("restricted already")
	f.restart()
	if err := f.restore(t.Context()); err != nil {
		t.Fatal(err)
	}
	told("restored")
	f.pass(2 * time.Hour)
	told("lapsed", false)
	f.hearFrom()
	told("renewed", true)
	f.pass(2 * time.Hour)
	told("lapsed again", false)
	f.obey(f.order(5, cordon.UnrestrictOrder))
	told("lifted when lapsed")
	f.obey(f.order(6, cordon.RestrictOrder))
	told("restricted once more", true)
	if _, err := f.carry(f.release(6)); err != nil {
		t.Fatal(err)
	}
	told("break-glass", false)
}
