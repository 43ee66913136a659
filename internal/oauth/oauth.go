// Package oauth is the built-in token issuer: it gives applications access
// tokens in the way Microsoft Entra ID does, so that programs written for
// Defender need nothing but another login address, and it verifies those tokens.
//
// # What it owns
//
// The token endpoints (v1 and v2, client credentials with a secret or a
// certificate), the OpenID Connect and instance discovery documents, the key set, and the tokens
// themselves: RS256, version 1, valid for an hour (Defender contract 2.1 and 2.2).
// Who may do what with a token is not decided here but by [cordon.Caller].
//
// # What it promises
//
// A token is accepted only if one of the server's own keys signed it with
// RS256, whatever its header says. Secrets are compared as SHA-256 digests in
// constant time. Every answer is compact JSON, errors in Entra ID's form with an
// AADSTS number. A permission that is taken from an application is worth nothing
// from then on, also in tokens that it has; those of an application that was
// deleted are refused. A new permission is in the next token.
//
// The package starts no goroutine and keeps nothing but a bounded cache of
// verified tokens and the client assertions that are still good, each under a
// lock of its own. A [Server] is safe for concurrent use.
package oauth

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/cordon-project/cordon"
)

// Applications is where the applications are looked up, as [cordon.Store] does it.
type Applications interface {
	// Application returns an application by its client id (a GUID, lower case),
	// or an error of kind NotFound.
	Application(ctx context.Context, clientID string) (cordon.Application, error)
}

// Config is what a [Server] needs. Every field is required unless it says otherwise.
type Config struct {
	Tenant string // GUID of the one tenant, in any case
	// Keys returns the keys of this moment: the first signs, all verify; at least
	// 2048 bits each.
	Keys         func() []*rsa.PrivateKey
	Applications Applications
	// Others says who calls by a token that this server has not signed. It is known
	// if the token is one of another issuer that is accepted, and then the error is
	// returned as it is. Nil: there are no others.
	Others func(ctx context.Context, token string) (c cordon.Caller, known bool, err error)
	// Guess runs try, which looks at the credentials of a client, unless there
	// were too many wrong ones, and counts what it says. An error of try is
	// returned as it is; one of kind Limited means that what try said must not be
	// told. Nil: guesses are not counted.
	Guess func(r *http.Request, client string, try func() (right bool, err error)) error
	Base  func(*http.Request) string // scheme and host that the client called, without a slash at the end
	// Own reports whether a host name or IP address is one of this server's. Nil:
	// only that of Base is.
	Own func(host string) bool
	// Address returns the address that a request comes from. Nil: that of the
	// connection, which may be a proxy's.
	Address func(*http.Request) string
	Now     func() time.Time
	NewID   func() string // a new random GUID
	Log     *slog.Logger
}

// Server answers the login addresses and verifies what it has issued.
type Server struct {
	Config
	issuer string
	set    atomic.Pointer[keySet]
	seen   memory // client assertions
}

// keySet is all that follows from the keys of a moment.
type keySet struct {
	source   []*rsa.PrivateKey
	signer   jose.Signer
	keys     map[string]*rsa.PublicKey // by key id
	document []byte                    // the JWKS document
	cache    tokenCache                // of tokens that one of the keys has signed
}

// minKeyBits is the smallest RSA key for RS256 (RFC 7518, section 3.3).
const minKeyBits = 2048

var guid = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// New returns the server for c. It is an error if the tenant is not a GUID or a
// key is missing or too short.
func New(c Config) (*Server, error) {
	c.Tenant = strings.ToLower(c.Tenant)
	if !guid.MatchString(c.Tenant) {
		return nil, fmt.Errorf("tenant id %q is not a GUID", c.Tenant)
	}
	s := &Server{Config: c, issuer: issuers + c.Tenant + "/"}
	if _, err := s.keySet(); err != nil {
		return nil, err
	}
	return s, nil
}

// keySet returns what follows from the keys as they are now. With a key that is
// no more its tokens are forgotten.
func (s *Server) keySet() (*keySet, error) {
	now := s.Keys()
	if set := s.set.Load(); set != nil && slices.Equal(set.source, now) {
		return set, nil
	}
	set, err := newKeySet(now)
	if err != nil {
		return nil, err
	}
	s.set.Store(set)
	return set, nil
}

func newKeySet(source []*rsa.PrivateKey) (*keySet, error) {
	if len(source) == 0 {
		return nil, errors.New("no token signing key")
	}
	s := &keySet{source: source, keys: make(map[string]*rsa.PublicKey)}
	var set jose.JSONWebKeySet
	for _, key := range source {
		if n := key.N.BitLen(); n < minKeyBits {
			return nil, fmt.Errorf("token signing key has %d bits, needed are %d", n, minKeyBits)
		}
		jwk := jose.JSONWebKey{Key: &key.PublicKey, Use: "sig", Algorithm: string(jose.RS256)}
		thumbprint, err := jwk.Thumbprint(crypto.SHA256) // RFC 7638
		if err != nil {
			return nil, fmt.Errorf("take thumbprint of token signing key: %w", err)
		}
		jwk.KeyID = base64.RawURLEncoding.EncodeToString(thumbprint)
		s.keys[jwk.KeyID] = &key.PublicKey
		set.Keys = append(set.Keys, jwk)
	}
	var err error
	if s.document, err = json.Marshal(set); err != nil {
		return nil, fmt.Errorf("encode key set: %w", err)
	}
	s.signer, err = jose.NewSigner(
		jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: source[0], KeyID: set.Keys[0].KeyID}},
		(&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return nil, fmt.Errorf("prepare token signing key: %w", err)
	}
	return s, nil
}

