package oauth

import (
	"context"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"

	"github.com/cordon-project/cordon"
)

// published returns the ids in the key set that clients read.
func published(t *testing.T, s *Server) (ids []string) {
	t.Helper()
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest("GET", "/"+testTenant+"/discovery/v2.0/keys", nil))
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(w.Body.Bytes(), &set); err != nil {
		t.Fatal(err)
	}
	for _, k := range set.Keys {
		if k.Key.(*rsa.PublicKey).N.BitLen() != 2048 || !k.IsPublic() || k.Use != "sig" {
			t.Errorf("key %+v", k)
		}
		ids = append(ids, k.KeyID)
	}
	return ids
}

// TestRotation lets keys come and go under a server that runs.
func TestRotation(t *testing.T) {
	s, _ := newServer(t)
	keys := []*rsa.PrivateKey{testKeys[0]}
	s.Keys = func() []*rsa.PrivateKey { return slices.Clone(keys) }
	kid := func(token string) string {
		parsed, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.RS256})
		if err != nil {
			t.Fatal(err)
		}
		return parsed.Signatures[0].Header.KeyID
	}
	good := func(token string, want bool) {
		t.Helper()
		for range 2 { // the second time from the cache, if there is one
			if _, err := s.Verify(t.Context(), token); (err == nil) != want || err != nil && cordon.KindOf(err) != cordon.Unauthenticated {
				t.Errorf("accepted: %v, want %v", err, want)
			}
		}
	}
	first := getToken(t, s)
	good(first, true)
	if ids := published(t, s); !slices.Equal(ids, []string{kid(first)}) {
		t.Errorf("published %v", ids)
	}

	keys = append(keys, testKeys[1]) // the next one is published
	if ids := published(t, s); len(ids) != 2 || ids[0] != kid(first) || kid(getToken(t, s)) != kid(first) {
		t.Errorf("published %v", ids)
	}
	next := published(t, s)[1]

	keys = []*rsa.PrivateKey{testKeys[1], testKeys[0]} // it signs
	second := getToken(t, s)
	if kid(second) != next {
		t.Errorf("signed with %s, want %s", kid(second), next)
	}
	good(first, true)
	good(second, true)

	keys = []*rsa.PrivateKey{testKeys[1]} // the old one is gone, with its tokens
	good(first, false)
	good(second, true)

	keys = nil // nothing is signed and nobody gets in without a key
	if _, err := s.Verify(t.Context(), second); err == nil {
		t.Error("a token was accepted without a key")
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest("GET", "/"+testTenant+"/discovery/keys", nil))
	if w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "AADSTS90033") {
		t.Errorf("key set: %d %s", w.Code, w.Body)
	}
}

// TestGenericLibrary has a library that knows nothing of us read the discovery
// document and verify tokens, also across a rotation.
func TestGenericLibrary(t *testing.T) {
	s, clock := newServer(t)
	server := httptest.NewTLSServer(s)
	defer server.Close()
	keys := testKeys[:1]
	s.Keys = func() []*rsa.PrivateKey { return keys }
	ctx := oidc.ClientContext(t.Context(), server.Client())

	provider, err := oidc.NewProvider(ctx, server.URL+"/"+testTenant+"/v2.0")
	if err != nil {
		t.Fatal(err)
	}
	if got := provider.Endpoint().TokenURL; got != server.URL+"/"+testTenant+"/oauth2/v2.0/token" {
		t.Errorf("token endpoint %s", got)
	}
	// Tokens are of version 1, and so name the issuer of that.
	v1, err := oidc.NewProvider(oidc.InsecureIssuerURLContext(ctx, s.issuer), server.URL+"/"+testTenant)
	if err != nil {
		t.Fatal(err)
	}
	verifier := v1.VerifierContext(ctx, &oidc.Config{ClientID: audience, Now: clock.now})
	verify := func(token string) error {
		got, err := verifier.Verify(context.Background(), token)
		if err == nil && (got.Issuer != s.issuer || !slices.Equal(got.Audience, []string{audience})) {
			return fmt.Errorf("it says %+v", got)
		}
		return err
	}
	first := getToken(t, s)
	if err := verify(first); err != nil {
		t.Error(err)
	}
	keys = []*rsa.PrivateKey{testKeys[1], testKeys[0]}
	// It looks for the new key, unless it has the answer to its last question in hand:
	// another goroutine puts that away.
	next := getToken(t, s)
	for err = verify(next); err != nil && t.Context().Err() == nil; err = verify(next) {
		runtime.Gosched()
	}
	if err := verify(first); err != nil {
		t.Error(err)
	}
	if err := verify(first[:len(first)-8] + "AAAAAAAA"); err == nil {
		t.Error("a forged token was accepted")
	}

	// The documents for all tenants lead to the same keys.
	for _, tenant := range sharedTenants {
		for _, version := range []string{"", "/v2.0"} {
			resp, err := server.Client().Get(server.URL + "/" + tenant + version + "/.well-known/openid-configuration")
			if err != nil {
				t.Fatal(err)
			}
			var m metadata
			body, err := io.ReadAll(resp.Body)
			if err == nil {
				err = json.Unmarshal(body, &m)
			}
			if err != nil || resp.StatusCode != 200 || !strings.Contains(m.Issuer, "{tenantid}") {
				t.Fatalf("%v %s", err, body)
			}
			if _, err := oidc.NewRemoteKeySet(ctx, m.JWKS).VerifySignature(t.Context(), first); err != nil {
				t.Errorf("%s%s: %v", tenant, version, err)
			}
		}
	}
}
