// Package servercmd wires the server, for real and for simulations: it reads the
// flags of the verbs "server" and "simulate", makes the parts, and hands them to
// each other.
package servercmd

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/alecthomas/kong"
	"github.com/google/uuid"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/agentapi"
	"github.com/cordon-project/cordon/internal/bootstrap"
	"github.com/cordon-project/cordon/internal/cli"
	"github.com/cordon-project/cordon/internal/config"
	"github.com/cordon-project/cordon/internal/cordonapi"
	"github.com/cordon-project/cordon/internal/hub"
	"github.com/cordon-project/cordon/internal/keys"
	"github.com/cordon-project/cordon/internal/mdeapi"
	"github.com/cordon-project/cordon/internal/metrics"
	"github.com/cordon-project/cordon/internal/oauth"
	"github.com/cordon-project/cordon/internal/oidc"
	"github.com/cordon-project/cordon/internal/seal"
	"github.com/cordon-project/cordon/internal/store/sqlite"
	"github.com/cordon-project/cordon/internal/supervised"
)

// Cmd is "cordon server", to be embedded in the grammar of the command.
type Cmd struct {
	Run            serverRun            `cmd:"" default:"withargs" help:"Run the server (the default)."`
	CheckConfig    serverCheckConfig    `cmd:"" help:"Check the configuration and say what is wrong with it."`
	RotateTokenKey serverRotateTokenKey `cmd:"" help:"Make a new key for access tokens before the old one's time."`
}

// Help leads to the flags, which belong to run.
func (Cmd) Help() string {
	return `"cordon server" alone is "cordon server run", whose --help has the flags.`
}

// Vars are what the help of the server's verbs names.
var Vars = kong.Vars{"default_listen": config.DefaultListen}

// configFlags are the flags that stand over the configuration file.
type configFlags struct {
	Config    string   `placeholder:"FILE" help:"Read this configuration file (TOML)."`
	Listen    string   `placeholder:"ADDR" help:"Listen for clients and agents on this address (default ${default_listen})."`
	TLSName   []string `name:"tls-name" placeholder:"NAME" sep:"none" help:"Make the TLS certificate valid for this DNS name or IP address too. May be repeated."`
	TLSCert   string   `name:"tls-cert" placeholder:"FILE" help:"Use this TLS certificate (PEM) instead of the server's own CA."`
	TLSKey    string   `name:"tls-key" placeholder:"FILE" help:"The key of --tls-cert (PEM)."`
	PublicURL string   `name:"public-url" placeholder:"URL" help:"How clients reach the server, if not by the name in their requests."`
}

func (f configFlags) load() (config.Server, error) {
	c, err := config.Load(f.Config, config.Server{Listen: f.Listen, TLSNames: f.TLSName, TLSCert: f.TLSCert, TLSKey: f.TLSKey, PublicURL: f.PublicURL})
	if err != nil {
		return c, badConfig(err)
	}
	if _, err := limitTable(c); err != nil {
		return c, badConfig(err)
	}
	if err := checkIssuers(c); err != nil {
		return c, badConfig(err)
	}
	return c, nil
}

func badConfig(err error) error {
	return &cli.Error{Code: cli.ExitUsage, Message: err.Error(), Hint: "cordon server check-config checks a configuration without starting"}
}

type serverCheckConfig struct{ configFlags }

// Run checks the configuration.
func (c serverCheckConfig) Run(env *cli.Env) error {
	if _, err := c.load(); err != nil {
		return err
	}
	_, err := fmt.Fprintln(env.Stderr, "the configuration is good")
	return err
}

type serverRun struct {
	DataDir string `required:"" type:"path" placeholder:"DIR" help:"Keep the database and the keys in this directory."`
	configFlags
}

// Help tells what a first start does.
func (serverRun) Help() string {
	return `On an empty data directory the first start makes a tenant, the keys, a local CA, an application with all permissions and an enrolment token, and writes them to DIR/bootstrap.json, which is also the profile for the other verbs.`
}

// Run serves until the context ends.
func (c serverRun) Run(ctx context.Context, env *cli.Env) error {
	cfg, err := c.load()
	if err != nil {
		return err
	}
	s, err := Open(ctx, c.DataDir, cfg, env.Log())
	if err != nil {
		return err
	}
	listener, err := s.listen()
	if err != nil {
		return errors.Join(err, s.Close())
	}
	return errors.Join(s.serve(ctx, listener), s.Close())
}

