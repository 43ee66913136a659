package oidc

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/cordon-project/cordon"
)

// by is a token that a key signed under an id.
func (f *fake) by(t testing.TB, key int, kid string) string {
	t.Helper()
	return sign(t, jose.RS256, rsaKeys()[key], map[jose.HeaderKey]any{"kid": kid}, f.claimsOf(map[string]any{"exp": testNow.Add(240 * time.Hour).Unix()}))
}

// TestKeysAreKept counts how often the issuer is asked, through a rotation.
func TestKeysAreKept(t *testing.T) {
	f := newFake(t)
	s := newStage(t, f.issuer())
	if f.calls.Load() != 0 {
		t.Error("the issuer was asked before there was a token")
	}
	asked := func(want int32) {
		t.Helper()
		s.idle()
		if got := f.asked.Load(); got != want {
			t.Errorf("asked %d times, want %d", got, want)
		}
	}
	for range 3 {
		s.accepts(f.by(t, 0, "k1"))
	}
	asked(1)
	for n := range 20 { // forged
		s.refuses(f.by(t, 1, fmt.Sprint("forged", n)), cordon.Unauthenticated, "does not have")
	}
	asked(1)
	f.publish(jwk(rsaKeys()[0], "k1"), jwk(rsaKeys()[1], "k2"))
	s.refuses(f.by(t, 1, "k2"), cordon.Unauthenticated, "does not have") // too soon
	s.pass(RefreshEvery)
	s.accepts(f.by(t, 1, "k2"))
	asked(2)
	s.refuses(f.by(t, 1, "k3"), cordon.Unauthenticated, "does not have")
	asked(2)

	f.publish(jwk(rsaKeys()[1], "k2"))
	s.accepts(f.by(t, 0, "k1")) // within max-age
	s.pass(10 * time.Minute)
	s.accepts(f.by(t, 1, "k2")) // and behind it the keys are fetched again
	asked(3)
	s.refuses(f.by(t, 0, "k1"), cordon.Unauthenticated, "does not have") // withdrawn
	asked(3)
}

