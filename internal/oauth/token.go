package oauth

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/cordon-project/cordon"
)

// tokenVersion is the generation of a login endpoint. The tokens are the same.
type tokenVersion uint8

const (
	v1 tokenVersion = iota + 1 // asks by resource, answers numbers as strings
	v2                         // asks by scope
)

// The times of a token. Entra ID dates tokens five minutes back, against clocks
// that are slow, so that its tokens of an hour span 3,900 s (Defender contract 2.2).
const (
	lifetime = time.Hour
	backdate = 5 * time.Minute
)

// Outlive is how long a token is accepted after it was signed.
const Outlive = lifetime + leeway

// audience is the resource that tokens are for if the client named this
// server's own address as the resource.
const audience = "https://api.securitycenter.microsoft.com"

// audiences are the names of this one API, all of them in use by clients.
var audiences = []string{
	audience,
	"https://api.securitycenter.windows.com",
	"https://api.security.microsoft.com",
	"https://securitycenter.onmicrosoft.com/windowsatpservice",
	"https://api-gcc.securitycenter.microsoft.us", // the government's clouds
	"https://api-gov.securitycenter.microsoft.us",
}

// claims are what a token says (Defender contract 2.2).
type claims struct {
	Audience    string              `json:"aud"`
	Issuer      string              `json:"iss"`
	IssuedAt    int64               `json:"iat"`
	NotBefore   int64               `json:"nbf"`
	Expires     int64               `json:"exp"`
	AppName     string              `json:"app_displayname"`
	AppID       string              `json:"appid"`
	AppIDACR    string              `json:"appidacr"` // 1: the application showed a secret; 2: it signed with a certificate
	IdP         string              `json:"idp"`
	IDType      string              `json:"idtyp"`
	ObjectID    string              `json:"oid"`
	Permissions []cordon.Permission `json:"roles"`
	Subject     string              `json:"sub"`
	Tenant      string              `json:"tid"`
	ID          string              `json:"uti"`
	Version     string              `json:"ver"`
}

// answerV1 and answerV2 are the two forms of a token answer.
type answerV1 struct {
	TokenType    string `json:"token_type"`
	ExpiresIn    string `json:"expires_in"`
	ExtExpiresIn string `json:"ext_expires_in"`
	ExpiresOn    string `json:"expires_on"`
	NotBefore    string `json:"not_before"`
	Resource     string `json:"resource"`
	AccessToken  string `json:"access_token"`
}

type answerV2 struct {
	TokenType    string `json:"token_type"`
	ExpiresIn    int    `json:"expires_in"`
	ExtExpiresIn int    `json:"ext_expires_in"`
	AccessToken  string `json:"access_token"`
}

// expiresIn is what clients are told, in seconds; the second that is missing
// from the hour is Entra ID's.
const expiresIn = int(lifetime/time.Second) - 1

// token answers a token request.
func (s *Server) token(c *call) (any, error) {
	form, err := c.readForm()
	if err != nil {
		return nil, err
	}
	if err := c.checkShape(form); err != nil {
		return nil, err
	}
	app, err := s.authenticate(c, form)
	if err != nil {
		return nil, err
	}
	aud, err := s.audienceOf(c, form)
	if err != nil {
		return nil, err
	}
	acr := "1"
	if c.byCertificate {
		acr = "2"
	}
	issued := s.Now().Add(-backdate).Truncate(time.Second)
	expires := issued.Add(backdate + lifetime)
	token, err := s.sign(claims{
		Audience: aud, Issuer: s.issuer, IssuedAt: issued.Unix(), NotBefore: issued.Unix(), Expires: expires.Unix(),
		AppName: app.DisplayName, AppID: app.ClientID, AppIDACR: acr, IdP: s.issuer, IDType: "app",
		ObjectID: app.ObjectID, Permissions: append([]cordon.Permission{}, app.Permissions...), Subject: app.ObjectID,
		Tenant: s.Tenant, ID: uniqueID(c.trace), Version: "1.0",
	})
	if err != nil {
		return nil, err
	}
	s.Log.InfoContext(c.Context(), "token issued", "trace", c.trace, "client", app.ClientID, "audience", aud)
	if c.version == v2 {
		return answerV2{TokenType: "Bearer", ExpiresIn: expiresIn, ExtExpiresIn: expiresIn, AccessToken: token}, nil
	}
	return answerV1{
		TokenType: "Bearer", ExpiresIn: strconv.Itoa(expiresIn), ExtExpiresIn: strconv.Itoa(expiresIn),
		ExpiresOn: strconv.FormatInt(expires.Unix(), 10), NotBefore: strconv.FormatInt(issued.Unix(), 10),
		Resource: form.Get("resource"), AccessToken: token,
	}, nil
}

