package clients

import (
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
	"golang.org/x/oauth2/microsoft"
)

// program calls the API as an application, and logs in for it when it has to.
// The path of a call comes as it goes out, with its query.
type program func(method, path, body string) (answer, error)

// answer is what the server said.
type answer struct {
	Status  int               `json:"status"`
	Headers map[string]string `json:"headers"` // by lower-case name
	Body    string            `json:"body"`
}

// kind is a kind of program: a client library in one of its settings, and what
// it says about wrong credentials.
type kind struct {
	name  string
	wrong string
	open  func(*testing.T, *world, application) program
}

const (
	wrongSecret      = "AADSTS7000215"
	wrongCertificate = "AADSTS700027"
)

// own is the server's address where a program can be told about it.
const own = "https://" + ownName + ":" + port

// kinds are the programs. Between them they use every name of the API, each way
// to tell the login library about the server, and the names that are built in.
var kinds = []kind{
	{"azidentity, address configured", wrongSecret, azidentityAt(secret, own, true, own, "https://api.securitycenter.microsoft.com/.default")},
	{"azidentity, address configured and verified", wrongSecret, azidentityAt(secret, own, false, own, "https://api.security.microsoft.com/.default")},
	{"azidentity, built-in names", wrongSecret, azidentityAt(secret, "", false, "https://api.securitycenter.microsoft.com", "https://api.securitycenter.windows.com/.default")},
	{"azidentity, a region's name", wrongSecret, azidentityAt(secret, "", false, "https://us.api.security.microsoft.com", "https://api.securitycenter.microsoft.com/.default")},
	{"azidentity, the government's cloud", wrongSecret, azidentityAt(secret, cloud.AzureGovernment.ActiveDirectoryAuthorityHost, false, "https://api-gov.securitycenter.microsoft.us", "https://api-gov.securitycenter.microsoft.us/.default")},
	{"oauth2, style detected", wrongSecret, oauth2At(own, "/oauth2/v2.0/token", oauth2.AuthStyleAutoDetect, own, "https://securitycenter.onmicrosoft.com/windowsatpservice/.default")},
	{"oauth2, secret in the form, built-in names", wrongSecret, oauth2At("", "", oauth2.AuthStyleInParams, "https://api.security.microsoft.com", "https://api.securitycenter.microsoft.com/.default")},
	{"oauth2, secret in the header, built-in names", wrongSecret, oauth2At("", "", oauth2.AuthStyleInHeader, "https://api.securitycenter.windows.com", "https://api.securitycenter.microsoft.com//.default")},
	{"oauth2, the government's names", wrongSecret, oauth2At("https://login.microsoftonline.us", "/oauth2/v2.0/token", oauth2.AuthStyleAutoDetect, "https://api-gcc.securitycenter.microsoft.us", "https://api-gcc.securitycenter.microsoft.us/.default")},
	{"oauth2, version 1", wrongSecret, oauth2At("https://login.windows.net", "/oauth2/token", oauth2.AuthStyleAutoDetect, "https://api.securitycenter.windows.com", "")},
	{"msal-node, address configured and known", wrongSecret, msalNodeAt("@azure/msal-node", secret, own, true, own, "https://api.securitycenter.microsoft.com/.default")},
	{"msal-node, address configured", wrongSecret, msalNodeAt("@azure/msal-node", secret, own, false, own, "https://api.securitycenter.microsoft.com/.default")},
	{"msal-node, built-in names", wrongSecret, msalNodeAt("@azure/msal-node", secret, "https://login.microsoftonline.com", false, "https://api.securitycenter.microsoft.com", "https://api.security.microsoft.com/.default")},
	{"msal-node, the government's cloud", wrongSecret, msalNodeAt("@azure/msal-node", secret, "https://login.microsoftonline.us", false, "https://api-gov.securitycenter.microsoft.us", "https://api-gov.securitycenter.microsoft.us/.default")},
	{"msal-node, a region's name", wrongSecret, msalNodeAt("@azure/msal-node", secret, "https://login.microsoftonline.com", false, "https://eu.api.security.microsoft.com", "https://api.securitycenter.microsoft.com/.default")},
	{"msal-node 3, the government's cloud", wrongSecret, msalNodeAt("msal-node-3", secret, "https://login.microsoftonline.us", false, "https://api-gov.securitycenter.microsoft.us", "https://api-gov.securitycenter.microsoft.us/.default")},
	{"msal-node 3, address configured and known", wrongSecret, msalNodeAt("msal-node-3", secret, own, true, own, "https://api.securitycenter.microsoft.com/.default")},
	{"msal-node 3, address configured", wrongSecret, msalNodeAt("msal-node-3", secret, own, false, own, "https://api.securitycenter.microsoft.com/.default")},
	{"msal-node 3, built-in names", wrongSecret, msalNodeAt("msal-node-3", secret, "https://login.microsoftonline.com", false, "https://api.security.microsoft.com", "https://securitycenter.onmicrosoft.com/windowsatpservice/.default")},
	{"azidentity, certificate, address configured", wrongCertificate, azidentityAt(thumbprint, own, true, own, "https://api.securitycenter.microsoft.com/.default")},
	{"azidentity, certificate sent along, built-in names", wrongCertificate, azidentityAt(chain, "", false, "https://api.securitycenter.microsoft.com", "https://api.securitycenter.windows.com/.default")},
	{"msal-node, certificate, address configured and known", wrongCertificate, msalNodeAt("@azure/msal-node", thumbprint, own, true, own, "https://api.securitycenter.microsoft.com/.default")},
	{"msal-node, certificate sent along, built-in names", wrongCertificate, msalNodeAt("@azure/msal-node", chain, "https://login.microsoftonline.com", false, "https://api.securitycenter.microsoft.com", "https://api.security.microsoft.com/.default")},
	{"msal-node 3, certificate, address configured and known", wrongCertificate, msalNodeAt("msal-node-3", thumbprint, own, true, own, own+"/.default")},
	{"msal-node 3, certificate by its SHA-1, built-in names", wrongCertificate, msalNodeAt("msal-node-3", oldThumbprint, "https://login.microsoftonline.com", false, "https://api.security.microsoft.com", "https://"+ownName+"/.default")},
}

