package oauth

import (
	"net/url"
	"strings"
)

// metadata is the OpenID Connect discovery document. Its issuer is that of the
// endpoint version, as at Entra ID: the v2 document names the address that the
// document is at, although the tokens are of version 1 and name the v1 issuer. In
// a document for all tenants the issuer has a place for the tenant instead.
type metadata struct {
	TokenEndpoint         string   `json:"token_endpoint"`
	TokenAuthMethods      []string `json:"token_endpoint_auth_methods_supported"`
	TokenAuthAlgorithms   []string `json:"token_endpoint_auth_signing_alg_values_supported"`
	JWKS                  string   `json:"jwks_uri"`
	SubjectTypes          []string `json:"subject_types_supported"`
	SigningAlgorithms     []string `json:"id_token_signing_alg_values_supported"`
	ResponseTypes         []string `json:"response_types_supported"`
	GrantTypes            []string `json:"grant_types_supported"`
	Scopes                []string `json:"scopes_supported"`
	Issuer                string   `json:"issuer"`
	AuthorizationEndpoint string   `json:"authorization_endpoint"` // clients refuse a document without one
	Claims                []string `json:"claims_supported"`
}

// issuers is what the issuers of tokens of version 1 begin with.
const issuers = "https://sts.windows.net/"

func (s *Server) metadata(c *call) (any, error) {
	base := s.Base(c.Request)
	tenant, issuing := base+"/"+c.tenant, s.Tenant
	if c.tenant != s.Tenant {
		issuing = "{tenantid}"
	}
	version, issuer := "", issuers+issuing+"/"
	if c.version == v2 {
		version, issuer = "/v2.0", base+"/"+issuing+"/v2.0"
	}
	return metadata{
		TokenEndpoint:         tenant + "/oauth2" + version + "/token",
		TokenAuthMethods:      []string{"client_secret_post", "private_key_jwt", "client_secret_basic"},
		TokenAuthAlgorithms:   []string{"RS256", "PS256", "ES256"},
		JWKS:                  tenant + "/discovery" + version + "/keys",
		SubjectTypes:          []string{"pairwise"},
		SigningAlgorithms:     []string{"RS256"},
		ResponseTypes:         []string{"token"},
		GrantTypes:            []string{"client_credentials"},
		Scopes:                []string{"openid", "profile", "offline_access"},
		Issuer:                issuer,
		AuthorizationEndpoint: tenant + "/oauth2" + version + "/authorize",
		Claims:                []string{"aud", "iss", "iat", "nbf", "exp", "appid", "app_displayname", "oid", "roles", "sub", "tid", "ver"},
	}, nil
}

// instance is the answer to the question which names one login service goes by.
// Clients ask it before they trust an address that they were configured with.
type instance struct {
	TenantDiscovery string            `json:"tenant_discovery_endpoint"`
	APIVersion      string            `json:"api-version"`
	Metadata        []instanceAliases `json:"metadata"`
}

type instanceAliases struct {
	PreferredNetwork string   `json:"preferred_network"`
	PreferredCache   string   `json:"preferred_cache"`
	Aliases          []string `json:"aliases"`
}

// instance names the tenant that the client asked about, so that a wrong one is
// noticed at the next step; a question about none is about ours.
func (s *Server) instance(c *call) (any, error) {
	tenant := s.Tenant
	if asked, err := url.Parse(c.URL.Query().Get("authorization_endpoint")); err == nil {
		first, _, _ := strings.Cut(strings.Trim(asked.Path, "/"), "/")
		if first = strings.ToLower(first); guid.MatchString(first) {
			tenant = first
		}
	}
	base := s.Base(c.Request)
	_, host, _ := strings.Cut(base, "://")
	return instance{
		TenantDiscovery: base + "/" + tenant + "/v2.0/.well-known/openid-configuration",
		APIVersion:      "1.1",
		Metadata:        []instanceAliases{{PreferredNetwork: host, PreferredCache: host, Aliases: []string{host}}},
	}, nil
}

// jwks answers the public halves of the signing keys, also of the next one.
func (s *Server) jwks(*call) (any, error) {
	set, err := s.keySet()
	if err != nil {
		return nil, err
	}
	return set.document, nil
}
