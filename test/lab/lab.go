// Package lab is a server for agents in one process, for tests: the real edge,
// hub and service over a store in memory, behind TLS.
package lab

import (
	"cmp"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/agentapi"
	"github.com/cordon-project/cordon/internal/hub"
	"github.com/cordon-project/cordon/internal/seal"
	"github.com/cordon-project/cordon/internal/testkit/memnet"
	"github.com/cordon-project/cordon/internal/testkit/memstore"
)

// Token is the server's enrolment token.
const Token = "enrol-me"

// Tenant is the server's tenant.
const Tenant = "11111111-2222-4333-8444-555555555555"

// Admin may do everything.
var Admin = cordon.Caller{ID: "app", DisplayName: "SOAR", Permissions: cordon.AllPermissions(), Source: "PublicApi"}

// Options say how a server differs from the usual one.
type Options struct {
	Now     func() time.Time                     // its clock; nil: the real one
	Front   func(next http.Handler) http.Handler // what stands before it; nil: nothing
	Network *memnet.Network                      // nil: a port on the loopback
	Fault   func(method string, done bool) error // see [memstore.Store.Hook]
}

// Server is a running server.
type Server struct {
	Store    *memstore.Store
	Service  *cordon.Service
	Hub      *hub.Hub
	API      *agentapi.API
	OrderKey ed25519.PrivateKey
	URL      string
	CAFile   string
	Client   *http.Client // trusts the server
	Log      *slog.Logger
	Bell     Bell // rings after every change in the store

	t testing.TB
}

// Start starts a server that ends with the test.
func Start(t testing.TB, opts Options) *Server {
	t.Helper()
	if opts.Now == nil {
		opts.Now = time.Now
	}
	s := &Server{t: t, Store: new(memstore.Store), Hub: new(hub.Hub), OrderKey: ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)), Log: Logger(t)}
	s.Store.Hook = func(method string, done bool) error {
		if opts.Fault != nil {
			if err := opts.Fault(method, done); err != nil {
				return err
			}
		}
		if done {
			s.Bell.Ring()
		}
		return nil
	}
	var n atomic.Int64
	s.Service = &cordon.Service{
		Store: s.Store, Nudge: s.Hub.Nudge, Now: opts.Now, TTL: cordon.DefaultTTL,
		Seal:  func(o cordon.Order) (string, error) { return seal.Order(o, s.OrderKey) },
		NewID: func() string { return fmt.Sprintf("00000000-0000-4000-8000-%012d", n.Add(1)) },
	}
	hash := sha256.Sum256([]byte(Token))
	if err := s.Store.PutSettings(t.Context(), map[string][]byte{cordon.EnrollmentTokenSetting: hash[:]}); err != nil {
		t.Fatal(err)
	}
	s.API = agentapi.New(agentapi.Config{
		Service: s.Service, Hub: s.Hub, Tenant: Tenant, OrderJWK: s.OrderJWK(), Log: s.Log,
		SignTime: func(t seal.Time) (string, error) { return seal.SignTime(t, s.OrderKey) },
	})
	mux := http.NewServeMux()
	s.API.Register(mux)
	var handler http.Handler = mux
	if opts.Front != nil {
		handler = opts.Front(mux)
	}
	srv := httptest.NewUnstartedServer(handler)
	srv.Config.ErrorLog = slog.NewLogLogger(s.Log.Handler(), slog.LevelDebug)
	if opts.Network != nil {
		_ = srv.Listener.Close() // it was never used
		srv.Listener = opts.Network
	}
	srv.StartTLS()
	if opts.Network != nil {
		srv.Client().Transport.(*http.Transport).DialContext = opts.Network.DialContext
	}
	t.Cleanup(func() {
		s.Hub.Close()
		srv.CloseClientConnections()
		srv.Close()
	})
	s.URL, s.Client = srv.URL, srv.Client()
	s.CAFile = filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(s.CAFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return s
}

// OrderJWK returns the public half of the order key.
func (s *Server) OrderJWK() []byte {
	jwk, err := seal.MarshalKey(s.OrderKey.Public().(ed25519.PublicKey))
	if err != nil {
		s.t.Fatal(err)
	}
	return jwk
}

// Request creates an action.
func (s *Server) Request(m cordon.MachineID, typ cordon.ActionType) cordon.Action {
	s.t.Helper()
	machine, err := s.Store.Machine(s.t.Context(), m)
	if err != nil {
		s.t.Fatal(err)
	}
	a, err := s.Service.Request(s.t.Context(), Admin, machine, typ, "ransomware")
	if err != nil {
		s.t.Fatal(err)
	}
	return a
}

// Action returns an action as it stands.
func (s *Server) Action(id cordon.ActionID) cordon.Action {
	s.t.Helper()
	a, err := s.Store.Action(s.t.Context(), id)
	if err != nil {
		s.t.Fatal(err)
	}
	return a
}

// Await waits until an action has a status, and fails if it ends with another.
func (s *Server) Await(id cordon.ActionID, want cordon.Status) cordon.Action {
	s.t.Helper()
	s.Bell.Await(s.t, fmt.Sprintf("action %s is %s", id, want), func() bool {
		a := s.Action(id)
		if a.Status.Terminal() && a.Status != want {
			s.t.Fatalf("action %s is %s (%s), want %s", id, a.Status, a.Reason, want)
		}
		return a.Status == want
	})
	return s.Action(id)
}

// Evidence lists the audit entries of a machine as "kind status detail".
func (s *Server) Evidence(m cordon.MachineID) []string {
	var lines []string
	for _, e := range s.Store.AuditLog() {
		if e.Machine == m {
			lines = append(lines, fmt.Sprintf("%s %s %s", e.Kind, e.Status, e.Detail))
		}
	}
	return lines
}

// Bell tells those who wait for something that it may have happened. The zero
// value is ready.
type Bell struct {
	Patience time.Duration // how long Await waits; 0: a minute, which only a test that fails takes

	mu   sync.Mutex
	rung chan struct{}
}

// Ring wakes everybody who waits.
func (b *Bell) Ring() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.rung != nil {
		close(b.rung)
		b.rung = nil
	}
}

func (b *Bell) next() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.rung == nil {
		b.rung = make(chan struct{})
	}
	return b.rung
}

// Await waits until cond is true, looking whenever the bell rings.
func (b *Bell) Await(t testing.TB, what string, cond func() bool) {
	t.Helper()
	timeout := time.NewTimer(cmp.Or(b.Patience, time.Minute))
	defer timeout.Stop()
	for {
		next := b.next()
		if cond() {
			return
		}
		select {
		case <-next:
		case <-timeout.C:
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// Logger writes to the test's log, for as long as there is a test. A fuzz target
// has none.
func Logger(t testing.TB) *slog.Logger {
	if _, ok := t.(*testing.F); ok {
		return slog.New(slog.DiscardHandler)
	}
	w := &testLog{t: t}
	t.Cleanup(func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.t = nil
	})
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

type testLog struct {
	mu sync.Mutex
	t  testing.TB
}

func (w *testLog) Write(line []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.t == nil {
		return len(line), nil
	}
	return w.t.Output().Write(line)
}
