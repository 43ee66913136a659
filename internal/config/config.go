// Package config reads the server's configuration file. The file is strict: a
// key that is not known is an error that names it.
package config

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"github.com/cordon-project/cordon"
)

// Server is the server's configuration, a TOML file. Every value has a usable
// default, so that an empty file is a valid one.
type Server struct {
	// Listen is the address for clients and agents, HTTPS. Default ":8443".
	Listen string `toml:"listen"`
	// TLSNames are the DNS names and IP addresses, besides localhost, for which
	// the local CA makes the TLS certificate.
	TLSNames []string `toml:"tls_names"`
	// TLSCert and TLSKey are PEM files to be used instead of the local CA. They
	// are read again when they change.
	TLSCert string `toml:"tls_cert"`
	TLSKey  string `toml:"tls_key"`
	// Certificates are more certificates from files, for clients that ask for a
	// host name that one of them is valid for. The first that is, is used.
	Certificates []Certificate `toml:"certificate"`
	// PublicURL is how clients reach the server when that is not the name that
	// they put into their requests: https://host[:port].
	PublicURL string `toml:"public_url"`
	// MetricsListen is the address of /metrics (Prometheus), /healthz and
	// /readyz, plain HTTP. "off" serves none. Empty is "127.0.0.1:9443", but only
	// if that is free: two servers on one machine need no configuration.
	MetricsListen string `toml:"metrics_listen"`
	// ActionTTL is how long an action waits for its machine before it ends
	// TimeOut. Default "72h".
	ActionTTL Duration `toml:"action_ttl"`
	// DefaultLease is the lease of restrictions for which their caller named none,
	// programs written for Defender among them: when a machine has not heard the
	// server for so long, it falls back to counting. Left out: none.
	DefaultLease Duration `toml:"default_lease"`
	// TokenKeyLifetime is how long a key signs access tokens before the next one
	// does. At least "24h", default "2160h" (90 days).
	TokenKeyLifetime Duration `toml:"token_key_lifetime"`
	// Limits take the place of Defender's limits for calls to the API.
	Limits []Limit `toml:"limit"`
	// Issuers are those whose access tokens are accepted besides this server's own.
	Issuers []Issuer `toml:"issuer"`
	// TrustedProxies are the networks (10.0.0.0/8, 192.0.2.1/32) of reverse
	// proxies. What these write into X-Forwarded-For is taken for the address of
	// the client, by which wrong secrets are counted. Without it all clients
	// behind a proxy count as one.
	TrustedProxies []netip.Prefix `toml:"trusted_proxies"`
}

// Limit is how many calls an application may make to each API. At least one of
// the numbers is above zero; the other one, left out, does not limit.
type Limit struct {
	// Application is a client id; empty means every one.
	Application string `toml:"application"`
	// API is the last word of an operation's path, as in runliveresponse; empty
	// means all those without limits of their own.
	API       string `toml:"api"`
	PerMinute int    `toml:"per_minute"`
	PerHour   int    `toml:"per_hour"`
}

// Issuer is another issuer of access tokens. What is left out has the default
// that stands with it.
type Issuer struct {
	// URL is what its tokens have as iss, to the letter. Required.
	URL string `toml:"url"`
	// DiscoveryURL is where its discovery document is, if not below URL. JWKSURL is
	// where its keys are, and then no discovery document is asked for.
	DiscoveryURL string `toml:"discovery_url"`
	JWKSURL      string `toml:"jwks_url"`
	// Audiences are what its tokens for this server have as aud. Required.
	Audiences []string `toml:"audiences"`
	// Algorithms that it signs with. Default ["RS256"].
	Algorithms []string `toml:"algorithms"`
	// Tenants are the tid that tokens may have. Default: any, also none.
	Tenants []string `toml:"tenants"`
	// CAFile is a PEM file with who vouches for its certificate. Default: the
	// system's authorities.
	CAFile string `toml:"ca_file"`
	// MaxStale is how long its keys are used while it does not answer. Default "24h".
	MaxStale Duration `toml:"max_stale"`
	// RoleClaims are the claims with roles. Default ["roles"]. A dot leads into an
	// object, here and in those that follow.
	RoleClaims []string `toml:"role_claims"`
	// ScopeClaims are the claims with scopes. Default ["scp", "scope"].
	ScopeClaims []string `toml:"scope_claims"`
	// GroupClaims are the claims with groups. Default ["groups"].
	GroupClaims []string `toml:"group_claims"`
	// RequestorClaims are those of which the first that is there is shown as who
	// asked. Default ["upn", "preferred_username", "email", "app_displayname"].
	RequestorClaims []string `toml:"requestor_claims"`
	// RequireScopeAndRole makes a user's token worth what both its scopes and the
	// user's roles or groups give. Default: what any of them gives.
	RequireScopeAndRole bool `toml:"require_scope_and_role"`
	// Permissions are what roles and groups give, by their names at the issuer.
	Permissions map[string][]string `toml:"permissions"`
}

