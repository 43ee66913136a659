package servercmd

import (
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/config"
	"github.com/cordon-project/cordon/internal/oidc"
)

// newIssuers returns the verifier for the issuers that the configuration names.
// It asks none of them.
func newIssuers(c config.Server, o oidc.Options) (*oidc.Verifier, error) {
	all := make([]oidc.Issuer, len(c.Issuers))
	for n, i := range c.Issuers {
		all[n] = oidc.Issuer{
			URL: i.URL, Discovery: i.DiscoveryURL, JWKS: i.JWKSURL, Audiences: i.Audiences, Algorithms: i.Algorithms, Tenants: i.Tenants,
			MaxStale: i.MaxStale.Duration, RoleClaims: i.RoleClaims, ScopeClaims: i.ScopeClaims, GroupClaims: i.GroupClaims,
			RequestorClaims: i.RequestorClaims, ScopeAndRole: i.RequireScopeAndRole, Permissions: make(map[string][]cordon.Permission),
		}
		for name, permissions := range i.Permissions {
			all[n].Permissions[name] = nil // the name is checked even if it gives nothing
			for _, p := range permissions {
				all[n].Permissions[name] = append(all[n].Permissions[name], cordon.Permission(p))
			}
		}
		if i.CAFile == "" {
			continue
		}
		pem, err := os.ReadFile(i.CAFile)
		if err != nil {
			return nil, fmt.Errorf("issuer %d (%s): ca_file: %w", n+1, i.URL, err)
		}
		all[n].Roots = x509.NewCertPool()
		if !all[n].Roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("issuer %d (%s): ca_file: there is no certificate in %s", n+1, i.URL, i.CAFile)
		}
	}
	return oidc.New(all, o)
}

// checkIssuers returns what is wrong with the issuers of the configuration.
func checkIssuers(c config.Server) error {
	v, err := newIssuers(c, oidc.Options{Now: time.Now, Log: slog.New(slog.DiscardHandler), Refreshed: func(string, error) {}})
	if err != nil {
		return err
	}
	return v.Close()
}