// Server is a server's parts, wired. Who attacks the program in tests attacks
// this one, and so nothing that it serves can be left out there.
type Server struct {
	Store   cordon.Store
	Service *cordon.Service

	dir string
	cfg config.Server
	log *slog.Logger
	// What a simulation has otherwise, see cordon.Service.
	grace    time.Duration
	supports func(cordon.Facts, cordon.ActionType) error

	closers []func() error
	hub     *hub.Hub
	agents  *agentapi.API
	metrics *metrics.Metrics
	limits  *limits
	public  http.Handler
	login   oauth.Config
	cert    keys.Source
	names   names
	tokens  *keys.Tokens
}

// Open wires the server whose data are in dir, and sets it up if it is a new one.
// It listens to nobody yet. Close it.
func Open(ctx context.Context, dir string, cfg config.Server, log *slog.Logger) (*Server, error) {
	s := &Server{dir: dir, cfg: cfg, log: log}
	if err := s.open(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Server) open(ctx context.Context) error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return fmt.Errorf("make data directory: %w", err)
	}
	db, err := sqlite.Open(ctx, filepath.Join(s.dir, "cordon.db"))
	if err != nil {
		return err
	}
	s.closers = append(s.closers, db.Close)
	s.hub = new(hub.Hub)
	s.metrics = metrics.New(s.hub.Len)
	s.Store = s.metrics.Store(db)

	ring, err := s.setUp(ctx)
	if err != nil {
		return err
	}
	tenant, err := bootstrap.Tenant(ctx, s.Store)
	if err != nil {
		return err
	}
	if s.cert, err = s.certificates(ring); err != nil {
		return err
	}
	orderJWK, err := seal.MarshalKey(ring.Order.Public().(ed25519.PublicKey))
	if err != nil {
		return err
	}
	s.Service = &cordon.Service{
		Store: s.Store, Nudge: s.hub.Nudge, NudgeAll: s.hub.NudgeAll, Now: time.Now, NewID: uuid.NewString, NewSecret: bootstrap.NewSecret, TTL: s.cfg.ActionTTL.Duration, DefaultLease: s.cfg.DefaultLease.Duration, Grace: s.grace, Supports: s.supports,
		Seal:        func(o cordon.Order) (string, error) { return seal.Order(o, ring.Order) },
		SealPolicy:  func(p cordon.TrustPolicy) (string, error) { return seal.Policy(p, ring.Order) },
		SealRelease: func(r cordon.Release) (string, error) { return seal.Release(r, ring.Order) },
	}
	if s.limits, err = openLimits(ctx, s.cfg, s.Store, tenant, s.log); err != nil {
		return err
	}
	s.tokens, err = keys.OpenTokens(keys.TokenConfig{Dir: s.dir, Life: s.cfg.TokenKeyLifetime.Duration, Outlive: oauth.Outlive, Now: time.Now, Log: s.log})
	if err != nil {
		return err
	}
	others, err := newIssuers(s.cfg, oidc.Options{Now: time.Now, Log: s.log, Refreshed: s.metrics.IssuerRefreshed})
	if err != nil {
		return badConfig(err)
	}
	s.closers = append(s.closers, others.Close)
	s.login = oauth.Config{
		Others: others.Verify, Guess: s.limits.guess, Tenant: tenant, Keys: s.tokens.Keys, Applications: s.Store, Base: s.base, Own: s.names.own, Address: s.limits.address, Now: time.Now, NewID: uuid.NewString, Log: s.log,
	}
	login, err := oauth.New(s.login)
	if err != nil {
		return err
	}
	s.agents = agentapi.New(agentapi.Config{
		Service: s.Service, Hub: s.hub, Tenant: tenant, OrderJWK: orderJWK, Log: s.log,
		SignTime: func(t seal.Time) (string, error) { return seal.SignTime(t, ring.Order) },
	})
	own := &cordonapi.API{Service: s.Service, Authenticate: login.Authenticate, OrderJWK: orderJWK, Log: s.log}
	api := mdeapi.New(mdeapi.Config{Service: s.Service, Authenticate: login.Authenticate, Limit: s.limits.call, Base: s.base, Now: time.Now, NewID: uuid.NewString, Log: s.log})

	mux := http.NewServeMux()
	s.agents.Register(mux)
	own.Register(mux)
	s.health(mux)
	describe(mux)
	s.public = s.metrics.Count(s.survive(dispatch(mux, api, login)))
	return nil
}