// proof is how a program shows who it is.
type proof uint8

const (
	secret        proof = iota
	thumbprint          // a certificate, named by the sum that the library prefers
	oldThumbprint       // by its SHA-1
	chain               // the whole certificate besides
)

// azidentityAt is a program on Microsoft's SDK for Go: its credential, and its
// pipeline with retries. An empty login is the one that the SDK has built in.
func azidentityAt(by proof, login string, trusting bool, api, scope string) func(*testing.T, *world, application) program {
	return func(t *testing.T, w *world, app application) program {
		options := azcore.ClientOptions{Transport: w.http}
		if login != "" {
			options.Cloud = cloud.Configuration{ActiveDirectoryAuthorityHost: login}
		}
		var credential azcore.TokenCredential
		var err error
		if by == secret {
			credential, err = azidentity.NewClientSecretCredential(w.boot.TenantID, app.id, app.secret,
				&azidentity.ClientSecretCredentialOptions{ClientOptions: options, DisableInstanceDiscovery: trusting})
		} else {
			credential, err = azidentity.NewClientCertificateCredential(w.boot.TenantID, app.id, []*x509.Certificate{app.cert}, app.key,
				&azidentity.ClientCertificateCredentialOptions{ClientOptions: options, DisableInstanceDiscovery: trusting, SendCertificateChain: by == chain})
		}
		if err != nil {
			t.Fatal(err)
		}
		bearer := runtime.NewBearerTokenPolicy(credential, []string{scope}, nil)
		pipeline := runtime.NewPipeline("example", "v1.0.0", runtime.PipelineOptions{PerRetry: []policy.Policy{bearer}}, &options)
		return goProgram(t, api, func(r *http.Request) (*http.Response, error) {
			req, err := runtime.NewRequestFromRequest(r)
			if err != nil {
				return nil, err
			}
			return pipeline.Do(req)
		})
	}
}

// oauth2At is a program on Go's own OAuth 2.0 library. Without a login it uses
// the address that the library knows for Microsoft; without a scope it asks for
// the resource, as version 1 has it.
func oauth2At(login, path string, style oauth2.AuthStyle, api, scope string) func(*testing.T, *world, application) program {
	return func(t *testing.T, w *world, app application) program {
		config := clientcredentials.Config{ClientID: app.id, ClientSecret: app.secret, AuthStyle: style, TokenURL: login + "/" + w.boot.TenantID + path}
		if login == "" {
			config.TokenURL = microsoft.AzureADEndpoint(w.boot.TenantID).TokenURL
		}
		if scope == "" {
			config.EndpointParams = url.Values{"resource": {api}}
		} else {
			config.Scopes = []string{scope}
		}
		client := config.Client(context.WithValue(t.Context(), oauth2.HTTPClient, w.http))
		return goProgram(t, api, client.Do)
	}
}