// TestOneFetchForMany holds that callers who come together cause one request.
func TestOneFetchForMany(t *testing.T) {
	f := newFake(t)
	release := make(chan struct{})
	f.set(func() {
		f.instead = func(w http.ResponseWriter, r *http.Request) {
			<-release
			f.mend()
			f.serve(w, r)
		}
	})
	s := newStage(t, f.issuer())
	token := f.by(t, 0, "k1")
	var g, begun sync.WaitGroup
	for range 50 {
		begun.Add(1)
		g.Go(func() { begun.Done(); s.accepts(token) })
	}
	begun.Wait()
	close(release)
	g.Wait()
	if n := f.asked.Load(); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

// TestIssuerIsDown follows an issuer that fails: its last keys are good until
// they are too old, callers never wait for what is known, and the log tells of
// it once.
func TestIssuerIsDown(t *testing.T) {
	f, other := newFake(t), newFake(t)
	i := f.issuer()
	i.MaxStale = 2 * time.Hour
	s := newStage(t, i, other.issuer())
	said := func(what string, want int) {
		t.Helper()
		s.idle()
		if got := strings.Count(s.log.String(), what); got != want {
			t.Errorf("%q is %d times in the log, want %d:\n%s", what, got, want, s.log.String())
		}
	}
	const down, up = "an issuer's keys cannot be had", "an issuer's keys can be had again"
	good := f.by(t, 0, "k1")
	s.accepts(good)
	f.break_()
	s.pass(time.Hour) // the keys are not new any more
	for range 10 {
		s.accepts(good)
		s.idle()
		s.pass(retryEvery)
	}
	said(down, 1)
	if s.failed != 10 {
		t.Errorf("%d failures were counted, want 10", s.failed)
	}
	s.refuses(f.by(t, 1, "k2"), cordon.Unauthenticated, "cannot be had at the moment")
	s.accepts(other.by(t, 0, "k1"))

	s.pass(time.Hour) // too old
	s.refuses(good, cordon.Unauthenticated, "cannot be had at the moment, try again later")
	calls := f.calls.Load()
	for range 10 { // and it is not asked for each of them
		s.refuses(good, cordon.Unauthenticated, "cannot be had at the moment")
	}
	if n := f.calls.Load(); n != calls {
		t.Errorf("asked %d times more", n-calls)
	}
	said(down, 1)
	said(up, 0)

	f.mend()
	s.pass(retryEvery)
	s.accepts(good)
	said(up, 1)
	f.break_()
	s.pass(time.Hour)
	s.accepts(good)
	said(down, 2)
}

// TestSlowIssuer holds that an issuer which does not answer delays nobody but
// callers with its tokens, and those not beyond a limit or their own patience.
func TestSlowIssuer(t *testing.T) {
	slow, other := newFake(t), newFake(t)
	release, arrived := make(chan struct{}), make(chan struct{}, 8)
	slow.set(func() {
		slow.instead = func(_ http.ResponseWriter, r *http.Request) {
			arrived <- struct{}{}
			select {
			case <-release:
			case <-r.Context().Done():
			}
		}
	})
	t.Cleanup(func() { close(release) })
	s := newStage(t, slow.issuer(), other.issuer())
	slowToken, otherToken := slow.by(t, 0, "k1"), other.by(t, 0, "k1")
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.refuses(slowToken, cordon.Unauthenticated, "cannot be had") // ended by Close below
	}()
	<-arrived
	s.accepts(otherToken)
	s.accepts(otherToken)
	s.refuses(other.by(t, 0, "k9"), cordon.Unauthenticated, "does not have")
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	<-done

	quick := newStage(t, slow.issuer())
	quick.issuers[slow.url].keys.source.within = time.Millisecond
	quick.refuses(slowToken, cordon.Unauthenticated, "cannot be had")
}

// TestBadAnswers shows what an issuer can answer that is not taken for its keys.
func TestBadAnswers(t *testing.T) {
	mustNot := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { t.Errorf("%s was asked", r.URL) })
	elsewhere, elsewhereTLS := httptest.NewServer(mustNot), httptest.NewTLSServer(mustNot) // both of a known authority
	t.Cleanup(elsewhere.Close)
	t.Cleanup(elsewhereTLS.Close)
	text := func(s string) func(f *fake) {
		return func(f *fake) {
			f.set(func() {
				f.instead = func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(s)) } // who asked sees it
			})
		}
	}
	document := func(name string, value any) func(f *fake) {
		return func(f *fake) { f.set(func() { f.document[name] = value }) }
	}
	for name, c := range map[string]struct {
		make func(f *fake)
		want string
	}{
		"another issuer":        {document("issuer", "https://other.example.org"), `is of the issuer "https://other.example.org"`},
		"no issuer":             {document("issuer", nil), "is of the issuer"},
		"issuer with a slash":   {func(f *fake) { document("issuer", f.url+"/")(f) }, "is of the issuer"},
		"keys by http":          {document("jwks_uri", elsewhere.URL), "is not https"},
		"keys in a file":        {document("jwks_uri", "file:///etc/passwd"), "jwks_uri"},
		"no keys":               {document("jwks_uri", ""), "jwks_uri"},
		"not JSON":              {text("<html>"), "invalid character"},
		"too long":              {text(`{"issuer":"` + strings.Repeat("x", maxDocument)), "more than"},
		"keys too long":         {func(f *fake) { f.publish(strings.Repeat("x", maxDocument)) }, "more than"},
		"only unusable keys":    {func(f *fake) { f.publish(jwk(newRSA(1024), "k1")) }, "no usable key"},
		"no keys in it":         {func(f *fake) { f.publish() }, "no usable key"},
		"private keys":          {func(f *fake) { f.publish(jose.JSONWebKey{Key: rsaKeys()[0], KeyID: "k1"}) }, "no usable key"},
		"an error":              {func(f *fake) { f.break_() }, "502"},
		"redirects away":        {func(f *fake) { f.set(func() { f.instead = http.RedirectHandler(elsewhere.URL+"/x", 302).ServeHTTP }) }, "redirects to"},
		"redirects away by TLS": {func(f *fake) { f.set(func() { f.instead = http.RedirectHandler(elsewhereTLS.URL, 302).ServeHTTP }) }, "redirects to"},
		"redirects to the other": {func(f *fake) {
			f.set(func() { f.instead = http.RedirectHandler("http://"+f.Listener.Addr().String(), 302).ServeHTTP })
		}, "redirects to"},
		"redirects for ever": {func(f *fake) { f.set(func() { f.instead = http.RedirectHandler(f.url, 302).ServeHTTP }) }, "redirects to"},
		"gone":               {func(f *fake) { f.Close() }, "refused"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			c.make(f)
			s := newStage(t, f.issuer())
			s.refuses(f.token(t, nil), cordon.Unauthenticated, c.want)
			if s.idle(); s.failed != 1 {
				t.Errorf("%d failures were counted", s.failed)
			}
		})
	}
	t.Run("an unknown authority", func(t *testing.T) {
		f := newFake(t)
		i := f.issuer()
		i.Roots = nil
		newStage(t, i).refuses(f.token(t, nil), cordon.Unauthenticated, "certificate")
	})
}

