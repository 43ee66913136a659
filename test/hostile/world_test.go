// Package hostile attacks a live server: everything that the program serves,
// wired as cmd/cordon/servercmd wires it, behind a real TLS listener on loopback, with the
// real store. It is asked in every wrong way that can be thought of, and must
// never fail (no 500, no panic), stop answering others, grow without bound, or
// keep a goroutine when all is over.
package hostile

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/agentapi"
	"github.com/cordon-project/cordon/internal/bootstrap"
	"github.com/cordon-project/cordon/internal/cordonapi"
	"github.com/cordon-project/cordon/internal/hub"
	"github.com/cordon-project/cordon/internal/keys"
	"github.com/cordon-project/cordon/internal/mdeapi"
	"github.com/cordon-project/cordon/internal/metrics"
	"github.com/cordon-project/cordon/internal/oauth"
	"github.com/cordon-project/cordon/internal/seal"
	"github.com/cordon-project/cordon/internal/store/sqlite"
)

// limits are those of cmd/cordon/servercmd's listener, as far as they are about time.
type limits struct{ header, request, answer, idle time.Duration }

var (
	// asServed is what cmd/cordon/servercmd allows.
	asServed = limits{10 * time.Second, time.Minute, 2 * time.Minute, 2 * time.Minute}
	// impatient is the same for those who cannot wait: what is slow is seen to be
	// ended, in a test's time.
	impatient = limits{2 * time.Second, 2 * time.Second, 2 * time.Second, time.Minute}
)

const maxHeader = 64 << 10 // bytes, as in cmd/cordon/servercmd

// world is a live server with what an attacker may know of it.
type world struct {
	t      testing.TB
	addr   string
	tenant string
	app    bootstrap.File
	token  string // with all permissions
	reader string // with the permission to read
	tls    *tls.Config
	http   *http.Client // an honest client
	log    journal

	server   *http.Server
	hub      *hub.Hub
	store    *sqlite.Store
	service  *cordon.Service
	enrolled int            // machines
	open     sync.WaitGroup // connections
}

// machines are the DNS names of the enrolled machines.
var machines = []string{"web-01.example.org", "db-01.example.org", "twin.example.org", "twin.example.org"}

// newWorld starts a server. When the test ends it is stopped, and nothing of it
// may be left.
func newWorld(t testing.TB, l limits) *world {
	t.Helper()
	before := runtime.NumGoroutine()
	dir := t.TempDir()
	w := &world{t: t, hub: new(hub.Hub)}
	log := slog.New(slog.NewTextHandler(&w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ring, err := keys.Create(dir, time.Now())
	must(err)
	w.store, err = sqlite.Open(t.Context(), filepath.Join(dir, "cordon.db"))
	must(err)
	must(bootstrap.Create(t.Context(), dir, w.store, uuid.NewString, time.Now()))
	file, err := os.ReadFile(filepath.Join(dir, bootstrap.FileName))
	must(err)
	must(json.Unmarshal(file, &w.app))
	w.tenant = w.app.TenantID
	w.enrol(machines...)

	w.service = &cordon.Service{
		Store: w.store, Nudge: w.hub.Nudge, NudgeAll: w.hub.NudgeAll, Now: time.Now, NewID: uuid.NewString, NewSecret: bootstrap.NewSecret, TTL: time.Hour,
		Seal:        func(o cordon.Order) (string, error) { return seal.Order(o, ring.Order) },
		SealPolicy:  func(p cordon.TrustPolicy) (string, error) { return seal.Policy(p, ring.Order) },
		SealRelease: func(r cordon.Release) (string, error) { return seal.Release(r, ring.Order) },
	}
	base := func(r *http.Request) string { return "https://" + r.Host }
	tokens, err := keys.OpenTokens(keys.TokenConfig{Dir: dir, Life: 24 * time.Hour, Outlive: oauth.Outlive, Now: time.Now, Log: log})
	must(err)
	login, err := oauth.New(oauth.Config{
		Tenant: w.tenant, Keys: tokens.Keys, Applications: w.store, Base: base, Now: time.Now, NewID: uuid.NewString, Log: log,
	})
	must(err)
	jwk, err := seal.MarshalKey(ring.Order.Public().(ed25519.PublicKey))
	must(err)
	own := http.NewServeMux()
	agentapi.New(agentapi.Config{
		Service: w.service, Hub: w.hub, Tenant: w.tenant, OrderJWK: jwk, Log: log,
		SignTime: func(t seal.Time) (string, error) { return seal.SignTime(t, ring.Order) },
	}).Register(own)
	(&cordonapi.API{Service: w.service, Authenticate: login.Authenticate, OrderJWK: jwk, Log: log}).Register(own)
	api := mdeapi.New(mdeapi.Config{Service: w.service, Authenticate: login.Authenticate, Base: base, Now: time.Now, NewID: uuid.NewString, Log: log})

	w.server = &http.Server{
		Handler:           metrics.New(w.hub.Len).Count(dispatch(own, api, login)),
		TLSConfig:         &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: ring.Certificates([]string{"localhost"}, time.Now)},
		ReadHeaderTimeout: l.header, ReadTimeout: l.request, WriteTimeout: l.answer, IdleTimeout: l.idle, MaxHeaderBytes: maxHeader,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		ConnState: func(_ net.Conn, s http.ConnState) {
			switch s {
			case http.StateNew:
				w.open.Add(1)
			case http.StateClosed, http.StateHijacked:
				w.open.Done()
			}
		},
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	w.addr = listener.Addr().String()
	served := make(chan error, 1)
	go func() { served <- w.server.ServeTLS(listener, "", "") }()

	ca, err := os.ReadFile(filepath.Join(dir, keys.CAFile))
	must(err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	w.tls = &tls.Config{RootCAs: roots, ServerName: "localhost", ClientSessionCache: tls.NewLRUClientSessionCache(0)}
	transport := &http.Transport{TLSClientConfig: w.tls.Clone(), ForceAttemptHTTP2: true}
	w.http = &http.Client{Transport: transport, Timeout: patience}
	app, err := w.store.Application(t.Context(), w.app.ClientID)
	must(err)
	app.ClientID, app.Permissions = uuid.NewString(), []cordon.Permission{cordon.MachineReadAll}
	must(w.store.PutApplication(t.Context(), app))
	w.token, w.reader = w.login(w.app.ClientID), w.login(app.ClientID)

	t.Cleanup(func() {
		transport.CloseIdleConnections()
		w.hub.Close()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := w.server.Shutdown(ctx); err != nil {
			t.Errorf("the server does not come to an end: %v", err)
		}
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("serve: %v", err)
		}
		w.open.Wait()
		if err := w.store.Close(); err != nil {
			t.Error(err)
		}
		if t, ok := t.(*testing.T); ok { // a fuzzer has others of its own
			noGoroutineLeft(t, before)
		}
		w.log.check(t)
	})
	return w
}

// dispatch is that of cmd/cordon/servercmd.
func dispatch(own, api, login http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.URL.Path = "/" + strings.TrimLeft(r.URL.Path, "/")
		first, _, _ := strings.Cut(strings.ToLower(r.URL.Path[1:]), "/")
		switch first {
		case "api":
			api.ServeHTTP(w, r)
		case "agent", "cordon", "healthz", "openapi", "readyz":
			own.ServeHTTP(w, r)
		default:
			login.ServeHTTP(w, r)
		}
	})
}

