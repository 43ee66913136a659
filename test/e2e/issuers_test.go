package e2e

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/simulate"
)

// identity is another issuer: discovery and keys over TLS. It issues what
// Keycloak does.
type identity struct {
	*httptest.Server
	url   string
	key   *rsa.PrivateKey
	down  atomic.Bool
	asked atomic.Int32
}

func newIdentity(t *testing.T, dir string) *identity {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	i := &identity{key: key}
	i.Server = httptest.NewTLSServer(http.HandlerFunc(i.serve))
	t.Cleanup(i.Close)
	i.url = i.URL + "/realms/soc"
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.Certificate().Raw})
	if err := os.WriteFile(filepath.Join(dir, "identity.pem"), ca, 0o600); err != nil {
		t.Fatal(err)
	}
	return i
}

func (i *identity) serve(w http.ResponseWriter, r *http.Request) {
	i.asked.Add(1)
	switch {
	case i.down.Load():
		w.WriteHeader(http.StatusServiceUnavailable)
	case r.URL.Path == "/realms/soc/.well-known/openid-configuration":
		_ = json.NewEncoder(w).Encode(map[string]any{"issuer": i.url, "jwks_uri": i.URL + "/realms/soc/protocol/openid-connect/certs"}) // who asked sees it
	case r.URL.Path == "/realms/soc/protocol/openid-connect/certs":
		w.Header().Set("Cache-Control", "no-cache")
		_ = json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &i.key.PublicKey, KeyID: "k1", Use: "sig", Algorithm: "RS256"}}}) // who asked sees it
	default:
		http.NotFound(w, r)
	}
}

// token signs claims over those that every token has.
func (i *identity) token(t *testing.T, key *rsa.PrivateKey, more map[string]any) string {
	t.Helper()
	claims := map[string]any{"iss": i.url, "aud": []string{"account", "cordon"}, "exp": time.Now().Add(time.Hour).Unix(), "iat": time.Now().Unix(), "typ": "Bearer"}
	for name, v := range more {
		claims[name] = v
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: key}, (&jose.SignerOptions{}).WithType("JWT").WithHeader("kid", "k1"))
	if err != nil {
		t.Fatal(err)
	}
	token, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// as does one request with another token.
func (w *world) as(token, method, path, body string, out any) (int, string) {
	w.Helper()
	defer func(own string) { w.token = own }(w.token)
	w.token = token
	return w.call(method, path, body, out)
}

