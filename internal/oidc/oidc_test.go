package oidc

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"

	"github.com/cordon-project/cordon"
)

func TestVerify(t *testing.T) {
	f := newFake(t)
	f.publish(
		jwk(rsaKeys()[0], "k1"), jwk(ecKey(), "ec"), jwk(edKey(), "ed"),
		jwk(rsaKeys()[1], "twice"), jwk(rsaKeys()[0], "twice"), // two keys of one id
		jose.JSONWebKey{Key: rsaKeys()[0].Public(), KeyID: "enc", Use: "enc"},
		jose.JSONWebKey{Key: rsaKeys()[0].Public(), KeyID: "ps", Algorithm: "PS256"},
		jose.JSONWebKey{Key: []byte("0123456789abcdef0123456789abcdef"), KeyID: "oct"},
		jwk(newRSA(1024), "weak"), map[string]any{"kty": "new", "kid": "new"}, "no key at all",
	)
	i := f.issuer()
	i.Algorithms = []string{"RS256", "ES256", "EdDSA"}
	s := newStage(t, i)
	good := f.claimsOf(nil)
	by := func(alg jose.SignatureAlgorithm, key any, kid string) string {
		return sign(t, alg, key, map[jose.HeaderKey]any{"kid": kid}, good)
	}
	headers := func(h map[jose.HeaderKey]any) string {
		all := map[jose.HeaderKey]any{"kid": "k1"}
		maps.Copy(all, h)
		return sign(t, jose.RS256, rsaKeys()[0], all, good)
	}
	der, err := x509.MarshalPKIXPublicKey(rsaKeys()[0].Public())
	if err != nil {
		t.Fatal(err)
	}

	want := cordon.Caller{ID: f.url + "#app:soar", DisplayName: "soar", Permissions: []cordon.Permission{cordon.MachineReadAll, cordon.MachineRestrict}}
	for name, token := range map[string]string{
		"good":                    f.token(t, nil),
		"several audiences":       f.token(t, map[string]any{"aud": []string{"account", testAudience}}),
		"no nbf":                  f.token(t, map[string]any{"nbf": nil}),
		"expired within leeway":   f.token(t, map[string]any{"exp": testNow.Add(-Leeway).Unix() + 1}),
		"begins within leeway":    f.token(t, map[string]any{"nbf": testNow.Add(Leeway).Unix()}),
		"any tenant":              f.token(t, map[string]any{"tid": "t1", "idtyp": "app"}),
		"typ at+jwt":              headers(map[jose.HeaderKey]any{"typ": "at+jwt"}),
		"typ application/at+jwt":  headers(map[jose.HeaderKey]any{"typ": "application/AT+JWT"}),
		"elliptic curve":          by(jose.ES256, ecKey(), "ec"),
		"Edwards curve":           by(jose.EdDSA, edKey(), "ed"),
		"either of a doubled id":  by(jose.RS256, rsaKeys()[0], "twice"),
		"either of a doubled id2": by(jose.RS256, rsaKeys()[1], "twice"),
		"foreign addresses of keys are not read": headers(map[jose.HeaderKey]any{
			"jku": "https://192.0.2.1/keys", "x5u": "https://192.0.2.1/cert", "jwk": jwk(rsaKeys()[1], "k1"),
		}),
	} {
		got, known, err := s.Verify(t.Context(), token)
		if diff := cmp.Diff(want, got); !known || err != nil || diff != "" {
			t.Errorf("%s: %v %v %s", name, known, err, diff)
		}
	}

	for name, c := range map[string]struct {
		token string
		text  string
	}{
		"expired":                       {f.token(t, map[string]any{"exp": testNow.Add(-Leeway).Unix()}), "expired"},
		"no exp":                        {f.token(t, map[string]any{"exp": nil}), "does not say when it expires"},
		"exp is text":                   {f.token(t, map[string]any{"exp": "9999999999"}), "does not say when it expires"},
		"exp is negative":               {f.token(t, map[string]any{"exp": -1e300}), "expired"},
		"not yet":                       {f.token(t, map[string]any{"nbf": testNow.Add(Leeway).Unix() + 1}), "not valid yet"},
		"nbf is text":                   {f.token(t, map[string]any{"nbf": "0"}), "not valid yet"},
		"no application":                {f.token(t, map[string]any{"azp": nil}), "names no application"},
		"an application of odd letters": {f.token(t, map[string]any{"azp": "so\nar"}), "names no application"},
		"no user":                       {f.token(t, map[string]any{"sub": nil}), "names no user"},
		"bound to a key":                {f.token(t, map[string]any{"cnf": map[string]any{"jkt": "x"}}), "bound to a key"},
		"ID token of Keycloak":          {f.token(t, map[string]any{"typ": "ID"}), "not an access token"},
		"refresh token of Keycloak":     {f.token(t, map[string]any{"typ": "Refresh"}), "not an access token"},
		"ID token":                      {f.token(t, map[string]any{"at_hash": "x"}), "not an access token"},
		"logout token":                  {headers(map[jose.HeaderKey]any{"typ": "logout+jwt"}), "not an access token"},
		"an algorithm not allowed":      {by(jose.RS512, rsaKeys()[0], "k1"), "must not be signed with RS512"},
		"another's key":                 {by(jose.RS256, rsaKeys()[1], "k1"), "signature"},
		"a key that brings itself":      {sign(t, jose.RS256, rsaKeys()[1], map[jose.HeaderKey]any{"kid": "k1", "jwk": jwk(rsaKeys()[1], "k1")}, good), "signature"},
		"a key for RSA used as EC":      {by(jose.ES256, ecKey(), "k1"), "signature"},
		"a key for EC used as RSA":      {by(jose.RS256, rsaKeys()[0], "ec"), "signature"},
		"a key for another algorithm":   {by(jose.RS256, rsaKeys()[0], "ps"), "signature"},
		"a key for encryption":          {by(jose.RS256, rsaKeys()[0], "enc"), "does not have"},
		"a weak key":                    {by(jose.RS256, rsaKeys()[0], "weak"), "does not have"},
		"an unknown key":                {by(jose.RS256, rsaKeys()[0], "k9"), "does not have"},
		"no key id":                     {sign(t, jose.RS256, rsaKeys()[0], nil, good), "which key"},
	} {
		t.Run(name, func(t *testing.T) {
			(&stage{Verifier: s.Verifier, t: t}).refuses(c.token, cordon.Unauthenticated, c.text)
		})
	}
	s.refuses(f.token(t, map[string]any{"aud": "api://other"}), cordon.Forbidden, "is for api://other and not for this API. Get one for api://cordon.")
	s.refuses(f.token(t, map[string]any{"aud": nil}), cordon.Forbidden, "not for this API")
	s.refuses(f.token(t, map[string]any{"aud": testAudience + "/"}), cordon.Forbidden, "not for this API")
	s.refuses(f.token(t, map[string]any{"aud": map[string]any{testAudience: true}}), cordon.Forbidden, "not for this API")

	// What cannot be said to be of an issuer is somebody else's to judge.
	body := base64.RawURLEncoding.EncodeToString(must(json.Marshal(good)))
	unsigned := func(header string) string {
		return base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + body + "."
	}
	twice := base64.RawURLEncoding.EncodeToString([]byte(`{"iss":"` + f.url + `","iss":"` + f.url + `"}`))
	parts := strings.Split(f.token(t, nil), ".")
	for name, token := range map[string]string{
		"another issuer":         f.token(t, map[string]any{"iss": f.url + "/"}),
		"issuer in other case":   f.token(t, map[string]any{"iss": strings.ToUpper(f.url)}),
		"no issuer":              f.token(t, map[string]any{"iss": nil}),
		"issuer in another name": f.token(t, map[string]any{"iss": nil, "ISS": f.url}),
		"two issuers":            parts[0] + "." + twice + "." + parts[2],
		"HS256 keyed with DER":   by(jose.HS256, der, "k1"),
		"HS256 keyed with PEM":   by(jose.HS256, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), "k1"),
		"HS256 keyed with oct":   by(jose.HS256, []byte("0123456789abcdef0123456789abcdef"), "oct"),
		"none":                   unsigned(`{"alg":"none","kid":"k1"}`),
		"None":                   unsigned(`{"alg":"nOnE","kid":"k1"}`),
		"critical extension":     unsigned(`{"alg":"RS256","crit":["x"],"x":1,"kid":"k1"}`) + parts[2],
		"JSON form":              `{"payload":"` + parts[1] + `","protected":"` + parts[0] + `","signature":"` + parts[2] + `"}`,
		"too long":               f.token(t, map[string]any{"x": strings.Repeat("x", maxToken)}),
		"empty":                  "",
	} {
		c, known, err := s.Verify(t.Context(), token)
		if known && err == nil || c.ID != "" || known && name != "critical extension" {
			t.Errorf("%s: %+v %v %v", name, c, known, err)
		}
	}
	s.refuses(unsigned(`{"alg":"RS256","kid":"k1"}`), cordon.Unauthenticated, "signature")
	s.refuses(parts[0]+"."+strings.Split(f.token(t, map[string]any{"sub": "x"}), ".")[1]+"."+parts[2], cordon.Unauthenticated, "signature")
}