// dispatch sends a request to our own routes, to the Defender-compatible API,
// or to the login addresses. The multiplexer only gets what is ours: it would
// redirect other paths that Defender accepts, and some clients do not follow
// when they post. A doubled slash at the beginning comes from clients that join
// an address and a path without looking.
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

// survive answers a handler's panic with a 500 and says where it came from.
func (s *Server) survive(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if p := recover(); p != nil && p != http.ErrAbortHandler {
				s.log.ErrorContext(r.Context(), "a handler panicked", "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
				http.Error(w, "internal error", http.StatusInternalServerError)
			}
		}()
		h.ServeHTTP(w, r)
	})
}

// setUp makes what a first start has to make, and returns the keys.
func (s *Server) setUp(ctx context.Context) (*keys.Ring, error) {
	isNew, err := bootstrap.IsNew(ctx, s.Store)
	if err != nil {
		return nil, err
	}
	if !isNew {
		return keys.Load(s.dir)
	}
	ring, err := keys.Create(s.dir, time.Now())
	if err != nil {
		return nil, err
	}
	if err := bootstrap.Create(ctx, s.dir, s.Store, uuid.NewString, time.Now()); err != nil {
		return nil, err
	}
	s.log.InfoContext(ctx, "new server set up", "bootstrap", filepath.Join(s.dir, bootstrap.FileName))
	return ring, nil
}

// certificates gives every client the certificate for the host that it asks
// for, and everybody else the one of --tls-cert or of the server's own CA.
func (s *Server) certificates(ring *keys.Ring) (keys.Source, error) {
	given := slices.Concat(localNames, s.cfg.TLSNames)
	last := ring.Certificates(given, time.Now)
	var files []*keys.File
	open := func(cert, key string) (*keys.File, error) {
		f, err := keys.OpenFile(cert, key, time.Now, s.log)
		if err != nil {
			return nil, &cli.Error{Code: cli.ExitUsage, Message: "the TLS certificate cannot be used: " + err.Error(), Hint: "give PEM files that belong together: --tls-cert and --tls-key, or cert and key of a [[certificate]]"}
		}
		return f, nil
	}
	for _, c := range s.cfg.Certificates {
		f, err := open(c.Cert, c.Key)
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	if s.cfg.TLSCert != "" {
		f, err := open(s.cfg.TLSCert, s.cfg.TLSKey)
		if err != nil {
			return nil, err
		}
		last = f.Certificate
		s.names = newNames(given, s.cfg.PublicURL, append(files, f)...)
	} else {
		s.names = newNames(given, s.cfg.PublicURL, files...)
	}
	return keys.Choose(files, last), nil
}

// base is the scheme and host that the client called.
func (s *Server) base(r *http.Request) string {
	if s.cfg.PublicURL != "" {
		return strings.TrimRight(s.cfg.PublicURL, "/")
	}
	return "https://" + r.Host
}

// health answers whether the process lives, and whether it can do its work.
func (s *Server) health(mux *http.ServeMux) {
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("ok\n")) // who asked has gone
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if _, err := s.Store.Setting(r.Context(), cordon.TenantSetting); err != nil {
			http.Error(w, "the store does not answer", http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("ready\n")) // who asked has gone
	})
}

// documents describe what the server speaks (OpenAPI 3.1), by their addresses.
var documents = map[string][]byte{
	"/openapi/cordon.yaml":   cordonapi.OpenAPI,
	"/openapi/defender.yaml": mdeapi.OpenAPI,
	"/openapi/login.yaml":    oauth.OpenAPI,
}

// describe serves the documents to everybody: they are in the source code too.
func describe(mux *http.ServeMux) {
	for path, text := range documents {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/yaml") // RFC 9512
			w.Header().Set("X-Content-Type-Options", "nosniff")
			_, _ = w.Write(text) // who asked has gone
		})
	}
}

// sweepEvery is how often the server looks for actions whose time is over and
// for connections that have fallen silent.
const (
	sweepEvery    = 5 * time.Second
	presenceEvery = 30 * time.Second
	stopWithin    = 20 * time.Second
)

// listen takes the address, so that clients can connect from now on.
func (s *Server) listen() (net.Listener, error) {
	listener, err := net.Listen("tcp", s.cfg.Listen)
	if err != nil {
		return nil, &cli.Error{Code: cli.ExitUnavailable, Message: err.Error(), Hint: "choose another address with --listen"}
	}
	if err := bootstrap.SetURL(s.dir, s.url(listener)); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return listener, nil
}

