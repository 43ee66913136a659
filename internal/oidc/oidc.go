// Package oidc accepts access tokens of other issuers: Entra ID, Keycloak, Okta
// and every one that signs JSON Web Tokens and publishes its keys as OpenID
// Connect Discovery says.
//
// # What it promises
//
// The issuer is chosen by the exact iss of the token before any key is looked
// at, and only that issuer's keys can verify it. The algorithm is one of the
// issuer's, all of which are asymmetric, and fits the key. What a token says about where
// keys are (jku, x5u, jwk) is not read. A token needs iss, aud, exp, the
// application it was issued to and, for a user, the user. A name that nobody gave a
// meaning to gives no permission.
//
// Keys are fetched when the first token needs them and kept; see [Issuer.MaxStale]
// for how long. Issuers share no lock and no connection: one that is down
// or slow delays nobody but callers with its tokens. A key that is not known is
// asked for at most once in [RefreshEvery], however many tokens name it, and one
// request at a time.
//
// Each [Verifier] owns its goroutines, at most one an issuer, which
// [Verifier.Close] ends. It keeps no tokens and is safe for concurrent use.
package oidc

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/cordon-project/cordon"
)

const (
	// maxToken is the longest token that is looked at, in bytes.
	maxToken = 16 << 10
	// Leeway is how far the clocks of an issuer and of this server may be apart.
	Leeway = time.Minute
	// DefaultMaxStale is what [Issuer.MaxStale] is if nobody says.
	DefaultMaxStale = 24 * time.Hour
	// leastMaxStale leaves time to fetch keys again before the last ones are too old.
	leastMaxStale = freshLeast + fetchWithin
)

// algorithms are those that an issuer may be allowed: public keys only.
var algorithms = []jose.SignatureAlgorithm{jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.ES512, jose.EdDSA}

// Issuer says whose tokens are accepted, and what they mean here. URL and
// Audiences are required.
type Issuer struct {
	URL       string   // what tokens have as iss, to the letter
	Discovery string   // address of the discovery document; empty: below URL, where the standard has it
	JWKS      string   // address of the keys, instead of discovery
	Audiences []string // what tokens have as aud, any of them
	// Algorithms that signatures may have; empty: RS256.
	Algorithms []string
	// Tenants are the tid that tokens may have; empty: any, also none.
	Tenants []string
	Roots   *x509.CertPool // whom to believe about the issuer's certificate; nil: the system
	// MaxStale is how long keys are used while no newer ones can be had. After
	// that the issuer's tokens are refused. Zero: [DefaultMaxStale].
	MaxStale time.Duration

	// The claims that name roles, scopes and groups. A dot leads into an object, as
	// in realm_access.roles. Empty: roles; scp and scope; groups.
	RoleClaims, ScopeClaims, GroupClaims []string
	// RequestorClaims are those of which the first that is there is shown as who
	// asked; empty: upn, preferred_username, email, app_displayname. A token with
	// none of them shows the id of its user or application.
	RequestorClaims []string
	// Permissions is what roles and groups give, by their names at the issuer.
	// A role with the name of a permission gives that one without being here; a group does not.
	Permissions map[string][]cordon.Permission
	// ScopeAndRole makes a user's token worth only what its scopes and the user's
	// roles or groups both give: the program may, and the user may.
	ScopeAndRole bool
}

// Options are what a [Verifier] works with. All are required.
type Options struct {
	Now func() time.Time
	Log *slog.Logger
	// Refreshed is told how each fetching of an issuer's keys ended.
	Refreshed func(issuer string, err error)
}

// Verifier knows issuers.
type Verifier struct {
	issuers map[string]*issuer // by URL
	now     func() time.Time
	stop    context.CancelFunc
	work    *sync.WaitGroup
}

// issuer is an Issuer with its defaults filled in, and its keys.
type issuer struct {
	Issuer
	algorithms []jose.SignatureAlgorithm
	keys       *keySet
}

// New returns a verifier for the given issuers. It asks none of them. Its error
// says what is wrong with which issuer, by the name of the key in the server's
// configuration file.
func New(issuers []Issuer, o Options) (*Verifier, error) {
	ctx, stop := context.WithCancel(context.Background())
	v := &Verifier{issuers: make(map[string]*issuer), now: o.Now, stop: stop, work: new(sync.WaitGroup)}
	for n, i := range issuers {
		made, err := v.add(i)
		if err != nil {
			stop()
			return nil, fmt.Errorf("issuer %d (%s): %w", n+1, i.URL, err)
		}
		made.keys = &keySet{
			issuer: i.URL, source: newSource(made.Issuer), maxStale: made.MaxStale,
			now: o.Now, log: o.Log, refreshed: o.Refreshed, ctx: ctx, work: v.work,
		}
	}
	return v, nil
}

// Close ends what is on its way to issuers and waits for that.
func (v *Verifier) Close() error {
	v.stop()
	for _, i := range v.issuers {
		i.keys.settle()
	}
	v.work.Wait()
	return nil
}