// TestOtherIssuers has a service account and a user of another issuer at work,
// while a third issuer is down.
func TestOtherIssuers(t *testing.T) {
	confined(t, ordinary, func(t *testing.T) {
		w := newWorld(t)
		id := newIdentity(t, w.dir)
		w.metrics = w.address()
		silent, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = silent.Close() }) // the test is over
		down := "http://" + silent.Addr().String() + "/realms/soc"
		const limit = 2
		w.extra = fmt.Sprintf(`
[[limit]]
application = "%[1]s#app:limited"
per_hour = %[2]d
[[issuer]]
url = %[3]q
audiences = ["cordon"]
[[issuer]]
url = %[1]q
audiences = ["cordon"]
ca_file = %[4]q
role_claims = ["realm_access.roles"]
[issuer.permissions]
"/soc/readers" = ["Machine.Read.All"]
`, id.url, limit, down, filepath.Join(w.dir, "identity.pem"))
		w.startServer()
		if n := id.asked.Load(); n != 0 {
			t.Errorf("the issuer was asked %d times at start", n)
		}

		m := w.simulated()
		realm := func(roles ...string) map[string]any { return map[string]any{"roles": roles} }
		soar := id.token(t, id.key, map[string]any{"azp": "soar", "client_id": "soar", "sub": "5f2b", "preferred_username": "service-account-soar",
			"realm_access": realm("offline_access", "Machine.RestrictExecution", "Machine.Read.All")})
		reader := map[string]any{"azp": "console", "sub": "7c1d", "preferred_username": "ann", "groups": []string{"/soc/readers"}}
		ann := id.token(t, id.key, reader)

		// A token of the silent issuer hangs until its time is over; nobody else waits for that.
		ofDown := &identity{url: down, key: id.key}
		hung := make(chan string, 1)
		go func() {
			req, _ := http.NewRequest(http.MethodGet, w.profile.URL+"/api/machines", nil)
			req.Header.Set("Authorization", "Bearer "+ofDown.token(t, id.key, reader))
			resp, err := w.client.Do(req)
			if err != nil {
				hung <- err.Error()
				return
			}
			text, _ := io.ReadAll(resp.Body)
			_ = resp.Body.Close() // only read
			hung <- fmt.Sprint(resp.StatusCode, string(text))
		}()

		var a struct{ ID, Requestor, RequestSource string }
		path := "/api/machines/" + string(m) + "/restrictCodeExecution"
		if status, text := w.as(soar, http.MethodPost, path, `{"Comment":"by Keycloak"}`, &a); status != http.StatusCreated || a.Requestor != "service-account-soar" || a.RequestSource != "PublicApi" {
			t.Fatalf("restrict: %d %s", status, text)
		}
		if done := w.ended(a.ID); done.Status != "Succeeded" {
			t.Errorf("got %+v", done)
		}
		if status, text := w.as(ann, http.MethodGet, "/cordon/v1/actions/"+a.ID+"/evidence", "", nil); status != http.StatusOK || !strings.Contains(text, `"actor":"`+id.url+`#app:soar"`) {
			t.Errorf("evidence: %d %s", status, text)
		}

		if status, text := w.as(ann, http.MethodGet, "/api/machineactions/"+a.ID, "", nil); status != http.StatusOK {
			t.Errorf("a reader reads: %d %s", status, text)
		}
		if status, text := w.as(ann, http.MethodPost, path, `{"Comment":"x"}`, nil); status != http.StatusForbidden || !strings.Contains(text, "API required roles: Machine.RestrictExecution, application roles: Machine.Read.All.") {
			t.Errorf("a reader restricts: %d %s", status, text)
		}
		other, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		forger := map[string]any{"azp": "soar", "sub": "x", "realm_access": realm("Machine.Read.All")}
		for name, c := range map[string]struct {
			token string
			want  int
			code  string
		}{
			"forged":            {id.token(t, other, forger), 401, "Unauthorized"},
			"for another":       {id.token(t, id.key, map[string]any{"azp": "soar", "sub": "x", "aud": "account"}), 403, "Forbidden"},
			"without roles":     {id.token(t, id.key, map[string]any{"azp": "soar", "sub": "x", "realm_access": realm("admin", "Machine.*")}), 403, "Forbidden"},
			"of nobody we know": {(&identity{url: "https://id.example.org"}).token(t, id.key, forger), 401, "Unauthorized"},
		} {
			status, text := w.as(c.token, http.MethodGet, "/api/machines", "", nil)
			if status != c.want || !strings.Contains(text, `{"error":{"code":"`+c.code+`","message":"`) {
				t.Errorf("%s: %d %s", name, status, text)
			}
		}

		// Users share the limit of the application that they call through.
		for n := range limit + 1 {
			token := id.token(t, id.key, map[string]any{"azp": "limited", "sub": fmt.Sprint("user", n), "groups": []string{"/soc/readers"}})
			want := http.StatusOK
			if n == limit {
				want = http.StatusTooManyRequests
			}
			if status, text := w.as(token, http.MethodGet, "/api/machines", "", nil); status != want {
				t.Errorf("call %d: %d %s", n, status, text)
			}
		}

		if answer := <-hung; !strings.HasPrefix(answer, "401") || !strings.Contains(answer, "cannot be had at the moment") {
			t.Errorf("a token of the silent issuer: %s", answer)
		}
		if n := strings.Count(w.logOf("server"), "an issuer's keys cannot be had"); n != 1 {
			t.Errorf("the log tells %d times that an issuer is down:\n%s", n, w.logOf("server"))
		}
		resp, err := http.Get("http://" + w.metrics + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close() // only read
		for _, line := range []string{fmt.Sprintf("cordon_issuer_refreshes_total{issuer=%q,result=\"failed\"} 1", down), fmt.Sprintf("cordon_issuer_refreshes_total{issuer=%q,result=\"ok\"} 1", id.url)} {
			if !strings.Contains(string(text), line+"\n") {
				t.Errorf("/metrics does not tell %s", line)
			}
		}

		// The known keys outlive the issuer, but not a restart; our own clients do.
		id.down.Store(true)
		if status, text := w.as(ann, http.MethodGet, "/api/machines", "", nil); status != http.StatusOK {
			t.Errorf("the issuer is down: %d %s", status, text)
		}
		w.server.stop(t)
		w.startServer()
		if status, text := w.as(ann, http.MethodGet, "/api/machines", "", nil); status != http.StatusUnauthorized {
			t.Errorf("after a restart: %d %s", status, text)
		}
		if status, text := w.call(http.MethodGet, "/api/machines", "", nil); status != http.StatusOK {
			t.Errorf("our own token: %d %s", status, text)
		}
	})
}

// simulated enrols a machine that does what it is told, until the test ends.
func (w *world) simulated() cordon.MachineID {
	w.Helper()
	transport := w.client.Transport.(*http.Transport)
	fleet, err := simulate.Enrol(w.Context(), simulate.Config{
		Server: w.profile.URL, Roots: transport.TLSClientConfig.RootCAs, Token: w.profile.EnrollmentToken, Now: time.Now, Log: slog.New(slog.DiscardHandler),
		Facts:  func(int) cordon.Facts { return cordon.Facts{DNSName: "sim", OSPlatform: "Ubuntu", BootID: "sim"} },
		Answer: func(context.Context, simulate.Task) (cordon.ReportState, string) { return cordon.ReportSucceeded, "" },
	}, 1)
	if err != nil {
		w.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	work.Go(func() { fleet.Run(ctx) })
	w.Cleanup(func() {
		cancel()
		work.Wait()
	})
	return fleet.Machines()[0]
}