// TestAddresses shows the two ways to say where an issuer's keys are, and a
// redirection within the same host.
func TestAddresses(t *testing.T) {
	f := newFake(t)
	mux := http.NewServeMux()
	mux.Handle("/moved", http.RedirectHandler("/realms/soc/.well-known/openid-configuration", http.StatusFound))
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { f.mend(); f.serve(w, r) })
	f.set(func() { f.instead = mux.ServeHTTP })
	i := f.issuer()
	i.Discovery = f.URL + "/moved"
	newStage(t, i).accepts(f.token(t, nil))

	i = f.issuer()
	i.JWKS = f.URL + "/keys"
	calls := f.calls.Load()
	newStage(t, i).accepts(f.token(t, nil))
	if n := f.calls.Load() - calls; n != 1 {
		t.Errorf("%d requests for a set of keys whose address is known", n)
	}
}

func TestFreshness(t *testing.T) {
	for value, want := range map[string]time.Duration{
		"": freshDefault, "public": freshDefault, "max-age=x": freshDefault, "public, max-age=7200": 2 * time.Hour, `Max-Age="7200"`: 2 * time.Hour,
		"max-age=0": freshLeast, "max-age=-9": freshLeast, "no-cache": freshLeast, "max-age=7200, no-store": freshLeast,
		"max-age=999999999": freshMost, "max-age=99999999999999999999": freshDefault,
	} {
		if got := freshness(http.Header{"Cache-Control": {value}}); got != want {
			t.Errorf("%q: %v, want %v", value, got, want)
		}
	}
}

func FuzzParseKeys(f *testing.F) {
	f.Add([]byte(`{"keys":[{"kty":"RSA","kid":"a","n":"AQAB","e":"AQAB"}]}`))
	f.Add([]byte(`{"keys":[{"kty":"EC","crv":"P-256","kid":"a","x":"","y":""},{"kty":"OKP","crv":"Ed25519","kid":"a","x":"AA"}]}`))
	f.Add([]byte(`{"keys":[null,{},[],"x",{"kty":"oct","kid":"a","k":"AA"}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		keys, err := parseKeys(body)
		if (err == nil) != (len(keys) > 0) {
			t.Fatal(keys, err)
		}
		for id, list := range keys {
			for _, key := range list {
				if id == "" || !key.IsPublic() || !key.Valid() {
					t.Fatalf("%q: %+v", id, key)
				}
			}
		}
	})
}
