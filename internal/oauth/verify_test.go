package oauth

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/go-cmp/cmp"

	"github.com/cordon-project/cordon"
)

var testCaller = cordon.Caller{ID: testClient, DisplayName: "SOAR <1>", Permissions: []cordon.Permission{cordon.MachineRestrict, cordon.MachineReadAll}}

// goodClaims are those of a token issued at the test's time.
func goodClaims(s *Server) claims {
	return claims{
		Audience: audience, Issuer: s.issuer, Tenant: testTenant, AppID: testClient, AppName: "SOAR <1>", Version: "1.0",
		IssuedAt: testNow.Unix() - 300, NotBefore: testNow.Unix() - 300, Expires: testNow.Unix() + 3600,
		Permissions: testCaller.Permissions,
	}
}

// forge signs claims with any key in any way.
func forge(t testing.TB, alg jose.SignatureAlgorithm, key any, kid string, c claims) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: jose.JSONWebKey{Key: key, KeyID: kid}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	token, err := jwt.Signed(signer).Claims(c).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func unsigned(header string, c claims) string {
	payload, _ := json.Marshal(c)
	return base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + base64.RawURLEncoding.EncodeToString(payload) + "."
}

func keyIDs(s *Server) []string {
	var set jose.JSONWebKeySet
	_ = json.Unmarshal(must(s.keySet()).document, &set) // without keys the next line panics
	return []string{set.Keys[0].KeyID, set.Keys[1].KeyID}
}

func TestVerify(t *testing.T) {
	s, _ := newServer(t)
	kids := keyIDs(s)
	sign := func(change func(*claims)) string {
		c := goodClaims(s)
		change(&c)
		return forge(t, jose.RS256, testKeys[0], kids[0], c)
	}
	same := func(*claims) {}
	public, err := x509.MarshalPKIXPublicKey(&testKeys[0].PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	good := sign(same)
	parts := strings.Split(good, ".")
	other := newKey(2048)
	const fine = cordon.Kind(255) // no error
	for name, c := range map[string]struct {
		token string
		want  cordon.Kind
	}{
		"issued by the server":         {getToken(t, s), fine},
		"good":                         {good, fine},
		"by the second key":            {forge(t, jose.RS256, testKeys[1], kids[1], goodClaims(s)), fine},
		"audience with a slash":        {sign(func(c *claims) { c.Audience = "https://api.securitycenter.windows.com/" }), fine},
		"old audience":                 {sign(func(c *claims) { c.Audience = "https://securitycenter.onmicrosoft.com/windowsatpservice" }), fine},
		"expired within the leeway":    {sign(func(c *claims) { c.Expires = testNow.Add(-leeway + time.Second).Unix() }), fine},
		"begins within the leeway":     {sign(func(c *claims) { c.NotBefore = testNow.Add(leeway).Unix() }), fine},
		"foreign audience":             {sign(func(c *claims) { c.Audience = "https://graph.microsoft.com" }), cordon.Forbidden},
		"no audience":                  {sign(func(c *claims) { c.Audience = "" }), cordon.Forbidden},
		"expired":                      {sign(func(c *claims) { c.Expires = testNow.Add(-leeway).Unix() }), cordon.Unauthenticated},
		"no expiry":                    {sign(func(c *claims) { c.Expires = 0 }), cordon.Unauthenticated},
		"not valid yet":                {sign(func(c *claims) { c.NotBefore = testNow.Add(leeway + time.Second).Unix() }), cordon.Unauthenticated},
		"expired, foreign audience":    {sign(func(c *claims) { c.Expires, c.Audience = 1, "x" }), cordon.Unauthenticated},
		"another tenant":               {sign(func(c *claims) { c.Tenant = "11111111-1111-4111-8111-111111111111" }), cordon.Unauthenticated},
		"another issuer":               {sign(func(c *claims) { c.Issuer = "https://sts.windows.net/" }), cordon.Unauthenticated},
		"no application":               {sign(func(c *claims) { c.AppID = "" }), cordon.Unauthenticated},
		"another key under a known id": {forge(t, jose.RS256, other, kids[0], goodClaims(s)), cordon.Unauthenticated},
		"another key, another id":      {forge(t, jose.RS256, other, "x", goodClaims(s)), cordon.Unauthenticated},
		"no key id":                    {forge(t, jose.RS256, testKeys[0], "", goodClaims(s)), cordon.Unauthenticated},
		"right key, the other's id":    {forge(t, jose.RS256, testKeys[0], kids[1], goodClaims(s)), cordon.Unauthenticated},
		"RS512":                        {forge(t, jose.RS512, testKeys[0], kids[0], goodClaims(s)), cordon.Unauthenticated},
		"PS256":                        {forge(t, jose.PS256, testKeys[0], kids[0], goodClaims(s)), cordon.Unauthenticated},
		"HS256 keyed with our DER":     {forge(t, jose.HS256, public, kids[0], goodClaims(s)), cordon.Unauthenticated},
		"HS256 keyed with our PEM":     {forge(t, jose.HS256, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}), kids[0], goodClaims(s)), cordon.Unauthenticated},
		"alg none":                     {unsigned(`{"alg":"none","kid":"`+kids[0]+`"}`, goodClaims(s)), cordon.Unauthenticated},
		"alg None":                     {unsigned(`{"alg":"None","kid":"`+kids[0]+`"}`, goodClaims(s)), cordon.Unauthenticated},
		"RS256 without a signature":    {unsigned(`{"alg":"RS256","kid":"`+kids[0]+`"}`, goodClaims(s)), cordon.Unauthenticated},
		"critical extension":           {unsigned(`{"alg":"RS256","crit":["x"],"x":1,"kid":"`+kids[0]+`"}`, goodClaims(s)) + parts[2], cordon.Unauthenticated},
		"payload of another token":     {parts[0] + "." + strings.Split(sign(func(c *claims) { c.AppName = "x" }), ".")[1] + "." + parts[2], cordon.Unauthenticated},
		"signature cut off":            {parts[0] + "." + parts[1], cordon.Unauthenticated},
		"JSON form":                    {`{"payload":"` + parts[1] + `","protected":"` + parts[0] + `","signature":"` + parts[2] + `"}`, cordon.Unauthenticated},
		"not a token":                  {"x", cordon.Unauthenticated},
		"empty":                        {"", cordon.Unauthenticated},
		"too long":                     {good + strings.Repeat("A", maxToken), cordon.Unauthenticated},
		"the same token, lower case":   {strings.ToLower(good), cordon.Unauthenticated},
		"a blank inside":               {parts[0] + " ." + parts[1] + "." + parts[2], cordon.Unauthenticated},
	} {
		caller, err := s.Verify(t.Context(), c.token)
		if c.want == fine {
			if diff := cmp.Diff(testCaller, caller); err != nil || diff != "" {
				t.Errorf("%s: %v %s", name, err, diff)
			}
		} else if err == nil || cordon.KindOf(err) != c.want || caller.ID != "" || len(caller.Permissions) != 0 {
			t.Errorf("%s: caller %+v, error %v, want one of kind %v", name, caller, err, c.want)
		}
	}
}

