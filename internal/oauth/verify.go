package oauth

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
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
	// leeway is how far the clocks of several servers may be apart.
	leeway = 30 * time.Second
)

// Authenticate returns who makes the request, by its Authorization header. Its
// errors are those of [Server.Verify] and of Config.Others.
func (s *Server) Authenticate(r *http.Request) (cordon.Caller, error) {
	scheme, token, _ := strings.Cut(strings.TrimSpace(r.Header.Get("Authorization")), " ")
	token = strings.TrimSpace(token)
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		return cordon.Caller{}, cordon.Errorf(cordon.Unauthenticated, "", "Unauthorized. The request has no bearer token in its Authorization header.")
	}
	return s.identify(r.Context(), token)
}

// Verify returns the application that an access token of this server was issued
// to, with those of the permissions that it had then which it still has; which
// edge it comes in by (the caller's Source) is left to that edge. A token for
// another API is an error of kind Forbidden (Defender contract 14.4), every other
// fault of the token one of kind Unauthenticated. If it cannot be looked up how the
// application stands now, nobody gets in.
func (s *Server) Verify(ctx context.Context, token string) (cordon.Caller, error) {
	caller, err := s.verified(token)
	if err != nil {
		return cordon.Caller{}, err
	}
	return s.current(ctx, caller)
}

// verified returns the caller that a token names.
func (s *Server) verified(token string) (cordon.Caller, error) {
	if len(token) > maxToken {
		return cordon.Caller{}, refuse("the token is too long", nil)
	}
	set, err := s.keySet()
	if err != nil {
		return cordon.Caller{}, err
	}
	now := s.Now()
	digest := sha256.Sum256([]byte(token))
	if caller, ok := set.cache.get(digest, now); ok {
		return caller, nil
	}
	c, err := set.read(token)
	if err != nil {
		return cordon.Caller{}, refuse("the token is not one that this server has issued", err)
	}
	expires := time.Unix(c.Expires, 0).Add(leeway)
	switch {
	case c.Issuer != s.issuer || c.Tenant != s.Tenant:
		return cordon.Caller{}, refuse("the token is of another tenant", nil)
	case !now.Before(expires):
		return cordon.Caller{}, refuse("the token has expired, get a new one", nil)
	case now.Before(time.Unix(c.NotBefore, 0).Add(-leeway)):
		return cordon.Caller{}, refuse("the token is not valid yet", nil)
	case !slices.Contains(audiences, strings.TrimSuffix(c.Audience, "/")):
		return cordon.Caller{}, cordon.Errorf(cordon.Forbidden, "", "The access token is for %s and not for this API. Get one for %s.", excerpt(c.Audience), audience)
	case !guid.MatchString(c.AppID):
		return cordon.Caller{}, refuse("the token names no application", nil)
	}
	caller := cordon.Caller{ID: c.AppID, DisplayName: c.AppName, Permissions: c.Permissions}
	set.cache.put(digest, caller, expires, now)
	return caller, nil
}

// current returns the caller of a good token as its application stands now, for
// a token is good for an hour, and what was taken away is to be gone at once.
func (s *Server) current(ctx context.Context, c cordon.Caller) (cordon.Caller, error) {
	app, err := s.Applications.Application(ctx, c.ID)
	switch {
	case err != nil && cordon.KindOf(err) == cordon.NotFound:
		return cordon.Caller{}, refuse("the application that the token was issued to does not exist any more", nil)
	case err != nil:
		return cordon.Caller{}, fmt.Errorf("look up application of token: %w", err)
	}
	gone := func(p cordon.Permission) bool { return !slices.Contains(app.Permissions, p) }
	if slices.ContainsFunc(c.Permissions, gone) {
		c.Permissions = slices.DeleteFunc(slices.Clone(c.Permissions), gone) // the cache has them too
	}
	return c, nil
}

// read checks the signature of a token and returns what it says.
func (s *keySet) read(token string) (claims, error) {
	var c claims
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.RS256})
	if err != nil {
		return c, err
	}
	key, ok := s.keys[parsed.Headers[0].KeyID]
	if !ok {
		return c, jose.ErrCryptoFailure
	}
	return c, parsed.Claims(key, &c)
}

func refuse(why string, err error) error {
	return &cordon.Error{Kind: cordon.Unauthenticated, Message: "Unauthorized: " + why + ".", Err: err}
}

// tokenCache remembers verified tokens by their SHA-256, because a program
// sends the same one for an hour and RSA costs more than the rest of many
// requests. Its zero value is empty and ready.
type tokenCache struct {
	mu      sync.RWMutex
	entries map[[sha256.Size]byte]verified // guarded by mu
}

type verified struct {
	caller  cordon.Caller
	expires time.Time
}

// maxCached bounds the memory to a few megabytes. Only tokens that this server
// has signed get in, so nobody else can fill it.
const maxCached = 4096

func (t *tokenCache) get(digest [sha256.Size]byte, now time.Time) (cordon.Caller, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	v, ok := t.entries[digest]
	return v.caller, ok && now.Before(v.expires)
}

func (t *tokenCache) put(digest [sha256.Size]byte, c cordon.Caller, expires, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.entries) >= maxCached {
		for d, v := range t.entries {
			if !now.Before(v.expires) {
				delete(t.entries, d)
			}
		}
	}
	if t.entries == nil || len(t.entries) >= maxCached {
		t.entries = make(map[[sha256.Size]byte]verified)
	}
	t.entries[digest] = verified{c, expires}
}
