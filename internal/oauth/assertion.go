package oauth

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/cordon-project/cordon"
)

// This file is how an application proves who it is with a certificate: it signs
// a statement, the client assertion (RFC 7523, section 3; Microsoft identity
// platform, "application authentication certificate credentials").

// assertionType is the only value of client_assertion_type (RFC 7523, section 2.2).
const assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

const (
	// maxAssertionLife bounds how long an assertion has to be remembered. Libraries
	// make them for ten minutes; scripts were seen to make them for some hours.
	maxAssertionLife = 24 * time.Hour
	// maxRemembered is how many assertions of one application are remembered; at
	// ten minutes each that is seven new ones a second.
	maxRemembered = 4096
)

// loginHosts are the addresses of Entra ID. Programs that have them built in, or
// write them into an assertion whatever address they call, mean the tenant by
// them, and that is ours.
var loginHosts = []string{"login.microsoftonline.com", "login.windows.net", "login.microsoft.com", "sts.windows.net", "login.microsoftonline.us", "login.partner.microsoftonline.cn"}

func badAssertion(number int, format string, args ...any) *failure {
	return failf(http.StatusUnauthorized, "invalid_client", number, format, args...)
}

// assertion is what a client assertion says before anything of it is proved.
type assertion struct {
	*jwt.JSONWebToken
	thumbprint, thumbprintS256 string // upper-case hex; empty if it was not given
}

// parseAssertion reads the outside of a client assertion. It must be a compact
// JWS that is signed in one of the ways that Entra ID takes.
func parseAssertion(text string) (assertion, error) {
	token, err := jwt.ParseSigned(text, []jose.SignatureAlgorithm{jose.RS256, jose.PS256, jose.ES256})
	if err != nil {
		return assertion{}, err
	}
	if len(token.Headers) != 1 {
		return assertion{}, errors.New("it has not exactly one signature")
	}
	a := assertion{JSONWebToken: token}
	for _, h := range []struct {
		name string
		size int
		to   *string
	}{{"x5t", 20, &a.thumbprint}, {"x5t#S256", sha256.Size, &a.thumbprintS256}} {
		value, ok := token.Headers[0].ExtraHeaders[jose.HeaderKey(h.name)]
		if !ok {
			continue
		}
		word, _ := value.(string)
		// Both alphabets of base64 are in use, with padding and without.
		sum, err := base64.RawURLEncoding.DecodeString(strings.NewReplacer("+", "-", "/", "_", "=", "").Replace(word))
		if err != nil || len(sum) != h.size {
			return assertion{}, fmt.Errorf("its %s is not the base64 of %d bytes", h.name, h.size)
		}
		*h.to = strings.ToUpper(hex.EncodeToString(sum))
	}
	return a, nil
}

// signer returns the certificate of the application that the assertion names.
func (a assertion) signer(app cordon.Application) (cordon.Certificate, bool) {
	i := slices.IndexFunc(app.Certificates, func(c cordon.Certificate) bool {
		return (a.thumbprint != "" || a.thumbprintS256 != "") &&
			(a.thumbprint == "" || a.thumbprint == c.Thumbprint()) && (a.thumbprintS256 == "" || a.thumbprintS256 == c.ThumbprintS256())
	})
	if i < 0 {
		return cordon.Certificate{}, false
	}
	return app.Certificates[i], true
}

// proveByCertificate returns the application that has signed the form's
// client_assertion. No part of an assertion is trusted before its signature was
// verified with the key of a certificate that the application has.
func (s *Server) proveByCertificate(c *call, form url.Values) (cordon.Application, error) {
	none := cordon.Application{}
	switch kind := form.Get("client_assertion_type"); kind {
	case assertionType:
	case "":
		return none, failf(http.StatusBadRequest, "invalid_request", 900144, "The request body must contain the following parameter: 'client_assertion_type'.")
	default:
		return none, failf(http.StatusBadRequest, "invalid_request", 90100, "The parameter 'client_assertion_type' is not valid: '%s'. Send '%s'.", excerpt(kind), assertionType)
	}
	a, err := parseAssertion(form.Get("client_assertion"))
	if err != nil {
		f := failf(http.StatusBadRequest, "invalid_request", 50027, "JWT token is invalid or malformed: a client assertion is a JWT that is signed with RS256, PS256 or ES256, with 'x5t' or 'x5t#S256' in its header.")
		f.err = err
		return none, f
	}
	app, known, err := s.lookUp(c, form)
	if err != nil {
		return none, err
	}
	if !known {
		return none, s.unknownApplication(form)
	}
	certificate, ok := a.signer(app)
	switch {
	case a.thumbprint == "" && a.thumbprintS256 == "":
		return none, badAssertion(700027, "The client assertion has neither 'x5t' nor 'x5t#S256' in its header, which say what certificate it is signed with.")
	case !ok:
		return none, badAssertion(700027, "The certificate with identifier used to sign the client assertion is not registered on application. [Reason - The key was not found. Thumbprint of key used by client: '%s']. Register it with 'cordon apps add-certificate'.", strings.TrimSpace(a.thumbprint+" "+a.thumbprintS256))
	}
	parsed, err := x509.ParseCertificate(certificate.DER)
	if err != nil {
		return none, fmt.Errorf("read certificate of application %s: %w", app.ClientID, err)
	}
	var said jwt.Claims
	if err := a.Claims(parsed.PublicKey, &said); err != nil {
		f := badAssertion(700027, "Client assertion failed signature validation. [Reason - The signature does not hold with the key of the certificate. Thumbprint of key used by client: '%s'].", certificate.Thumbprint())
		f.err = err
		return none, f
	}
	if !certificate.Live(s.Now()) {
		return none, badAssertion(700027, "The certificate with identifier used to sign the client assertion is expired on application, or not valid yet. [Reason - It is valid from %s to %s. Thumbprint of key used by client: '%s'].",
			certificate.Begins.Format(time.RFC3339), certificate.Expires.Format(time.RFC3339), certificate.Thumbprint())
	}
	if err := s.checkClaims(c, app, said); err != nil {
		return none, err
	}
	return app, s.checkReplay(c, app, said, form.Get("client_assertion"))
}