func TestEmbeddedKeyIsIgnored(t *testing.T) {
	s, _ := newServer(t)
	mine := newKey(2048)
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: mine}, &jose.SignerOptions{EmbedJWK: true})
	if err != nil {
		t.Fatal(err)
	}
	token, err := jwt.Signed(signer).Claims(goodClaims(s)).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Verify(t.Context(), token); cordon.KindOf(err) != cordon.Unauthenticated {
		t.Errorf("a token that brings its own key: %v", err)
	}
}

// TestTokenExpires checks that a token is refused after its time although it
// was seen to be good before, and that its time is an hour.
func TestTokenExpires(t *testing.T) {
	s, clock := newServer(t)
	token := getToken(t, s)
	for _, c := range []struct {
		after time.Duration
		good  bool
	}{{0, true}, {59 * time.Minute, true}, {time.Hour + leeway - time.Second, true}, {time.Hour + leeway, false}, {0, true}} {
		clock.t = testNow.Add(c.after)
		if _, err := s.Verify(t.Context(), token); (err == nil) != c.good {
			t.Errorf("after %v: %v", c.after, err)
		}
	}
}

// TestWhatIsTakenAwayIsGone: a good token, known to the cache or not, is worth
// what its application may do now, and no more than what it could when it was issued.
func TestWhatIsTakenAwayIsGone(t *testing.T) {
	s, _ := newServer(t)
	known := s.Applications.(apps)
	token := getToken(t, s)
	app := known[testClient]
	for range 2 {
		for _, c := range []struct {
			has, want []cordon.Permission
		}{
			{[]cordon.Permission{cordon.MachineRestrict, cordon.MachineReadAll}, []cordon.Permission{cordon.MachineRestrict, cordon.MachineReadAll}},
			{[]cordon.Permission{cordon.MachineReadAll, cordon.MachineScan}, []cordon.Permission{cordon.MachineReadAll}},
			{nil, []cordon.Permission{}},
			{cordon.AllPermissions(), []cordon.Permission{cordon.MachineRestrict, cordon.MachineReadAll}},
		} {
			app.Permissions = c.has
			known[testClient] = app
			caller, err := s.Verify(t.Context(), token)
			if d := cmp.Diff(c.want, caller.Permissions); err != nil || d != "" {
				t.Errorf("application has %v: %v %s", c.has, err, d)
			}
		}
	}
	delete(known, testClient)
	if caller, err := s.Verify(t.Context(), token); cordon.KindOf(err) != cordon.Unauthenticated || caller.ID != "" {
		t.Errorf("of a deleted application: %+v, %v", caller, err)
	}
	c := goodClaims(s)
	c.AppID = brokenApp
	broken := forge(t, jose.RS256, testKeys[0], keyIDs(s)[0], c)
	for range 2 {
		if caller, err := s.Verify(t.Context(), broken); !errors.Is(err, errStoreDown) || cordon.KindOf(err) == cordon.Unauthenticated || caller.ID != "" {
			t.Errorf("when the store is down: %+v, %v", caller, err)
		}
	}
}