// enrol adds a machine of each name.
func (w *world) enrol(names ...string) {
	w.t.Helper()
	for _, name := range names {
		w.enrolled++
		seed := sha256.Sum256([]byte{byte(w.enrolled)})
		key := ed25519.NewKeyFromSeed(seed[:]).Public().(ed25519.PublicKey)
		_, err := w.store.EnrolMachine(w.t.Context(), cordon.Machine{
			ID: cordon.IDOfKey(key), DeviceID: cordon.DeviceIDOfKey(key), Key: key, FirstSeen: time.Now(), LastSeen: time.Now(),
			Facts: cordon.Facts{DNSName: name, OSPlatform: "Debian", OSVersion: "12", AgentVersion: "1.2.3"},
		})
		if err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *world) login(client string) string {
	w.t.Helper()
	r, err := w.http.PostForm("https://"+w.addr+"/"+w.tenant+"/oauth2/v2.0/token", url.Values{
		"grant_type": {"client_credentials"}, "client_id": {client}, "client_secret": {w.app.ClientSecret}, "scope": {"https://api.securitycenter.microsoft.com/.default"},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = r.Body.Close() }() // only read
	var answer struct {
		Token string `json:"access_token"`
	}
	if err := json.NewDecoder(r.Body).Decode(&answer); err != nil || answer.Token == "" {
		w.t.Fatalf("no token: %d %v", r.StatusCode, err)
	}
	return answer.Token
}

// honest makes a good request as somebody would who has nothing to do with it all.
func (w *world) honest() {
	w.t.Helper()
	r, _ := http.NewRequest("GET", "https://"+w.addr+"/api/machines?$top=1", nil) // well-formed
	r.Header.Set("Authorization", "Bearer "+w.token)
	answer, err := w.http.Do(r)
	if err != nil {
		w.t.Fatalf("the server has no time for others: %v", err)
	}
	defer func() { _ = answer.Body.Close() }() // only read
	if body, err := io.ReadAll(answer.Body); err != nil || answer.StatusCode != http.StatusOK {
		w.t.Fatalf("the server has no answer for others: %d %s %v", answer.StatusCode, body, err)
	}
}

// dial opens a TLS connection on which anything can be sent.
func (w *world) dial() (*tls.Conn, error) {
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", w.addr, w.tls)
	if err != nil {
		return nil, err
	}
	return c, c.SetDeadline(time.Now().Add(patience))
}

// patience is how long an attacker waits, so that a server that hangs does not
// hang the test.
const patience = 30 * time.Second

// noGoroutineLeft waits until there are no more goroutines than before. The
// last ones end a moment after what they did, and nothing tells when.
func noGoroutineLeft(t *testing.T, before int) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<20)
			t.Errorf("%d goroutines, there were %d:\n%s", runtime.NumGoroutine(), before, stacks[:runtime.Stack(stacks, true)])
			return
		}
	}
}

// journal is a server's log, of which only the bad news are kept.
type journal struct {
	mu  sync.Mutex
	bad bytes.Buffer
}

func (j *journal) Write(line []byte) (int, error) {
	if bytes.Contains(line, []byte("level=ERROR")) || bytes.Contains(line, []byte("panic")) {
		j.mu.Lock()
		defer j.mu.Unlock()
		j.bad.Write(line)
	}
	return len(line), nil
}

func (j *journal) check(t testing.TB) {
	t.Helper()
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.bad.Len() > 0 {
		t.Errorf("the server had trouble:\n%s", j.bad.String())
	}
}
