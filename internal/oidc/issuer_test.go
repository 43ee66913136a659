package oidc

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/testkit/locked"
)

var (
	testNow = time.Date(2026, 11, 22, 2, 0, 0, 0, time.UTC)
	rsaKeys = sync.OnceValue(func() []*rsa.PrivateKey { return []*rsa.PrivateKey{newRSA(2048), newRSA(2048)} })
	ecKey   = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) })
	edKey   = sync.OnceValue(func() ed25519.PrivateKey { _, key, _ := ed25519.GenerateKey(rand.Reader); return key })
)

const testAudience = "api://cordon"

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func newRSA(bits int) *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, bits)) }

// fake is an issuer that answers over TLS, as well or badly as it is told.
type fake struct {
	*httptest.Server
	url string // its iss

	mu       sync.Mutex
	document map[string]any
	keys     []any
	cache    string                                   // Cache-Control of the keys
	instead  func(http.ResponseWriter, *http.Request) // answers everything if set
	asked    atomic.Int32                             // for its keys
	calls    atomic.Int32                             // for anything
}

func newFake(t testing.TB) *fake {
	t.Helper()
	f := &fake{cache: "max-age=600"}
	f.Server = httptest.NewTLSServer(http.HandlerFunc(f.serve))
	t.Cleanup(f.Close)
	f.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	f.url = f.URL + "/realms/soc"
	f.document = map[string]any{"issuer": f.url, "jwks_uri": f.URL + "/keys"}
	f.publish(jwk(rsaKeys()[0], "k1"))
	return f
}

func (f *fake) serve(w http.ResponseWriter, r *http.Request) {
	f.calls.Add(1)
	f.mu.Lock()
	instead, document, keys, cache := f.instead, f.document, f.keys, f.cache
	f.mu.Unlock()
	switch {
	case instead != nil:
		instead(w, r)
	case r.URL.Path == "/realms/soc/.well-known/openid-configuration":
		_ = json.NewEncoder(w).Encode(document) // who asked sees it
	case r.URL.Path == "/keys":
		f.asked.Add(1)
		w.Header().Set("Cache-Control", cache)
		_ = json.NewEncoder(w).Encode(map[string]any{"keys": keys}) // who asked sees it
	default:
		http.NotFound(w, r)
	}
}

func (f *fake) publish(keys ...any) { f.set(func() { f.keys = keys }) }

func (f *fake) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *fake) break_() {
	f.set(func() {
		f.instead = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }
	})
}

func (f *fake) mend() { f.set(func() { f.instead = nil }) }

// issuer is how f is configured.
func (f *fake) issuer() Issuer {
	roots := x509.NewCertPool()
	roots.AddCert(f.Certificate())
	return Issuer{URL: f.url, Audiences: []string{testAudience}, Roots: roots}
}

// jwk is the public half of a key as issuers publish it.
func jwk(key crypto.Signer, kid string) jose.JSONWebKey {
	return jose.JSONWebKey{Key: key.Public(), KeyID: kid, Use: "sig"}
}

// claimsOf are good claims of an application, with changes over them; nil takes one out.
func (f *fake) claimsOf(change map[string]any) map[string]any {
	c := map[string]any{
		"iss": f.url, "aud": testAudience, "exp": testNow.Unix() + 3600, "nbf": testNow.Unix() - 60, "iat": testNow.Unix() - 60,
		"sub": "soar", "azp": "soar", "roles": []string{"Machine.RestrictExecution", "Machine.Read.All"},
	}
	for name, v := range change {
		if c[name] = v; v == nil {
			delete(c, name)
		}
	}
	return c
}

func sign(t testing.TB, alg jose.SignatureAlgorithm, key any, header map[jose.HeaderKey]any, c map[string]any) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, &jose.SignerOptions{ExtraHeaders: header})
	if err != nil {
		t.Fatal(err)
	}
	token, err := jwt.Signed(signer).Claims(c).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// token is one that the issuer would sign with its first key.
func (f *fake) token(t testing.TB, change map[string]any) string {
	t.Helper()
	return sign(t, jose.RS256, rsaKeys()[0], map[jose.HeaderKey]any{"kid": "k1", "typ": "JWT"}, f.claimsOf(change))
}

// stage is a verifier with a clock and a log that a test can look at.
type stage struct {
	*Verifier
	t      testing.TB
	mu     sync.Mutex
	now    time.Time
	failed int // fetchings
	log    locked.Buffer
}

func newStage(t testing.TB, issuers ...Issuer) *stage {
	t.Helper()
	s := &stage{t: t, now: testNow}
	v, err := New(issuers, Options{
		Now: func() time.Time { s.mu.Lock(); defer s.mu.Unlock(); return s.now },
		Log: slog.New(slog.NewTextHandler(&s.log, nil)),
		Refreshed: func(_ string, err error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			if err != nil {
				s.failed++
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v.Close(); err != nil {
			t.Error(err)
		}
	})
	s.Verifier = v
	return s
}

func (s *stage) pass(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = s.now.Add(d)
}

// idle waits until no keys are being fetched.
func (s *stage) idle() {
	s.t.Helper()
	for _, i := range s.issuers {
		i.keys.mu.Lock()
		flight := i.keys.flight
		i.keys.mu.Unlock()
		if flight != nil {
			<-flight
		}
	}
}

// accepts says that the token is good, and returns the caller.
func (s *stage) accepts(token string) cordon.Caller {
	s.t.Helper()
	c, known, err := s.Verify(s.t.Context(), token)
	if err != nil || !known {
		s.t.Errorf("refused (known: %v): %v", known, err)
	}
	return c
}

// refuses says that the token is refused with an error of that kind and text.
func (s *stage) refuses(token string, kind cordon.Kind, text string) {
	s.t.Helper()
	c, known, err := s.Verify(s.t.Context(), token)
	if err == nil || !known || cordon.KindOf(err) != kind || !strings.Contains(err.Error(), text) || c.ID != "" || len(c.Permissions) > 0 {
		s.t.Errorf("got %+v (known: %v), %v; want an error of kind %v with %q", c, known, err, kind, text)
	}
}