func TestAuthenticateHeader(t *testing.T) {
	s, _ := newServer(t)
	token := getToken(t, s)
	for header, good := range map[string]bool{
		"Bearer " + token:     true,
		"bearer  " + token:    true,
		" BEARER " + token:    true,
		"Bearer":              false,
		"Bearer ":             false,
		"":                    false,
		token:                 false,
		"Basic " + token:      false,
		"Bearer " + token[1:]: false,
	} {
		r := httptest.NewRequest("GET", "/api/machines", nil)
		r.Header.Set("Authorization", header)
		caller, err := s.Authenticate(r)
		if good != (err == nil && caller.ID == testClient) || !good && cordon.KindOf(err) != cordon.Unauthenticated {
			t.Errorf("%.20q: %v", header, err)
		}
	}
}

// TestCacheIsBounded fills the cache far over its size, with entries of which
// some expire on the way, and checks that it stays bounded and right.
func TestCacheIsBounded(t *testing.T) {
	var cache tokenCache
	now := testNow
	for i := range 3*maxCached + 1 {
		expires := now.Add(time.Hour)
		if i%2 == 0 {
			expires = now
		}
		cache.put(sha256.Sum256(fmt.Append(nil, i)), cordon.Caller{ID: fmt.Sprint(i)}, expires, now)
		if n := len(cache.entries); n > maxCached {
			t.Fatalf("%d entries", n)
		}
		got, ok := cache.get(sha256.Sum256(fmt.Append(nil, i)), now)
		if ok != (i%2 == 1) || ok && got.ID != fmt.Sprint(i) {
			t.Fatalf("entry %d: %v %v", i, got, ok)
		}
	}
}

func TestConcurrentUse(t *testing.T) {
	s, _ := newServer(t)
	var g sync.WaitGroup
	for range 8 {
		g.Go(func() {
			for range 5 {
				token := getToken(t, s)
				for range 3 {
					if _, err := s.Verify(t.Context(), token); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	g.Wait()
}

// FuzzVerify holds that nothing is accepted but the statement that the server
// signed, whatever is done to the text of the token.
func FuzzVerify(f *testing.F) {
	s, _ := newServer(f)
	kid := keyIDs(s)[0]
	good := getToken(f, s)
	f.Add(good)
	f.Add(unsigned(`{"alg":"none"}`, goodClaims(s)))
	f.Add(forge(f, jose.HS256, bytes.Repeat([]byte{1}, 32), kid, goodClaims(s)))
	f.Add(`{"payload":"","signatures":[]}`)
	f.Add("..")
	signed := strings.SplitN(good, ".", 3)[1]
	f.Fuzz(func(t *testing.T, token string) {
		// A process of its own has keys of its own: put the good halves in.
		for _, token := range []string{token, good + token, strings.Replace(token, ".", "."+signed+".", 1)} {
			caller, err := s.Verify(t.Context(), token)
			if err == nil && !cmp.Equal(caller, testCaller) {
				t.Fatalf("accepted as %+v: %q", caller, token)
			}
			if err != nil && cordon.KindOf(err) != cordon.Unauthenticated && cordon.KindOf(err) != cordon.Forbidden {
				t.Fatalf("error of kind %v: %v", cordon.KindOf(err), err)
			}
		}
	})
}

// FuzzTokenRequest holds that no request makes the token endpoint fail, and
// that none gets a token without the secret.
func FuzzTokenRequest(f *testing.F) {
	f.Add("POST", "", "application/x-www-form-urlencoded", "Basic eDp5", "grant_type=client_credentials&client_id="+testClient+"&client_secret=x&scope=a/.default", false)
	f.Add("GET", "resource=x&&=&%zz=1;2", "", "Basic ", "", true)
	f.Add("PUT", "client-request-id=%00", "multipart/form-data", "Bearer x", "\xff=\x00&client_secret=a&client_secret=b", true)
	f.Add("POST", "grant_type=client_credentials&client_assertion=x", "text/plain", "Basic Og==", "client_id=%30", false)
	s, _ := newServer(f)
	f.Fuzz(func(t *testing.T, method, query, contentType, authorization, body string, old bool) {
		r := httptest.NewRequest("POST", "/", strings.NewReader(body))
		r.Method = method
		r.URL.Path = "/" + testTenant + "/oauth2/v2.0/token"
		if old {
			r.URL.Path = "/" + testTenant + "/oauth2/token"
		}
		r.URL.RawQuery = query
		r.Header.Set("Content-Type", contentType)
		r.Header.Set("Authorization", authorization)
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		var answer struct {
			Error string `json:"error"`
			Codes []int  `json:"error_codes"`
		}
		if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
			t.Fatalf("not JSON: %v", err)
		}
		if w.Code < 400 || w.Code >= 500 && w.Code != 503 || answer.Error == "" || len(answer.Codes) != 1 {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
	})
}
