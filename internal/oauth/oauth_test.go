package oauth

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/testkit/contract"
	"github.com/cordon-project/cordon/internal/testkit/wirefile"
)

const (
	testTenant = "8f3d1c52-6b7a-4e0d-9c11-2a4b5c6d7e8f"
	testClient = "0a1b2c3d-4e5f-4061-8273-849506a7b8c9"
	testSecret = "s3cret~with+odd/chars%20="
)

var (
	testNow  = time.Date(2026, 11, 21, 20, 6, 52, 0, time.UTC)
	testKeys = func() []*rsa.PrivateKey { return []*rsa.PrivateKey{newKey(2048), newKey(2048)} }()
)

func newKey(bits int) *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		panic(err)
	}
	return key
}

// fixed are keys that stay the same.
func fixed(keys ...*rsa.PrivateKey) func() []*rsa.PrivateKey {
	return func() []*rsa.PrivateKey { return keys }
}

// apps is the part of a store that holds applications.
type apps map[string]cordon.Application

var errStoreDown = errors.New("disk on fire")

// brokenApp is the id of an application that the store cannot read.
const brokenApp = "deadbeef-0000-4000-8000-000000000000"

func (a apps) Application(_ context.Context, id string) (cordon.Application, error) {
	if id == brokenApp {
		return cordon.Application{}, errStoreDown
	}
	app, ok := a[id]
	if !ok {
		return app, cordon.Errorf(cordon.NotFound, "", "no application %s", id)
	}
	return app, nil
}

// clock is set by tests.
type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

func newServer(t testing.TB) (*Server, *clock) {
	t.Helper()
	c := &clock{testNow}
	var ids atomic.Int64
	s, err := New(Config{
		Tenant: strings.ToUpper(testTenant), Keys: fixed(testKeys...), Now: c.now, Log: slog.New(slog.DiscardHandler),
		Applications: apps{
			testClient: {ClientID: testClient, ObjectID: "11111111-2222-4333-8444-555555555555", DisplayName: "SOAR <1>",
				Secrets: []cordon.Secret{cordon.NewSecret("1", testSecret, testNow, nil)}, Permissions: []cordon.Permission{cordon.MachineRestrict, cordon.MachineReadAll}},
		},
		Base:  func(r *http.Request) string { return "https://" + r.Host },
		Own:   func(host string) bool { return host == "cordon.example.org" || host == "2001:db8::1" },
		NewID: func() string { return fmt.Sprintf("00000000-0000-4000-8000-%012x", ids.Add(1)) },
	})
	if err != nil {
		t.Fatal(err)
	}
	return s, c
}

// getToken asks for a token by the v2 endpoint.
func getToken(t testing.TB, s *Server) string {
	t.Helper()
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest("POST", "/"+testTenant+"/oauth2/v2.0/token", strings.NewReader(url.Values{
		"grant_type": {"client_credentials"}, "client_id": {testClient}, "client_secret": {testSecret}, "scope": {audience + "/.default"},
	}.Encode())))
	var answer struct {
		Token string `json:"access_token"`
	}
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || answer.Token == "" {
		t.Fatalf("token request answered %d %s", w.Code, w.Body)
	}
	return answer.Token
}

// TestWire plays the files of testdata (package wirefile), and holds what it sees
// against the document. In the requests, $T is the tenant, $C the client id, $S
// the secret in form encoding, $BASIC the pair for HTTP Basic. In the answers an
// access token is shown as what it says, after its signature was checked, and
// random key material is left out.
func TestWire(t *testing.T) {
	document := contract.Load(t, OpenAPI)
	wirefile.Play(t, func(t *testing.T) func(name, section string) []byte {
		s, _ := newServer(t)
		server := httptest.NewServer(document.Watch(t, s))
		t.Cleanup(server.Close)
		return func(_, request string) []byte {
			r, content := wirefile.Send(t, server.Listener.Addr().String(), "login.example.org", fill(request))
			r.Header.Set("Content-Length", fmt.Sprint(r.ContentLength))
			return readable(t, s, wirefile.Text(r, content))
		}
	})
	if unseen := document.Unseen(); len(unseen) > 0 {
		t.Errorf("documented, but in no file: %v", unseen)
	}
}

func fill(request string) string {
	return strings.NewReplacer(
		"$T", testTenant, "$C", testClient, "$S", url.QueryEscape(testSecret),
		"$BASIC", base64.StdEncoding.EncodeToString([]byte(url.QueryEscape(testClient)+":"+url.QueryEscape(testSecret))),
	).Replace(request)
}

