package oidc

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
)

const (
	maxDocument  = 512 << 10 // bytes of a discovery document or a key set
	maxRedirects = 3
	minRSABits   = 2048 // RFC 7518, section 3.3
)

// source is where the keys of one issuer are.
type source struct {
	issuer, discovery, jwks string
	within                  time.Duration
	client                  *http.Client
}

func newSource(i Issuer) *source {
	s := &source{issuer: i.URL, discovery: i.Discovery, jwks: i.JWKS, within: fetchWithin}
	if s.discovery == "" {
		s.discovery = strings.TrimSuffix(i.URL, "/") + "/.well-known/openid-configuration"
	}
	s.client = &http.Client{
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: i.Roots, MinVersion: tls.VersionTLS12},
			DisableKeepAlives: true, MaxResponseHeaderBytes: 64 << 10, // it is asked once an hour
		},
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if len(via) > maxRedirects || r.URL.Scheme != via[0].URL.Scheme || r.URL.Host != via[0].URL.Host {
				return fmt.Errorf("it redirects to %s", r.URL.Redacted())
			}
			return nil
		},
	}
	return s
}

// fetch returns the issuer's keys by their ids, and how long they are new.
func (s *source) fetch(ctx context.Context) (map[string][]jose.JSONWebKey, time.Duration, error) {
	at := s.jwks
	if at == "" {
		var err error
		if at, err = s.discover(ctx); err != nil {
			return nil, 0, fmt.Errorf("discover keys: %w", err)
		}
	}
	body, header, err := s.get(ctx, at)
	if err != nil {
		return nil, 0, fmt.Errorf("fetch keys: %w", err)
	}
	keys, err := parseKeys(body)
	if err != nil {
		return nil, 0, fmt.Errorf("read keys of %s: %w", at, err)
	}
	return keys, freshness(header), nil
}

// discover returns where the keys are, as the issuer itself says (OpenID Connect
// Discovery 1.0, section 4.3: the document must name the issuer that was meant).
func (s *source) discover(ctx context.Context) (string, error) {
	body, _, err := s.get(ctx, s.discovery)
	if err != nil {
		return "", err
	}
	var d struct {
		Issuer string `json:"issuer"`
		JWKS   string `json:"jwks_uri"`
	}
	if err := json.Unmarshal(body, &d); err != nil {
		return "", fmt.Errorf("read %s: %w", s.discovery, err)
	}
	if d.Issuer != s.issuer {
		return "", fmt.Errorf("%s is of the issuer %q", s.discovery, excerpt(d.Issuer))
	}
	if err := checkURL(d.JWKS, true); err != nil {
		return "", fmt.Errorf("jwks_uri in %s: %w", s.discovery, err)
	}
	if strings.HasPrefix(s.discovery, "https:") && !strings.HasPrefix(strings.ToLower(d.JWKS), "https:") {
		return "", fmt.Errorf("jwks_uri in %s is not https", s.discovery)
	}
	return d.JWKS, nil
}

func (s *source) get(ctx context.Context, at string) (body []byte, h http.Header, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return nil, nil, err
	}
	r.Header.Set("Accept", "application/json")
	r.Header.Set("User-Agent", "cordon")
	resp, err := s.client.Do(r)
	if err != nil {
		return nil, nil, withoutQuery(err)
	}
	defer func() { _ = resp.Body.Close() }() // it was read
	if resp.StatusCode != http.StatusOK {
		return nil, nil, fmt.Errorf("%s answers %s", at, resp.Status)
	}
	if body, err = io.ReadAll(io.LimitReader(resp.Body, maxDocument+1)); err != nil {
		return nil, nil, fmt.Errorf("read %s: %w", at, err)
	}
	if len(body) > maxDocument {
		return nil, nil, fmt.Errorf("%s has more than %d bytes", at, maxDocument)
	}
	return body, resp.Header, nil
}

// withoutQuery drops from an error the address that net/http quotes in it.
func withoutQuery(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return fmt.Errorf("%s: %w", strings.SplitN(u.URL, "?", 2)[0], u.Err)
	}
	return err
}

// parseKeys returns the usable keys of a key set by their ids. Keys that are for
// something else or of an unknown sort are left out; that none is left is an error.
func parseKeys(body []byte) (map[string][]jose.JSONWebKey, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(body, &set); err != nil {
		return nil, err
	}
	keys := make(map[string][]jose.JSONWebKey)
	for _, text := range set.Keys {
		var key jose.JSONWebKey
		if key.UnmarshalJSON(text) != nil || key.KeyID == "" || key.Use != "" && key.Use != "sig" || !isStrong(key) {
			continue
		}
		keys[key.KeyID] = append(keys[key.KeyID], key)
	}
	if len(keys) == 0 {
		return nil, errors.New("there is no usable key in it")
	}
	return keys, nil
}

// isStrong says whether a key is a public one that signatures can be checked with.
func isStrong(key jose.JSONWebKey) bool {
	switch k := key.Key.(type) {
	case *rsa.PublicKey:
		return k.N.BitLen() >= minRSABits
	case *ecdsa.PublicKey, ed25519.PublicKey:
		return key.Valid()
	}
	return false
}

// fits says whether a key is for an algorithm: of the right sort and, if the
// issuer says which, for this one.
func fits(key jose.JSONWebKey, alg jose.SignatureAlgorithm) bool {
	if key.Algorithm != "" && key.Algorithm != string(alg) {
		return false
	}
	switch k := key.Key.(type) {
	case *rsa.PublicKey:
		return strings.HasPrefix(string(alg), "RS") || strings.HasPrefix(string(alg), "PS")
	case *ecdsa.PublicKey:
		return map[jose.SignatureAlgorithm]int{jose.ES256: 256, jose.ES384: 384, jose.ES512: 521}[alg] == k.Curve.Params().BitSize
	case ed25519.PublicKey:
		return alg == jose.EdDSA
	}
	return false
}

// freshness returns how long an answer says that it is new, within bounds.
func freshness(h http.Header) time.Duration {
	fresh := freshDefault
	for _, word := range strings.Split(strings.ToLower(strings.Join(h.Values("Cache-Control"), ",")), ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(word), "=")
		switch name {
		case "no-cache", "no-store":
			return freshLeast
		case "max-age":
			if n, err := strconv.ParseInt(strings.Trim(value, `"`), 10, 32); err == nil {
				fresh = time.Duration(n) * time.Second
			}
		}
	}
	return min(max(fresh, freshLeast), freshMost)
}