// checkShape looks for what the request lacks or has too much of.
func (c *call) checkShape(form url.Values) error {
	missing := func(name string) error {
		return failf(http.StatusBadRequest, "invalid_request", 900144, "The request body must contain the following parameter: '%s'.", name)
	}
	asks := "scope"
	if c.version == v1 {
		asks = "resource"
	}
	switch {
	case form.Get("grant_type") == "":
		return missing("grant_type")
	case form.Get("grant_type") != "client_credentials":
		return failf(http.StatusBadRequest, "unsupported_grant_type", 70003, "The app requested an unsupported grant type '%s'. This server gives tokens for 'client_credentials'.", excerpt(form.Get("grant_type")))
	case form.Get("client_id") == "":
		return missing("client_id")
	case c.version == v2 && form.Has("resource"):
		return failf(http.StatusBadRequest, "invalid_request", 901002, "The 'resource' request parameter is not supported.")
	case strings.TrimSpace(form.Get(asks)) == "":
		return failf(http.StatusBadRequest, "invalid_request", 90014, "The required field '%s' is missing from the credential. Ensure that you have all the necessary parameters for the login request.", asks)
	}
	return nil
}

// authenticate returns the application that the form shows to be its sender,
// unless there were too many wrong credentials.
func (s *Server) authenticate(c *call, form url.Values) (app cordon.Application, err error) {
	if s.Guess == nil {
		return s.prove(c, form)
	}
	id := strings.ToLower(strings.TrimSpace(form.Get("client_id")))
	limited := s.Guess(c.Request, id, func() (right bool, _ error) {
		app, err = s.prove(c, form)
		if f := (*failure)(nil); errors.As(err, &f) && slices.Contains(wrongCredentials, f.number) {
			return false, nil
		}
		return err == nil, err
	})
	if limited != nil {
		return cordon.Application{}, limited
	}
	return app, err
}

// prove returns the application that the form shows to be its sender, by a
// certificate or by a secret.
func (s *Server) prove(c *call, form url.Values) (cordon.Application, error) {
	switch {
	case form.Get("client_assertion") != "":
		c.byCertificate = true
		return s.proveByCertificate(c, form)
	case form.Get("client_assertion_type") != "" && form.Get("client_secret") == "":
		return cordon.Application{}, failf(http.StatusBadRequest, "invalid_request", 900144, "The request body must contain the following parameter: 'client_assertion'.")
	case form.Get("client_secret") == "":
		return cordon.Application{}, failf(http.StatusUnauthorized, "invalid_client", 7000218, "The request body must contain the following parameter: 'client_assertion' or 'client_secret'.")
	}
	return s.proveBySecret(c, form)
}

// proveBySecret returns the application whose id and secret the form has. An
// unknown one takes the same steps as a known one.
func (s *Server) proveBySecret(c *call, form url.Values) (cordon.Application, error) {
	app, known, err := s.lookUp(c, form)
	if err != nil {
		return cordon.Application{}, err
	}
	right, live := app.CheckSecret(form.Get("client_secret"), s.Now())
	switch {
	case !known:
		return cordon.Application{}, s.unknownApplication(form)
	case !right:
		return cordon.Application{}, failf(http.StatusUnauthorized, "invalid_client", 7000215, "Invalid client secret provided. Ensure the secret being sent in the request is the client secret value, not the client secret ID, for a secret added to app '%s'.", app.ClientID)
	case !live:
		return cordon.Application{}, failf(http.StatusUnauthorized, "invalid_client", 7000222, "The provided client secret keys for app '%s' are expired. Make a new one with 'cordon apps rotate-secret'.", app.ClientID)
	}
	return app, nil
}