var (
	tokenMember  = regexp.MustCompile(`"access_token":"([^"]*)"`)
	tokenLength  = regexp.MustCompile(`(?m)^Content-Length: .*`)
	modulus      = regexp.MustCompile(`"n":"[^"]*"`)
	keyIDPattern = regexp.MustCompile(`"kid":"[^"]*"`)
)

func readable(t *testing.T, s *Server, answer []byte) []byte {
	t.Helper()
	if m := tokenMember.FindSubmatch(answer); m != nil {
		if _, err := s.Verify(t.Context(), string(m[1])); err != nil {
			t.Errorf("the issued token does not verify: %v", err)
		}
		var parts []string
		for part := range strings.SplitSeq(string(m[1]), ".") {
			b, err := base64.RawURLEncoding.DecodeString(part)
			if err != nil {
				t.Fatal(err)
			}
			parts = append(parts, string(b))
		}
		answer = tokenMember.ReplaceAllLiteral(answer, []byte(`"access_token":"`+parts[0]+"."+parts[1]+`.…"`))
	}
	answer = tokenLength.ReplaceAll(answer, []byte("Content-Length: …")) // of text that was replaced
	answer = modulus.ReplaceAll(answer, []byte(`"n":"…"`))
	return keyIDPattern.ReplaceAll(answer, []byte(`"kid":"…"`))
}