// call is one request on its way through the server.
type call struct {
	*http.Request
	w           http.ResponseWriter // for its connection only
	version     tokenVersion
	tenant      string // as the client called it: its id, or one of sharedTenants
	trace       string // GUID of this request, also in the log
	correlation string // the client's own name for it if it gave one
	basic       bool   // the client identified itself by HTTP Basic
	// byCertificate is whether the client showed a signed assertion instead of a secret.
	byCertificate bool
}

// endpoint is what one path below a tenant does. Its serve returns a document,
// to be encoded unless it is a []byte already.
type endpoint struct {
	methods []string
	version tokenVersion
	serve   func(*Server, *call) (any, error)
}

var (
	readOnly    = []string{http.MethodGet, http.MethodHead}
	readOrWrite = []string{http.MethodGet, http.MethodPost}

	endpoints = map[string]endpoint{
		"oauth2/token":                          {readOrWrite, v1, (*Server).token},
		"oauth2/v2.0/token":                     {readOrWrite, v2, (*Server).token},
		".well-known/openid-configuration":      {readOnly, v1, (*Server).metadata},
		"v2.0/.well-known/openid-configuration": {readOnly, v2, (*Server).metadata},
		"discovery/keys":                        {readOnly, v1, (*Server).jwks},
		"discovery/v2.0/keys":                   {readOnly, v2, (*Server).jwks},
	}
	// sharedTenants stand for whatever tenant a user is of. Programs read the
	// documents there; an application has to say where it belongs.
	sharedTenants = []string{"common", "organizations"}
	// instanceEndpoint asks about the login address itself and names no tenant.
	instancePath     = "common/discovery/instance"
	instanceEndpoint = endpoint{readOnly, v2, (*Server).instance}
)

// ServeHTTP answers everything below the login address. Paths match in any
// case and with slashes around them, as Entra ID's do.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := &call{Request: r, w: w, trace: s.NewID()}
	h := w.Header()
	h.Set("Content-Type", "application/json; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Ms-Request-Id", c.trace)
	if strings.HasPrefix(s.Base(r), "https:") {
		h.Set("Strict-Transport-Security", "max-age=31536000")
	}
	c.correlation = clientRequestID(r)
	if guid.MatchString(c.correlation) {
		h.Set("Client-Request-Id", c.correlation)
	} else {
		c.correlation = s.NewID()
	}

	status := http.StatusOK
	body, err := s.answer(c, h)
	if err != nil {
		f := failureOf(err)
		if f.retryAfter > 0 {
			h.Set("Retry-After", strconv.Itoa(int(f.retryAfter/time.Second)))
		}
		if status = f.status; status == http.StatusUnauthorized && c.basic {
			h.Set("WWW-Authenticate", `Basic realm="Cordon"`) // RFC 6749, section 5.2
		}
		body, _ = encode(s.describe(c, f)) // strings and numbers only: cannot fail
		s.Log.Log(r.Context(), f.level(), "login request refused", "trace", c.trace, "path", excerpt(r.URL.Path), "aadsts", f.number, "error", err)
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body) // fails only if the client has gone
}

func clientRequestID(r *http.Request) string {
	id := r.Header.Get("client-request-id")
	if id == "" {
		q, _ := url.ParseQuery(r.URL.RawQuery) // what can be read of it is enough
		id = q.Get("client-request-id")
	}
	return strings.ToLower(id)
}

// answer finds the endpoint and returns the body that it answers with.
func (s *Server) answer(c *call, h http.Header) ([]byte, error) {
	path := strings.ToLower(strings.Trim(c.URL.Path, "/ "))
	tenant, name, _ := strings.Cut(path, "/")
	e, ok := endpoints[name]
	if path == instancePath {
		e, ok, tenant = instanceEndpoint, true, s.Tenant
	}
	if !ok {
		return nil, failf(http.StatusNotFound, "invalid_request", 9002313, "Invalid request. There is no endpoint %s.", excerpt(c.URL.Path))
	}
	if !slices.Contains(e.methods, c.Method) {
		allow := strings.Join(e.methods, ", ")
		h.Set("Allow", allow)
		return nil, failf(http.StatusMethodNotAllowed, "invalid_request", 900561, "The endpoint only accepts %s requests. Received a %s request.", allow, excerpt(c.Method))
	}
	shared := slices.Contains(sharedTenants, tenant)
	if shared && !slices.Contains(e.methods, http.MethodHead) {
		return nil, failf(http.StatusBadRequest, "invalid_request", 50059, "No tenant-identifying information found in either the request or implied by any provided credentials. Ask at /%s instead of /%s.", s.Tenant, tenant)
	}
	if tenant != s.Tenant && !shared {
		return nil, failf(http.StatusBadRequest, "invalid_request", 90002, "Tenant '%s' not found. Check to make sure you have the correct tenant ID and are signing into the correct cloud.", excerpt(tenant))
	}
	c.version, c.tenant = e.version, tenant
	document, err := e.serve(s, c)
	if err != nil {
		return nil, err
	}
	if body, ok := document.([]byte); ok {
		return body, nil
	}
	return encode(document)
}

// encode returns v as compact JSON in which < and & stay as they are.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("encode answer: %w", err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// excerpt shortens what the caller wrote, for a message.
func excerpt(s string) string {
	const most = 128
	if len(s) > most {
		s = s[:most] + "…"
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}
