package cordon_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/cordon-project/cordon"
)

func TestError(t *testing.T) {
	cause := errors.New("disk full")
	e := &cordon.Error{Kind: cordon.Unavailable, Code: "X", Message: "The store does not answer", Err: cause}
	wrapped := fmt.Errorf("create action: %w", e)
	if got := wrapped.Error(); got != "create action: The store does not answer: disk full" {
		t.Error(got)
	}
	if !errors.Is(wrapped, cause) || cordon.KindOf(wrapped) != cordon.Unavailable || cordon.CodeOf(wrapped) != "X" {
		t.Errorf("%v %v", cordon.KindOf(wrapped), cordon.CodeOf(wrapped))
	}
	if got := cordon.Errorf(cordon.NotFound, "", "Machine %s was not found", "web").Error(); got != "Machine web was not found" {
		t.Error(got)
	}
	both := fmt.Errorf("a: %w", &cordon.Error{Kind: cordon.Invalid, Err: cordon.Errorf(cordon.NotFound, "inner", "")})
	if cordon.KindOf(both) != cordon.Invalid || cordon.CodeOf(both) != "" {
		t.Errorf("the outer error does not count: %v %q", cordon.KindOf(both), cordon.CodeOf(both))
	}
}

// What nobody classified is internal, so that no edge shows it to a caller.
func TestUnclassifiedErrors(t *testing.T) {
	for _, err := range []error{nil, errors.New("x"), fmt.Errorf("y: %w", errors.New("x"))} {
		if cordon.KindOf(err) != cordon.Internal || cordon.CodeOf(err) != "" {
			t.Errorf("%v: %v %q", err, cordon.KindOf(err), cordon.CodeOf(err))
		}
	}
}

func TestKindNames(t *testing.T) {
	for k, want := range map[cordon.Kind]string{
		cordon.Internal: "internal", cordon.Invalid: "invalid", cordon.Unauthenticated: "unauthenticated", cordon.Forbidden: "forbidden",
		cordon.NotFound: "not found", cordon.Conflict: "conflict", cordon.Limited: "limited", cordon.Unavailable: "unavailable", 99: "Kind(99)",
	} {
		if k.String() != want {
			t.Errorf("%d is %q, want %q", uint8(k), k, want)
		}
	}
}
