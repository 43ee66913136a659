package memstore_test

import (
	"context"
	"errors"
	"testing"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/testkit/memstore"
)

// A change that is not pure is found out.
func TestImpureChange(t *testing.T) {
	s := openWithAction(t)
	defer func() {
		if recover() == nil {
			t.Error("an impure change passes")
		}
	}()
	n := 0
	_, _ = s.ChangeAction(t.Context(), "a", func(a cordon.Action) (cordon.Action, []cordon.AuditEntry, error) { // it panics
		n++
		a.Comment = string(rune('a' + n))
		return a, nil, nil
	})
}

func openWithAction(t *testing.T) *memstore.Store {
	t.Helper()
	s := new(memstore.Store)
	if _, err := s.EnrolMachine(t.Context(), cordon.Machine{ID: "m"}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.CreateAction(t.Context(), cordon.ActionDraft{ID: "a", Machine: "m"}); err != nil {
		t.Fatal(err)
	}
	return s
}

// A hook that fails before leaves nothing, one that fails after everything.
func TestHook(t *testing.T) {
	for _, done := range []bool{false, true} {
		s := openWithAction(t)
		killed := errors.New("killed")
		s.Hook = func(method string, after bool) error {
			if method == "ChangeAction" && after == done {
				return killed
			}
			return nil
		}
		_, err := s.ChangeAction(context.Background(), "a", func(a cordon.Action) (cordon.Action, []cordon.AuditEntry, error) {
			a.Comment = "changed"
			return a, []cordon.AuditEntry{{Action: "a"}}, nil
		})
		if !errors.Is(err, killed) {
			t.Errorf("got %v", err)
		}
		a, err := s.Action(t.Context(), "a")
		if changed := a.Comment == "changed"; err != nil || changed != done || (len(s.AuditLog()) == 3) != done {
			t.Errorf("done %v: %+v, %v, %v", done, a, s.AuditLog(), err)
		}
	}
}