func goProgram(t *testing.T, api string, do func(*http.Request) (*http.Response, error)) program {
	return func(method, path, body string) (answer, error) {
		req, err := http.NewRequestWithContext(t.Context(), method, api+path, strings.NewReader(body))
		if err != nil {
			return answer{}, err
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := do(req)
		if err != nil {
			return answer{}, err
		}
		defer func() { _ = resp.Body.Close() }() // read to its end
		data, err := io.ReadAll(resp.Body)
		a := answer{Status: resp.StatusCode, Headers: make(map[string]string), Body: string(data)}
		for name := range resp.Header {
			a.Headers[strings.ToLower(name)] = resp.Header.Get(name)
		}
		return a, err
	}
}

// msalNodeAt is a program on Microsoft's login library for Node. About a login
// that is not known the library asks Microsoft's own.
func msalNodeAt(library string, by proof, login string, known bool, api, scope string) func(*testing.T, *world, application) program {
	return func(t *testing.T, w *world, app application) program {
		if w.nodes[library] == nil {
			w.nodes[library] = w.startNode(t, library)
		}
		type settings struct {
			ClientID         string   `json:"clientId"`
			ClientSecret     string   `json:"clientSecret,omitempty"`
			Certificate      any      `json:"clientCertificate,omitempty"`
			Authority        string   `json:"authority"`
			KnownAuthorities []string `json:"knownAuthorities,omitempty"`
		}
		auth := settings{ClientID: app.id, Authority: login + "/" + w.boot.TenantID}
		if by == secret {
			auth.ClientSecret = app.secret
		} else {
			auth.Certificate = nodeCertificate(t, by, app.identity)
		}
		if known {
			auth.KnownAuthorities = []string{strings.TrimPrefix(login, "https://")}
		}
		return func(method, path, body string) (answer, error) {
			return w.nodes[library](map[string]any{"auth": auth, "scope": scope, "method": method, "url": api + path, "body": body})
		}
	}
}

// nodeCertificate is a certificate as msal-node's settings have it.
func nodeCertificate(t *testing.T, by proof, who *identity) map[string]string {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(who.key)
	if err != nil {
		t.Fatal(err)
	}
	set := map[string]string{"privateKey": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))}
	if by == oldThumbprint {
		set["thumbprint"] = fmt.Sprintf("%x", sha1.Sum(who.cert.Raw))
	} else {
		set["thumbprintSha256"] = fmt.Sprintf("%x", sha256.Sum256(who.cert.Raw))
	}
	if by == chain {
		set["x5c"] = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: who.cert.Raw}))
	}
	return set
}

// startNode starts the Node program on a version of the library for as long as
// the world lasts, because that takes a second, and returns what sends it calls.
func (w *world) startNode(t *testing.T, library string) func(call any) (answer, error) {
	t.Helper()
	if why := os.Getenv(npmVar); why != "" {
		t.Fatalf("npm has not installed the client libraries; \"make deps\" installs npm: %s", why)
	}
	node := exec.Command("node", "caller.mjs", library)
	node.Dir = filepath.Join(os.Getenv(insideVar), "node")
	if err := os.WriteFile(w.file("cas.pem"), w.cas, 0o600); err != nil {
		t.Fatal(err)
	}
	node.Env = append(os.Environ(), "NODE_EXTRA_CA_CERTS="+w.file("cas.pem"))
	var errs strings.Builder
	node.Stderr = &errs
	stdin, err1 := node.StdinPipe()
	stdout, err2 := node.StdoutPipe()
	if err := errors.Join(err1, err2, node.Start()); err != nil {
		t.Fatal(err)
	}
	w.Cleanup(func() {
		_ = stdin.Close() // that is how it ends
		if err := node.Wait(); err != nil || errs.Len() > 0 {
			w.Errorf("node: %v\n%s", err, &errs)
		}
	})
	lines, calls := json.NewDecoder(stdout), json.NewEncoder(stdin)
	return func(call any) (answer, error) {
		var outcome struct {
			answer
			Error string `json:"error"`
		}
		if err := calls.Encode(call); err != nil {
			return answer{}, err
		}
		if err := lines.Decode(&outcome); err != nil {
			return answer{}, err
		}
		if outcome.Error != "" {
			return answer{}, errors.New(outcome.Error)
		}
		return outcome.answer, nil
	}
}
