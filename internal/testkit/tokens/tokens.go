// Package tokens gives tests of edges access tokens: good ones, and one of each
// kind that must not be let in. They are real ones, made and verified by package
// oauth, with applications in the test's own store.
package tokens

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/oauth"
)

// Tenant is the tenant of all tokens but the foreign ones.
const Tenant = "8f3d1c52-6b7a-4e0d-9c11-2a4b5c6d7e8f"

const otherTenant = "11111111-1111-4111-8111-111111111111"

// Store keeps the applications.
type Store interface {
	oauth.Applications
	PutApplication(context.Context, cordon.Application) error
}

// rsaKeys are the key of the server and one that it does not know.
var rsaKeys = sync.OnceValues(func() (server, other *rsa.PrivateKey) {
	make := func() *rsa.PrivateKey {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			panic(err)
		}
		return key
	}
	return make(), make()
})

// Issuer issues tokens and verifies them.
type Issuer struct {
	*oauth.Server
	t     testing.TB
	store Store
	now   func() time.Time
	apps  int
}

// New returns an issuer whose clock is now.
func New(t testing.TB, store Store, now func() time.Time) *Issuer {
	t.Helper()
	return &Issuer{Server: server(t, Tenant, store, now), t: t, store: store, now: now}
}

func server(t testing.TB, tenant string, store Store, now func() time.Time) *oauth.Server {
	t.Helper()
	key, _ := rsaKeys()
	s, err := oauth.New(oauth.Config{
		Tenant: tenant, Keys: func() []*rsa.PrivateKey { return []*rsa.PrivateKey{key} }, Applications: store, Now: now, Log: slog.New(slog.DiscardHandler),
		Base: func(*http.Request) string { return "https://login.example.org" }, NewID: func() string { return tenant },
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Issue returns a token of a new application with these permissions.
func (i *Issuer) Issue(permissions ...cordon.Permission) string {
	i.t.Helper()
	return i.issue(i.Server, Tenant, permissions...)
}

func (i *Issuer) issue(s *oauth.Server, tenant string, permissions ...cordon.Permission) string {
	i.t.Helper()
	i.apps++
	id := fmt.Sprintf("70c50000-0000-4000-8000-%012d", i.apps)
	app := cordon.Application{ClientID: id, ObjectID: id, DisplayName: "application " + id, Permissions: permissions, Secrets: []cordon.Secret{cordon.NewSecret(id, "secret", i.now(), nil)}}
	if err := i.store.PutApplication(i.t.Context(), app); err != nil {
		i.t.Fatal(err)
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest("POST", "/"+tenant+"/oauth2/v2.0/token", strings.NewReader(url.Values{
		"grant_type": {"client_credentials"}, "client_id": {id}, "client_secret": {"secret"}, "scope": {"https://api.securitycenter.microsoft.com/.default"},
	}.Encode())))
	var answer struct {
		Token string `json:"access_token"`
	}
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || answer.Token == "" {
		i.t.Fatalf("token: %d %s", w.Code, w.Body)
	}
	return answer.Token
}

// Fault is a token that allows nothing, although its application had all
// permissions if it were good, and what kind of error it gets.
type Fault struct {
	What, Token string
	Kind        cordon.Kind
}

// Faults returns one token of each kind that must not be let in.
func (i *Issuer) Faults() []Fault {
	i.t.Helper()
	all := i.Issue(cordon.AllPermissions()...)
	key, unknown := rsaKeys()
	signing := func(key *rsa.PrivateKey) jose.SigningKey {
		return jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: key, KeyID: Header(i.t, all)["kid"]}}
	}
	same := func(map[string]any) {}
	return []Fault{
		{"none, or one that cannot be read", "", cordon.Unauthenticated},
		{"expired", Forge(i.t, all, signing(key), func(c map[string]any) { c["exp"] = i.now().Add(-time.Hour).Unix() }), cordon.Unauthenticated},
		{"of another tenant", i.issue(server(i.t, otherTenant, i.store, i.now), otherTenant, cordon.AllPermissions()...), cordon.Unauthenticated},
		{"not signed", base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"JWT"}`)) + "." + strings.Split(all, ".")[1] + ".", cordon.Unauthenticated},
		{"signed with another key", Forge(i.t, all, signing(unknown), same), cordon.Unauthenticated},
		{"for another API (`aud`)", Forge(i.t, all, signing(key), func(c map[string]any) { c["aud"] = "https://graph.microsoft.com" }), cordon.Forbidden},
		{"without one of the operation's permissions", i.Issue(), cordon.Forbidden},
	}
}

// Header returns the header of a token.
func Header(t testing.TB, token string) (header map[string]string) {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &header); err != nil {
		t.Fatal(err)
	}
	return header
}

// Forge signs what a good token says, changed.
func Forge(t testing.TB, token string, key jose.SigningKey, change func(map[string]any)) string {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	var claims map[string]any
	if err := json.Unmarshal(b, &claims); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"iat", "nbf", "exp"} {
		claims[name] = int64(claims[name].(float64))
	}
	change(claims)
	signer, err := jose.NewSigner(key, nil)
	if err != nil {
		t.Fatal(err)
	}
	token, err = jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}