// Certificate is a TLS certificate and its key, PEM files that belong together.
type Certificate struct {
	Cert string `toml:"cert"`
	Key  string `toml:"key"`
}

// Duration is a time span above zero as Go writes it: 72h, 90m, 10s. Zero means
// that it was not given.
type Duration struct{ time.Duration }

// UnmarshalText reads a duration.
func (d *Duration) UnmarshalText(text []byte) (err error) {
	if d.Duration, err = time.ParseDuration(string(text)); err == nil && d.Duration <= 0 {
		err = fmt.Errorf("%q is not above zero", text)
	}
	return err
}

// Defaults of the addresses.
const (
	DefaultListen  = ":8443"
	DefaultMetrics = "127.0.0.1:9443"
	MetricsOff     = "off"
)

const (
	defaultTokenKeyLife = 90 * 24 * time.Hour
	minTokenKeyLife     = 24 * time.Hour
)

// Load reads the file at path; an empty path is an empty file. Values of over
// that are not zero win over the file's. The result is complete and checked.
func Load(path string, over Server) (Server, error) {
	var s Server
	if path != "" {
		text, err := os.ReadFile(path)
		if err != nil {
			return s, fmt.Errorf("read configuration: %w", err)
		}
		if s, err = Parse(string(text)); err != nil {
			return s, fmt.Errorf("configuration file %s: %w", path, err)
		}
	}
	for _, v := range []struct{ file, flag *string }{
		{&s.Listen, &over.Listen}, {&s.TLSCert, &over.TLSCert}, {&s.TLSKey, &over.TLSKey}, {&s.PublicURL, &over.PublicURL}, {&s.MetricsListen, &over.MetricsListen},
	} {
		if *v.flag != "" {
			*v.file = *v.flag
		}
	}
	if len(over.TLSNames) > 0 {
		s.TLSNames = over.TLSNames
	}
	if s.Listen == "" {
		s.Listen = DefaultListen
	}
	if over.ActionTTL.Duration != 0 {
		s.ActionTTL = over.ActionTTL
	}
	if s.ActionTTL.Duration == 0 {
		s.ActionTTL.Duration = cordon.DefaultTTL
	}
	if s.TokenKeyLifetime.Duration == 0 {
		s.TokenKeyLifetime.Duration = defaultTokenKeyLife
	}
	return s, s.check()
}

// Parse reads the text of a configuration file without completing or checking it.
func Parse(text string) (Server, error) {
	var s Server
	meta, err := toml.Decode(text, &s)
	if err != nil {
		return s, err
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		return s, fmt.Errorf("unknown key %q", unknown[0].String())
	}
	return s, nil
}

func (s Server) check() error {
	if !isAddress(s.Listen) {
		return fmt.Errorf("listen: %q is not an address of the form [HOST]:PORT", s.Listen)
	}
	if s.MetricsListen != "" && s.MetricsListen != MetricsOff && !isAddress(s.MetricsListen) {
		return fmt.Errorf("metrics_listen: %q is neither an address of the form [HOST]:PORT nor \"off\"", s.MetricsListen)
	}
	if (s.TLSCert == "") != (s.TLSKey == "") {
		return fmt.Errorf("tls_cert and tls_key go together: give both or neither")
	}
	for i, c := range s.Certificates {
		if c.Cert == "" || c.Key == "" {
			return fmt.Errorf("certificate %d: give both cert and key", i+1)
		}
	}
	if s.TLSCert != "" && len(s.TLSNames) > 0 {
		return fmt.Errorf("tls_names are for the server's own CA: leave them out when tls_cert is given")
	}
	for _, n := range s.TLSNames {
		if n == "" || strings.ContainsAny(n, " /:") && net.ParseIP(n) == nil {
			return fmt.Errorf("tls_names: %q is neither a DNS name nor an IP address", n)
		}
	}
	if s.PublicURL != "" {
		u, err := url.Parse(s.PublicURL)
		if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
			return fmt.Errorf("public_url: %q is not of the form https://host[:port]", s.PublicURL)
		}
	}
	if s.TokenKeyLifetime.Duration < minTokenKeyLife {
		return fmt.Errorf("token_key_lifetime: %s is less than %s", s.TokenKeyLifetime, minTokenKeyLife)
	}
	if err := cordon.CheckLease(s.DefaultLease.Duration); err != nil {
		return fmt.Errorf("default_lease: %w", err)
	}
	if s.ActionTTL.Duration < 0 {
		return fmt.Errorf("action_ttl: %s is not above zero", s.ActionTTL)
	}
	return nil
}

func isAddress(s string) bool {
	_, port, err := net.SplitHostPort(s)
	if err == nil {
		_, err = net.LookupPort("tcp", port)
	}
	return err == nil && port != ""
}