// Public returns what clients and agents connect to, with ServeTLS: all addresses,
// and how long and how much it takes from each connection.
func (s *Server) Public() *http.Server {
	return &http.Server{
		Handler: s.public, TLSConfig: &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: s.cert},
		ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 2 * time.Minute, WriteTimeout: 2 * time.Minute, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug), // clients that hang up in the handshake are no news
	}
}

// Disconnect ends the connections of agents, which an http.Server has no hold on,
// and waits until what they have begun is done.
func (s *Server) Disconnect() {
	s.hub.Close()
	s.agents.Wait()
}

func (s *Server) serve(ctx context.Context, listener net.Listener) error {
	var work sync.WaitGroup
	defer work.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	failed := make(chan error, 2)
	public := s.Public()
	work.Go(func() {
		if err := public.ServeTLS(listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
			failed <- err
		}
	})
	ops, err := s.serveMetrics(&work, failed)
	if err != nil {
		return errors.Join(err, public.Close())
	}
	work.Go(func() { s.agents.Sweep(ctx, presenceEvery) })
	work.Go(func() {
		every(ctx, min(sweepEvery, max(s.cfg.ActionTTL.Duration/4, 100*time.Millisecond)), func() { s.expire(ctx) })
	})
	work.Go(func() { every(ctx, saveLimitsEvery, func() { s.limits.keep(ctx) }) })
	work.Go(func() {
		s.tend(ctx)
		every(ctx, keys.TendEvery, func() { s.tend(ctx) })
	})
	s.log.InfoContext(ctx, "listening", "url", s.url(listener))
	supervised.Ready(s.log)

	select {
	case err = <-failed:
	case <-ctx.Done():
		s.log.Info("stopping")
	}
	cancel()
	s.Disconnect()
	stopCtx, done := context.WithTimeout(context.Background(), stopWithin)
	defer done()
	return errors.Join(err, public.Shutdown(stopCtx), ops.Shutdown(stopCtx), s.limits.save(stopCtx))
}

// serveMetrics starts the listener for those who run the server. That its
// default address is taken is no reason not to serve.
func (s *Server) serveMetrics(work *sync.WaitGroup, failed chan<- error) (*http.Server, error) {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", s.metrics.Handler())
	s.health(mux)
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	addr := s.cfg.MetricsListen
	if addr == config.MetricsOff {
		return srv, nil
	}
	if addr == "" {
		addr = config.DefaultMetrics
	}
	l, err := net.Listen("tcp", addr)
	if err != nil && s.cfg.MetricsListen == "" {
		s.log.Warn("metrics are not served: the default address is taken", "err", err)
		return srv, nil
	}
	if err != nil {
		return nil, &cli.Error{Code: cli.ExitUnavailable, Message: err.Error(), Hint: "choose another metrics_listen in the configuration file"}
	}
	s.log.Info("serving metrics", "addr", l.Addr().String())
	work.Go(func() {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			failed <- err
		}
	})
	return srv, nil
}

// every calls f each time that the interval is over, until ctx ends.
func every(ctx context.Context, interval time.Duration, f func()) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			f()
		}
	}
}

// expire ends the actions whose time is over.
func (s *Server) expire(ctx context.Context) {
	n, err := s.Service.ExpireDue(ctx)
	if n > 0 {
		s.log.InfoContext(ctx, "actions timed out", "count", n)
	}
	if err != nil && ctx.Err() == nil {
		s.log.ErrorContext(ctx, "actions could not be expired", "err", err)
	}
}

// tend looks after the token keys.
func (s *Server) tend(ctx context.Context) {
	if err := s.tokens.Tend(); err != nil {
		s.log.ErrorContext(ctx, "the token keys stay as they are", "err", err)
	}
}

// url is how the server is reached from this machine.
func (s *Server) url(l net.Listener) string {
	if s.cfg.PublicURL != "" {
		return strings.TrimRight(s.cfg.PublicURL, "/")
	}
	host, port, err := net.SplitHostPort(l.Addr().String())
	if ip := net.ParseIP(host); err != nil || ip == nil || ip.IsUnspecified() || ip.IsLoopback() {
		host = "localhost"
	}
	if port == "443" {
		return "https://" + host
	}
	return "https://" + net.JoinHostPort(host, port)
}

// Close gives back what Open took. Nothing may be served any more.
func (s *Server) Close() error {
	var all error
	for i := len(s.closers) - 1; i >= 0; i-- {
		all = errors.Join(all, s.closers[i]())
	}
	return all
}