// add checks an issuer, completes it and makes it known.
func (v *Verifier) add(i Issuer) (*issuer, error) {
	if i.URL == "" {
		return nil, fmt.Errorf("url is missing")
	}
	if err := checkURL(i.URL, false); err != nil {
		return nil, fmt.Errorf("url: %w", err)
	}
	if v.issuers[i.URL] != nil {
		return nil, fmt.Errorf("url is given twice")
	}
	if i.Discovery != "" && i.JWKS != "" {
		return nil, fmt.Errorf("discovery_url and jwks_url: give one of them, the keys are asked for at one place")
	}
	for key, at := range map[string]string{"discovery_url": i.Discovery, "jwks_url": i.JWKS} {
		if at == "" {
			continue
		}
		if err := checkURL(at, true); err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
	}
	if len(i.Audiences) == 0 {
		return nil, fmt.Errorf("audiences is missing: without it tokens for other programs would be accepted")
	}
	for key, list := range map[string][]string{
		"audiences": i.Audiences, "tenants": i.Tenants, "role_claims": i.RoleClaims, "scope_claims": i.ScopeClaims,
		"group_claims": i.GroupClaims, "requestor_claims": i.RequestorClaims,
	} {
		if slices.Contains(list, "") {
			return nil, fmt.Errorf("%s has an empty entry", key)
		}
	}
	made := &issuer{Issuer: i}
	for _, name := range orElse(i.Algorithms, string(jose.RS256)) {
		alg := jose.SignatureAlgorithm(name)
		if !slices.Contains(algorithms, alg) {
			return nil, fmt.Errorf("algorithms: %q is not one of %v; only signatures by a public key are accepted", name, algorithms)
		}
		made.algorithms = append(made.algorithms, alg)
	}
	for name, permissions := range i.Permissions {
		if name == "" {
			return nil, fmt.Errorf("permissions: the name of a role or group is empty")
		}
		for _, p := range permissions {
			if !slices.Contains(cordon.AllPermissions(), p) {
				return nil, fmt.Errorf("permissions of %q: there is no permission %q, known are %v", name, p, cordon.AllPermissions())
			}
		}
	}
	made.RoleClaims = orElse(i.RoleClaims, "roles")
	made.ScopeClaims = orElse(i.ScopeClaims, "scp", "scope")
	made.GroupClaims = orElse(i.GroupClaims, "groups")
	made.RequestorClaims = orElse(i.RequestorClaims, "upn", "preferred_username", "email", "app_displayname")
	if made.MaxStale == 0 {
		made.MaxStale = DefaultMaxStale
	}
	if made.MaxStale < leastMaxStale {
		return nil, fmt.Errorf("max_stale: %s is less than %s", made.MaxStale, leastMaxStale)
	}
	v.issuers[i.URL] = made
	return made, nil
}

func orElse(list []string, otherwise ...string) []string {
	if len(list) == 0 {
		return otherwise
	}
	return list
}

// checkURL holds that what is asked there cannot be read or changed on the way.
func checkURL(text string, query bool) error {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Hostname() == "" || u.User != nil || u.Opaque != "" || u.Fragment != "" || strings.Contains(text, "#"):
		return fmt.Errorf("%q is not of the form https://host/path", text)
	case !query && strings.Contains(text, "?"):
		return fmt.Errorf("%q has a query, which an issuer does not have", text)
	case u.Scheme == "https", u.Scheme == "http" && isLoopback(u.Hostname()):
		return nil
	}
	return fmt.Errorf("%q is not https (http is for this machine's loopback address only)", text)
}

func isLoopback(host string) bool {
	return host == "localhost" || net.ParseIP(host).IsLoopback()
}

// Verify returns who calls by a token of one of the issuers. It is known when
// the token says that it is of one of them; of any other nothing is said. A token
// for another audience is an error of kind Forbidden, every other fault one of
// kind Unauthenticated, also that the issuer's keys cannot be had.
func (v *Verifier) Verify(ctx context.Context, token string) (c cordon.Caller, known bool, err error) {
	if len(v.issuers) == 0 || len(token) > maxToken {
		return c, false, nil
	}
	parsed, err := jwt.ParseSigned(token, algorithms)
	if err != nil {
		return c, false, nil
	}
	// The names are matched to the letter, and none is there twice: what is read
	// here is what is read below, once the signature is checked.
	var unverified claims
	if parsed.UnsafeClaimsWithoutVerification(&unverified) != nil {
		return c, false, nil
	}
	i := v.issuers[unverified.text("iss")]
	if i == nil {
		return c, false, nil
	}
	verified, err := i.verify(ctx, parsed)
	if err != nil {
		return c, true, err
	}
	c, err = i.judge(verified, v.now())
	return c, true, err
}

// verify returns what the token says once one of the issuer's keys says so too.
func (i *issuer) verify(ctx context.Context, parsed *jwt.JSONWebToken) (claims, error) {
	h := parsed.Headers[0]
	alg := jose.SignatureAlgorithm(h.Algorithm)
	if !slices.Contains(i.algorithms, alg) {
		return nil, refuse(fmt.Sprintf("a token of %s must not be signed with %s", i.URL, alg), nil)
	}
	// RFC 9068, section 2.1; many issuers write JWT.
	if typ, ok := h.ExtraHeaders[jose.HeaderType]; ok {
		switch s, _ := typ.(string); strings.TrimPrefix(strings.ToLower(s), "application/") {
		case "jwt", "at+jwt":
		default:
			return nil, refuse("the token is not an access token", nil)
		}
	}
	if h.KeyID == "" {
		return nil, refuse("the token does not say which key signed it", nil)
	}
	keys, err := i.keys.lookup(ctx, h.KeyID)
	if err != nil {
		return nil, err
	}
	for _, key := range keys {
		if !fits(key, alg) {
			continue
		}
		var c claims
		if err = parsed.Claims(key.Key, &c); err == nil {
			return c, nil
		}
	}
	return nil, refuse("the token's signature is not of "+i.URL, err)
}

func refuse(why string, err error) error {
	return &cordon.Error{Kind: cordon.Unauthenticated, Message: "Unauthorized: " + why + ".", Err: err}
}