// lookUp returns the application that the form names, if there is one.
func (s *Server) lookUp(c *call, form url.Values) (app cordon.Application, known bool, err error) {
	id := strings.ToLower(strings.TrimSpace(form.Get("client_id")))
	if !guid.MatchString(id) { // no application has any other id
		return cordon.Application{}, false, nil
	}
	switch app, err = s.Applications.Application(c.Context(), id); {
	case err == nil:
		return app, true, nil
	case cordon.KindOf(err) == cordon.NotFound:
		return cordon.Application{}, false, nil
	}
	return cordon.Application{}, false, fmt.Errorf("look up application: %w", err)
}

func (s *Server) unknownApplication(form url.Values) error {
	return failf(http.StatusBadRequest, "unauthorized_client", 700016, "Application with identifier '%s' was not found in the directory '%s'. This can happen if the application has not been created by the administrator of the tenant. You may have sent your authentication request to the wrong tenant.", excerpt(form.Get("client_id")), s.Tenant)
}

// audienceOf returns the name of the resource that the form asks a token for.
func (s *Server) audienceOf(c *call, form url.Values) (string, error) {
	if c.version == v1 {
		return s.resource(c, form.Get("resource"))
	}
	scope := form.Get("scope")
	invalid := failf(http.StatusBadRequest, "invalid_scope", 70011, "The provided request must include a 'scope' input parameter. The provided value for the input parameter 'scope' is not valid. The scope %s is not valid. Ask for one resource, as in '%s/.default'.", excerpt(scope), audience)
	var found string
	for _, word := range strings.Fields(scope) {
		switch strings.ToLower(word) {
		case "openid", "offline_access", "profile", "email":
			continue // sent out of habit, they mean nothing without a user
		}
		name, ok := cutSuffixFold(word, "/.default")
		if !ok {
			return "", invalid
		}
		aud, err := s.resource(c, name)
		if err != nil {
			return "", err
		}
		if found != "" && found != aud {
			return "", invalid
		}
		found = aud
	}
	if found == "" {
		return "", invalid
	}
	return found, nil
}

// resource returns the audience for a resource name, which may end in slashes.
// The server's own addresses count too: some clients have one setting for both
// the resource and the address that they call, and another one for the login.
func (s *Server) resource(c *call, name string) (string, error) {
	asked := strings.ToLower(strings.TrimRight(strings.TrimSpace(name), "/"))
	for _, aud := range audiences {
		if asked == aud {
			return aud, nil
		}
	}
	if u, err := url.Parse(asked); asked == strings.ToLower(s.Base(c.Request)) ||
		err == nil && u.Scheme == "https" && u.Path == "" && u.User == nil && u.RawQuery == "" && u.Fragment == "" && s.own(u) {
		return audience, nil
	}
	return "", failf(http.StatusBadRequest, "invalid_resource", 500011, "The resource principal named %s was not found in the tenant named %s. This server gives tokens for %s.", excerpt(name), s.Tenant, audience)
}

// own reports whether an address is one of this server's, whatever the port,
// which a proxy may have changed.
func (s *Server) own(u *url.URL) bool {
	return u.Hostname() != "" && s.Own != nil && s.Own(u.Hostname())
}

func cutSuffixFold(s, suffix string) (string, bool) {
	n := len(s) - len(suffix)
	if n < 0 || !strings.EqualFold(s[n:], suffix) {
		return s, false
	}
	return s[:n], true
}

// sign makes the access token that says c.
func (s *Server) sign(c claims) (string, error) {
	set, err := s.keySet()
	if err != nil {
		return "", err
	}
	token, err := jwt.Signed(set.signer).Claims(c).Serialize()
	if err != nil {
		return "", fmt.Errorf("sign access token: %w", err)
	}
	return token, nil
}

// uniqueID returns the uti claim: as at Entra ID, the trace id of the request
// in another spelling, so that a token leads to the log line that tells of it.
func uniqueID(trace string) string {
	b, _ := hex.DecodeString(strings.ReplaceAll(trace, "-", "")) // it is a GUID
	return base64.RawURLEncoding.EncodeToString(b)
}
