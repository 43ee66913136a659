// Package hostile attacks a live server: that of the program, with all that it
// serves, behind a real TLS listener on loopback. It is asked in every wrong way that can be thought of, and must
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
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/cmd/cordon/servercmd"
	"github.com/cordon-project/cordon/internal/bootstrap"
	"github.com/cordon-project/cordon/internal/config"
	"github.com/cordon-project/cordon/internal/keys"
)

// pace is how long the server waits for a client.
type pace func(*http.Server)

// asServed is the program's own.
func asServed(*http.Server) {}

// impatient is for those who cannot wait: what is slow is seen to be ended, in a
// test's time.
func impatient(s *http.Server) {
	s.ReadHeaderTimeout, s.ReadTimeout, s.WriteTimeout, s.IdleTimeout = 2*time.Second, 2*time.Second, 2*time.Second, time.Minute
}

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

	store    cordon.Store
	service  *cordon.Service
	enrolled int            // machines
	open     sync.WaitGroup // connections
}

// machines are the DNS names of the enrolled machines.
var machines = []string{"web-01.example.org", "db-01.example.org", "twin.example.org", "twin.example.org"}

// newWorld starts a server. When the test ends it is stopped, and nothing of it
// may be left.
func newWorld(t testing.TB, p pace) *world {
	t.Helper()
	before := runtime.NumGoroutine()
	dir := t.TempDir()
	w := &world{t: t}
	log := slog.New(slog.NewTextHandler(&w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	// No limit is so low that it would stand before what is attacked.
	cfg, err := config.Load("", config.Server{})
	must(err)
	cfg.Limits = []config.Limit{{PerMinute: 1_000_000}}
	s, err := servercmd.Open(t.Context(), dir, cfg, log)
	must(err)
	w.store, w.service = s.Store, s.Service
	file, err := os.ReadFile(filepath.Join(dir, bootstrap.FileName))
	must(err)
	must(json.Unmarshal(file, &w.app))
	w.tenant = w.app.TenantID
	w.enrol(machines...)

	public := s.Public()
	p(public)
	public.ConnState = func(_ net.Conn, s http.ConnState) {
		switch s {
		case http.StateNew:
			w.open.Add(1)
		case http.StateClosed, http.StateHijacked:
			w.open.Done()
		}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	w.addr = listener.Addr().String()
	served := make(chan error, 1)
	go func() { served <- public.ServeTLS(listener, "", "") }()

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
		s.Disconnect()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := public.Shutdown(ctx); err != nil {
			t.Errorf("the server does not come to an end: %v", err)
		}
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("serve: %v", err)
		}
		w.open.Wait()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if t, ok := t.(*testing.T); ok { // a fuzzer has others of its own
			noGoroutineLeft(t, before)
		}
		w.log.check(t)
	})
	return w
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