// TestIssuersAreApart holds that the keys of one issuer say nothing about
// another, and that equal names at two issuers are two callers.
func TestIssuersAreApart(t *testing.T) {
	a, b := newFake(t), newFake(t)
	a.publish(jwk(rsaKeys()[0], "k1"))
	b.publish(jwk(rsaKeys()[1], "k1"))
	s := newStage(t, a.issuer(), b.issuer())
	s.refuses(b.token(t, nil), cordon.Unauthenticated, "signature") // signed with the key of a
	fromA := s.accepts(a.token(t, nil))
	fromB := s.accepts(sign(t, jose.RS256, rsaKeys()[1], map[jose.HeaderKey]any{"kid": "k1"}, b.claimsOf(nil)))
	if fromA.ID == fromB.ID || fromA.Program() == fromB.Program() {
		t.Errorf("%+v and %+v", fromA, fromB)
	}
	user := s.accepts(a.token(t, map[string]any{"sub": "soar2", "azp": "soar"}))
	if user.ID == fromA.ID || user.Program() != fromA.Program() {
		t.Errorf("%+v and %+v", fromA, user)
	}
}

func TestTenants(t *testing.T) {
	f := newFake(t)
	i := f.issuer()
	i.Tenants = []string{"t1", "t2"}
	s := newStage(t, i)
	s.accepts(f.token(t, map[string]any{"tid": "t2"}))
	s.refuses(f.token(t, map[string]any{"tid": "t3"}), cordon.Unauthenticated, "another tenant")
	s.refuses(f.token(t, map[string]any{"tid": []string{"t1"}}), cordon.Unauthenticated, "another tenant")
	s.refuses(f.token(t, nil), cordon.Unauthenticated, "another tenant")
}

