package oauth

import (
	"context"
	"errors"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"

	"github.com/cordon-project/cordon"
)

// TestOthers holds that tokens of others are asked about, ours never, and that
// what is known there is not judged here.
func TestOthers(t *testing.T) {
	s, _ := newServer(t)
	var asked []string
	foreign := cordon.Caller{ID: "https://id.example.org#app:x"}
	refused := cordon.Errorf(cordon.Unauthenticated, "", "not today")
	s.Others = func(_ context.Context, token string) (cordon.Caller, bool, error) {
		asked = append(asked, token)
		switch token {
		case "theirs":
			return foreign, true, nil
		case "refused":
			return cordon.Caller{}, true, refused
		}
		return foreign, false, nil
	}
	kids := keyIDs(s)
	authenticate := func(token string) (cordon.Caller, error) {
		r := httptest.NewRequest("GET", "/api/machines", nil)
		r.Header.Set("Authorization", "Bearer "+token)
		return s.Authenticate(r)
	}
	for _, ours := range []string{getToken(t, s), forge(t, jose.RS256, testKeys[0], kids[0], goodClaims(s))} {
		if got, err := authenticate(ours); err != nil || !cmp.Equal(got, testCaller) {
			t.Errorf("ours: %+v %v", got, err)
		}
	}
	expired := goodClaims(s)
	expired.Expires = 1
	if _, err := authenticate(forge(t, jose.RS256, testKeys[0], kids[0], expired)); cordon.KindOf(err) != cordon.Unauthenticated {
		t.Errorf("ours, expired: %v", err)
	}
	if _, err := authenticate(strings.Repeat("x", maxToken+1)); cordon.KindOf(err) != cordon.Unauthenticated {
		t.Errorf("too long: %v", err)
	}
	if len(asked) != 0 {
		t.Errorf("asked about ours: %v", asked)
	}
	if got, err := authenticate("theirs"); err != nil || !cmp.Equal(got, foreign) {
		t.Errorf("theirs: %+v %v", got, err)
	}
	if _, err := authenticate("refused"); !errors.Is(err, refused) {
		t.Errorf("refused: %v", err)
	}
	if got, err := authenticate("nobody's"); cordon.KindOf(err) != cordon.Unauthenticated || got.ID != "" {
		t.Errorf("nobody's: %+v %v", got, err)
	}
}
