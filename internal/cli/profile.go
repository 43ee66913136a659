package cli

import (
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/cordon-project/cordon/mde"
)

// profile is what a verb needs to know of a server. Its file is the
// bootstrap.json that a server writes; members that a client has no use for
// (the enrolment token) are passed over.
type profile struct {
	URL          string `json:"url"`
	CAFile       string `json:"caFile"` // relative to the directory of the profile; empty: the system's roots
	TenantID     string `json:"tenantId"`
	ClientID     string `json:"clientId"`
	ClientSecret string `json:"clientSecret"`
}

// maxFile is the largest profile or CA file that is read, in bytes.
const maxFile = 1 << 20

const profileHint = "pass --profile FILE with the server's bootstrap.json, or set CORDON_PROFILE"

// connect makes the client that the flags and the environment ask for.
func (c common) connect(env *Env) (*mde.Client, error) {
	p, err := c.load(env)
	if err != nil {
		return nil, err
	}
	config := mde.Config{BaseURL: p.URL, TenantID: p.TenantID, ClientID: p.ClientID, ClientSecret: p.ClientSecret,
		Now: env.Now, Sleep: env.Sleep, Jitter: env.Jitter}
	if p.CAFile != "" {
		pem, err := readFile(p.CAFile)
		if err != nil {
			return nil, usage("caFile in the profile or CORDON_CA_FILE names the certificate that the server's is signed with", "cannot read the CA file: %v", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, usage("caFile in the profile or CORDON_CA_FILE names the certificate that the server's is signed with", "the CA file %s holds no certificate in PEM form", p.CAFile)
		}
	}
	client, err := mde.New(config)
	if err != nil {
		return nil, usage("give the server's address as https://HOST[:PORT], as url in the profile or as CORDON_URL", "the server's address cannot be used: %v", err)
	}
	return client, nil
}

// load reads the profile, and what overrides it.
func (c common) load(env *Env) (profile, error) {
	var p profile
	file := c.Profile
	if file == "" {
		file = env.Getenv("CORDON_PROFILE")
	}
	if file != "" {
		data, err := readFile(file)
		if err != nil {
			return p, usage(profileHint, "cannot read the profile: %v", err)
		}
		if err := json.Unmarshal(data, &p); err != nil {
			return p, usage(profileHint, "cannot read the profile %s: %v", file, err)
		}
		if p.CAFile != "" && !filepath.IsAbs(p.CAFile) {
			p.CAFile = filepath.Join(filepath.Dir(file), p.CAFile)
		}
		if info, err := os.Stat(file); err == nil && info.Mode().Perm()&0o077 != 0 && p.ClientSecret != "" {
			env.note("warning: other users can read the client secret in %s", file)
			env.hint("chmod 600 " + file)
		}
	}
	var missing, variables []string
	for _, piece := range []struct {
		value          *string
		name, variable string
		required       bool
	}{
		{&p.URL, "server address (url)", "CORDON_URL", true},
		{&p.CAFile, "", "CORDON_CA_FILE", false},
		{&p.TenantID, "tenant id (tenantId)", "CORDON_TENANT_ID", true},
		{&p.ClientID, "client id (clientId)", "CORDON_CLIENT_ID", true},
		{&p.ClientSecret, "client secret (clientSecret)", "CORDON_CLIENT_SECRET", true},
	} {
		if v := env.Getenv(piece.variable); v != "" {
			*piece.value = v
		}
		if piece.required && *piece.value == "" {
			missing, variables = append(missing, piece.name), append(variables, piece.variable)
		}
	}
	switch {
	case len(missing) == 0:
		return p, nil
	case file == "":
		return p, usage(profileHint+", or "+strings.Join(variables, ", "), "it is not known which server to call: no %s", strings.Join(missing, ", no "))
	default:
		return p, usage("add it there, or set "+strings.Join(variables, ", "), "the profile %s has no %s", file, strings.Join(missing, ", no "))
	}
}

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("%s is longer than %d bytes", name, maxFile)
	}
	return data, err
}