func TestNewSaysWhatIsWrong(t *testing.T) {
	good := func() Issuer {
		return Issuer{URL: "https://id.example.org", Audiences: []string{"a"}, Permissions: map[string][]cordon.Permission{"g": {cordon.MachineScan}}}
	}
	for name, c := range map[string]struct {
		change func(*Issuer)
		want   string // "" is no error
	}{
		"good":                {func(*Issuer) {}, ""},
		"loopback":            {func(i *Issuer) { i.URL = "http://127.0.0.1:8080/realms/x" }, ""},
		"loopback by name":    {func(i *Issuer) { i.URL = "http://localhost/" }, ""},
		"keys with a query":   {func(i *Issuer) { i.JWKS = "https://id.example.org/keys?appid=1" }, ""},
		"no url":              {func(i *Issuer) { i.URL = "" }, "url is missing"},
		"http":                {func(i *Issuer) { i.URL = "http://id.example.org" }, "url: \"http://id.example.org\" is not https"},
		"http to this name":   {func(i *Issuer) { i.URL = "http://localhost.example.org" }, "is not https"},
		"no scheme":           {func(i *Issuer) { i.URL = "id.example.org" }, "is not of the form"},
		"secret in it":        {func(i *Issuer) { i.URL = "https://a:b@id.example.org" }, "is not of the form"},
		"fragment":            {func(i *Issuer) { i.URL = "https://id.example.org/#" }, "is not of the form"},
		"query":               {func(i *Issuer) { i.URL = "https://id.example.org/?a" }, "has a query"},
		"discovery by http":   {func(i *Issuer) { i.Discovery = "http://id.example.org/d" }, "discovery_url: "},
		"keys by file":        {func(i *Issuer) { i.JWKS = "file:///keys" }, "jwks_url: "},
		"both":                {func(i *Issuer) { i.JWKS, i.Discovery = "https://x/k", "https://x/d" }, "discovery_url and jwks_url"},
		"no audience":         {func(i *Issuer) { i.Audiences = nil }, "audiences is missing"},
		"empty audience":      {func(i *Issuer) { i.Audiences = []string{"a", ""} }, "audiences has an empty entry"},
		"HMAC":                {func(i *Issuer) { i.Algorithms = []string{"RS256", "HS256"} }, `algorithms: "HS256"`},
		"none":                {func(i *Issuer) { i.Algorithms = []string{"none"} }, `algorithms: "none"`},
		"unknown permission":  {func(i *Issuer) { i.Permissions["g"] = []cordon.Permission{"Machine.Restrict"} }, `permissions of "g": there is no permission "Machine.Restrict"`},
		"delegated name":      {func(i *Issuer) { i.Permissions["g"] = []cordon.Permission{"Machine.Read"} }, `there is no permission "Machine.Read"`},
		"group without name":  {func(i *Issuer) { i.Permissions[""] = nil }, "permissions: the name"},
		"claim without name":  {func(i *Issuer) { i.GroupClaims = []string{""} }, "group_claims has an empty entry"},
		"keys for a moment":   {func(i *Issuer) { i.MaxStale = time.Minute }, "max_stale: 1m0s is less than 5m10s"},
		"tenant without name": {func(i *Issuer) { i.Tenants = []string{""} }, "tenants has an empty entry"},
	} {
		i := good()
		c.change(&i)
		v, err := New([]Issuer{i}, Options{})
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "issuer 1 (")) {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			if err := v.Close(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if _, err := New([]Issuer{good(), good()}, Options{}); err == nil || !strings.Contains(err.Error(), "issuer 2 (https://id.example.org): url is given twice") {
		t.Errorf("twice: %v", err)
	}
}

// FuzzVerify holds that nothing is accepted but what the issuer has signed,
// whatever is done to the text of the token, and that every error is documented.
func FuzzVerify(f *testing.F) {
	issuer := newFake(f)
	s := newStage(f, issuer.issuer())
	good := issuer.token(f, nil)
	want := s.accepts(good)
	signed := strings.Split(good, ".")
	f.Add(good)
	f.Add("eyJhbGciOiJub25lIn0")
	f.Add("..")
	f.Add(base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"RS256","kid":"k1","typ":[]}`)))
	f.Add(base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"RS256","kid":"x","crit":["b64"],"b64":false}`)))
	f.Fuzz(func(t *testing.T, text string) {
		// A process of its own has keys of its own: put the good parts in.
		for _, token := range []string{text, good + text, text + "." + signed[1] + "." + signed[2], signed[0] + "." + signed[1] + "." + text} {
			c, known, err := s.Verify(t.Context(), token)
			if known && err == nil && !cmp.Equal(c, want) || !known && (err != nil || c.ID != "") {
				t.Fatalf("%q: %+v %v %v", token, c, known, err)
			}
			if kind := cordon.KindOf(err); err != nil && kind != cordon.Unauthenticated && kind != cordon.Forbidden {
				t.Fatalf("error of kind %v: %v", kind, err)
			}
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	f := newFake(b)
	s := newStage(b, f.issuer())
	token := f.token(b, nil)
	for b.Loop() {
		s.accepts(token)
	}
}