func TestNewRefusesBadConfig(t *testing.T) {
	for name, c := range map[string]Config{
		"tenant is no GUID": {Tenant: "contoso.example", Keys: fixed(testKeys...)},
		"no key":            {Tenant: testTenant, Keys: fixed()},
		"short key":         {Tenant: testTenant, Keys: fixed(newKey(1024))},
	} {
		if _, err := New(c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestFormTooLong(t *testing.T) {
	s, _ := newServer(t)
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest("POST", "/"+testTenant+"/oauth2/v2.0/token", strings.NewReader(strings.Repeat("x", 1<<20))))
	if w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "AADSTS90013") {
		t.Errorf("1 MB form answered %d %s", w.Code, w.Body)
	}
}

// TestSecretForms checks that one secret is read from every place where a
// client may put it, and that nothing near it passes.
func TestSecretForms(t *testing.T) {
	s, _ := newServer(t)
	ask := func(secret, header string) int {
		form := url.Values{"grant_type": {"client_credentials"}, "client_id": {testClient}, "scope": {audience + "/.default"}}
		if secret != "" {
			form.Set("client_secret", secret)
		}
		r := httptest.NewRequest("POST", "/"+testTenant+"/oauth2/v2.0/token", strings.NewReader(form.Encode()))
		if header != "" {
			r.Header.Set("Authorization", header)
		}
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		return w.Code
	}
	basic := func(id, secret string) string {
		return "Basic " + base64.StdEncoding.EncodeToString([]byte(id+":"+secret))
	}
	for name, c := range map[string]struct {
		secret, header string
		status         int
	}{
		"form":                 {secret: testSecret, status: 200},
		"basic, escaped":       {header: basic(testClient, url.QueryEscape(testSecret)), status: 200},
		"basic before form":    {secret: "other", header: basic(testClient, url.QueryEscape(testSecret)), status: 200},
		"basic in lower case":  {header: "basic " + strings.TrimPrefix(basic(testClient, url.QueryEscape(testSecret)), "Basic "), status: 200},
		"basic, wrong":         {secret: testSecret, header: basic(testClient, "other"), status: 401},
		"basic, no colon":      {secret: "", header: "Basic " + base64.StdEncoding.EncodeToString([]byte("x")), status: 401},
		"basic, not base64":    {header: "Basic ???", status: 401},
		"another scheme":       {secret: testSecret, header: "Bearer x", status: 200},
		"prefix of the secret": {secret: testSecret[:len(testSecret)-1], status: 401},
		"blank at the end":     {secret: testSecret + " ", status: 401},
		"the digest":           {secret: fmt.Sprintf("%x", sha256.Sum256([]byte(testSecret))), status: 401},
		"none":                 {status: 401},
	} {
		if got := ask(c.secret, c.header); got != c.status {
			t.Errorf("%s: %d, want %d", name, got, c.status)
		}
	}
}

// TestBodyGoesBeforeQuery: what a proxy or a link adds to the address does not
// replace what the client says.
func TestBodyGoesBeforeQuery(t *testing.T) {
	s, _ := newServer(t)
	good := url.Values{"grant_type": {"client_credentials"}, "client_id": {testClient}, "client_secret": {testSecret}, "scope": {audience + "/.default"}}
	bad := url.Values{"grant_type": {"x"}, "client_id": {"x"}, "client_secret": {"x"}, "scope": {"x"}}
	for _, c := range []struct {
		query, body url.Values
		status      int
	}{{bad, good, 200}, {good, bad, 400}, {good, nil, 200}, {nil, good, 200}} {
		w := httptest.NewRecorder()
		s.ServeHTTP(w, httptest.NewRequest("POST", "/"+testTenant+"/oauth2/v2.0/token?"+c.query.Encode(), strings.NewReader(c.body.Encode())))
		if w.Code != c.status {
			t.Errorf("query %v, body %v: %d %s", c.query, c.body, w.Code, w.Body)
		}
	}
}

// TestSecretsAreNotLogged looks for what must never be in the log or an answer.
func TestSecretsAreNotLogged(t *testing.T) {
	s, _ := newServer(t)
	var log bytes.Buffer
	s.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	token := getToken(t, s)
	w := httptest.NewRecorder()
	for _, secret := range []string{"wrong-secret", testSecret} {
		form := url.Values{"grant_type": {"client_credentials"}, "client_id": {brokenApp}, "client_secret": {secret}, "scope": {audience + "/.default"}}
		s.ServeHTTP(w, httptest.NewRequest("POST", "/"+testTenant+"/oauth2/v2.0/token", strings.NewReader(form.Encode())))
		form.Set("client_id", testClient)
		form.Set("scope", "x")
		s.ServeHTTP(w, httptest.NewRequest("GET", "/"+testTenant+"/oauth2/v2.0/token?"+form.Encode(), nil))
	}
	seen := log.String() + w.Body.String()
	for _, secret := range []string{"wrong-secret", testSecret, url.QueryEscape(testSecret), token, strings.Split(token, ".")[2]} {
		if strings.Contains(seen, secret) {
			t.Errorf("%q came out: %s", secret, seen)
		}
	}
	if !strings.Contains(log.String(), errStoreDown.Error()) || strings.Contains(w.Body.String(), errStoreDown.Error()) {
		t.Error("the cause belongs into the log and not into the answer")
	}
}

// TestNames checks every name of this API in every spelling that clients use.
func TestNames(t *testing.T) {
	s, _ := newServer(t)
	for _, aud := range append([]string{"https://login.example.org", "https://cordon.example.org", "https://cordon.example.org:8443", "https://[2001:db8::1]:8443"}, audiences...) {
		for _, resource := range []string{aud, aud + "/", strings.ToUpper(aud)} {
			for version, q := range map[string]url.Values{
				"/oauth2/token":      {"resource": {resource}},
				"/oauth2/v2.0/token": {"scope": {"openid " + resource + "/.default profile offline_access"}},
			} {
				q.Set("grant_type", "client_credentials")
				q.Set("client_id", strings.ToUpper(testClient))
				q.Set("client_secret", testSecret)
				r := httptest.NewRequest("GET", "https://login.example.org/"+testTenant+version+"?"+q.Encode(), nil)
				w := httptest.NewRecorder()
				s.ServeHTTP(w, r)
				m := tokenMember.FindStringSubmatch(w.Body.String())
				if w.Code != 200 || m == nil {
					t.Errorf("%s %s: %d %s", version, resource, w.Code, w.Body)
					continue
				}
				c, err := must(s.keySet()).read(m[1])
				want := aud
				if !slices.Contains(audiences, aud) {
					want = audience // our own address
				}
				if err != nil || c.Audience != want {
					t.Errorf("%s %s: audience %q, %v", version, resource, c.Audience, err)
				}
			}
		}
	}
}

// TestNotOurNames: what only looks like an address of ours gets no token.
func TestNotOurNames(t *testing.T) {
	s, _ := newServer(t)
	for _, resource := range []string{
		"http://cordon.example.org", "https://cordon.example.org/x", "https://cordon.example.org?x", "https://cordon.example.org#x", "https://me@cordon.example.org",
		"cordon.example.org", "https://", "https://:8443", "https://cordon.example.org.evil.example", "https://xcordon.example.org", "//cordon.example.org", "https://%63ordon.example.org\x00",
	} {
		q := url.Values{"grant_type": {"client_credentials"}, "client_id": {testClient}, "client_secret": {testSecret}, "resource": {resource}}
		w := httptest.NewRecorder()
		s.ServeHTTP(w, httptest.NewRequest("POST", "/"+testTenant+"/oauth2/token", strings.NewReader(q.Encode())))
		if w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "AADSTS500011") {
			t.Errorf("%q: %d %s", resource, w.Code, w.Body)
		}
	}
}