// checkClaims looks at what a verified assertion says.
func (s *Server) checkClaims(c *call, app cordon.Application, said jwt.Claims) error {
	now := s.Now()
	switch {
	case !strings.EqualFold(said.Issuer, app.ClientID) || !strings.EqualFold(said.Subject, app.ClientID):
		return badAssertion(700021, "Client assertion application identifier doesn't match 'client_id' parameter: its 'iss' is '%s' and its 'sub' '%s'.", excerpt(said.Issuer), excerpt(said.Subject))
	case !slices.ContainsFunc(said.Audience, func(aud string) bool { return s.ownEndpoint(c, aud) }):
		return badAssertion(700023, "Client assertion audience claim does not match Realm issuer: its 'aud' is not the token endpoint '%s'.", s.Base(c.Request)+"/"+s.Tenant+"/oauth2/v2.0/token")
	case said.Expiry == nil:
		return badAssertion(700024, "Client assertion is not within its valid time range: it has no 'exp'.")
	case !now.Before(said.Expiry.Time().Add(leeway)), said.NotBefore != nil && now.Before(said.NotBefore.Time().Add(-backdate)):
		return badAssertion(700024, "Client assertion is not within its valid time range. Current time: %s, expiry time of assertion %s. Check the clock of the client.", now.UTC().Format(time.RFC3339), said.Expiry.Time().UTC().Format(time.RFC3339))
	case said.Expiry.Time().After(now.Add(maxAssertionLife + leeway)):
		return badAssertion(700024, "Client assertion is not within its valid time range: it is good for longer than %s.", maxAssertionLife)
	}
	return nil
}

// ownEndpoint reports whether an audience means this tenant: one of its token
// endpoints or issuers, by any name of this server or of Entra ID.
func (s *Server) ownEndpoint(c *call, aud string) bool {
	u, err := url.Parse(strings.ToLower(aud))
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return false
	}
	switch strings.Trim(u.Path, "/") {
	case s.Tenant, s.Tenant + "/oauth2/token", s.Tenant + "/oauth2/v2.0/token", s.Tenant + "/v2.0":
	default:
		return false
	}
	return u.Scheme+"://"+u.Host == strings.ToLower(s.Base(c.Request)) || u.Scheme == "https" && (s.own(u) || slices.Contains(loginHosts, u.Host))
}

// checkReplay refuses an assertion that was used already by somebody else. The
// same address may send the same assertion again until it expires, for that is
// what libraries do; see ADR 14.
func (s *Server) checkReplay(c *call, app cordon.Application, said jwt.Claims, text string) error {
	from := s.address(c.Request)
	use := use{digest: sha256.Sum256([]byte(text)), from: from, until: said.Expiry.Time().Add(leeway)}
	id := said.ID
	if id == "" {
		id = string(use.digest[:])
	}
	switch s.seen.note(app.ClientID, id, use, s.Now()) {
	case seenElsewhere:
		return badAssertion(50013, "Assertion failed: it was used before from another address, or another one had the same 'jti'. Make a new one for each request.")
	case seenTooMany:
		return failf(http.StatusServiceUnavailable, "temporarily_unavailable", 90033, "A transient error has occurred: the application has %d client assertions that are still good. Please try again later, and reuse access tokens.", maxRemembered)
	}
	return nil
}

func (s *Server) address(r *http.Request) string {
	if s.Address != nil {
		return s.Address(r)
	}
	host, _, _ := net.SplitHostPort(r.RemoteAddr)
	return host
}

// use is what is remembered of an assertion.
type use struct {
	digest [sha256.Size]byte
	from   string
	until  time.Time
}

type verdict uint8

const (
	seenNot verdict = iota // or by the same client
	seenElsewhere
	seenTooMany
)

// memory remembers the assertions of applications until they expire. Its zero
// value is empty and ready. Only assertions whose signature holds get in, so
// that nobody but an application fills its part.
type memory struct {
	mu   sync.Mutex
	uses map[string]map[string]use // by client id and jti; guarded by mu
}

func (m *memory) note(client, id string, u use, now time.Time) verdict {
	m.mu.Lock()
	defer m.mu.Unlock()
	mine := m.uses[client]
	if before, ok := mine[id]; ok && now.Before(before.until) {
		if before.digest == u.digest && before.from == u.from {
			return seenNot
		}
		return seenElsewhere
	}
	if len(mine) >= maxRemembered {
		for id, old := range mine {
			if !now.Before(old.until) {
				delete(mine, id)
			}
		}
		if len(mine) >= maxRemembered {
			return seenTooMany
		}
	}
	if mine == nil {
		if m.uses == nil {
			m.uses = make(map[string]map[string]use)
		}
		mine = make(map[string]use)
		m.uses[client] = mine
	}
	mine[id] = u
	return seenNot
}
