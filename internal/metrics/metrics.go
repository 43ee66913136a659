// Package metrics counts what a server does, for Prometheus. It owns its
// registry; nothing is registered globally.
//
//	cordon_http_requests_total{area,code}     answered requests: login, api, agent, other
//	cordon_http_request_seconds{area}         time to answer; WebSockets are not in it
//	cordon_actions_created_total{type}        machine actions that were answered 201
//	cordon_actions_ended_total{type,status}   machine actions that came to a terminal status
//	cordon_action_seconds{type,status}        from their creation to that
//	cordon_issuer_refreshes_total{issuer,result}  attempts to fetch the keys of another issuer: ok, failed
//	cordon_agents_connected                   machines with a live connection to this server
package metrics

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/cordon-project/cordon"
)

// Metrics is a server's set of metrics.
type Metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	answers  *prometheus.HistogramVec
	created  *prometheus.CounterVec
	ended    *prometheus.CounterVec
	took     *prometheus.HistogramVec
	keys     *prometheus.CounterVec
}

// New returns metrics in which connected tells the number of live connections.
func New(connected func() int) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "cordon_http_requests_total", Help: "Answered requests."}, []string{"area", "code"}),
		answers: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "cordon_http_request_seconds", Help: "Time to answer a request.", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14),
		}, []string{"area"}),
		created: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "cordon_actions_created_total", Help: "Machine actions created."}, []string{"type"}),
		ended:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "cordon_actions_ended_total", Help: "Machine actions that came to a terminal status."}, []string{"type", "status"}),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "cordon_action_seconds", Help: "Time from the creation of a machine action to its terminal status.", Buckets: prometheus.ExponentialBuckets(0.001, 4, 14),
		}, []string{"type", "status"}),
		keys: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "cordon_issuer_refreshes_total", Help: "Attempts to fetch the keys of another issuer."}, []string{"issuer", "result"}),
	}
	m.registry.MustRegister(m.requests, m.answers, m.created, m.ended, m.took, m.keys,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "cordon_agents_connected", Help: "Machines with a live connection."}, func() float64 { return float64(connected()) }),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Handler serves /metrics.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// Count wraps a handler so that its requests are counted.
func (m *Metrics) Count(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			h.ServeHTTP(w, r) // a connection, not a request; and it needs the writer as it is
			return
		}
		started := time.Now()
		rec := &recorder{ResponseWriter: w, code: http.StatusOK}
		h.ServeHTTP(rec, r)
		a := area(r.URL.Path)
		m.requests.WithLabelValues(a, strconv.Itoa(rec.code)).Inc()
		m.answers.WithLabelValues(a).Observe(time.Since(started).Seconds())
	})
}

// IssuerRefreshed counts how fetching an issuer's keys ended.
func (m *Metrics) IssuerRefreshed(issuer string, err error) {
	result := "ok"
	if err != nil {
		result = "failed"
	}
	m.keys.WithLabelValues(issuer, result).Inc()
}

// area is a label with few values, whatever clients ask for.
func area(path string) string {
	path = strings.ToLower(path)
	switch {
	case strings.HasPrefix(path, "/api/"), strings.HasPrefix(path, "/cordon/"):
		return "api"
	case strings.HasPrefix(path, "/agent/"):
		return "agent"
	case strings.Contains(path, "/oauth2/"), strings.Contains(path, "/discovery/"), strings.Contains(path, "/.well-known/"):
		return "login"
	}
	return "other"
}

type recorder struct {
	http.ResponseWriter
	code int
}

// WriteHeader notes the status code.
func (r *recorder) WriteHeader(code int) {
	r.code = code
	r.ResponseWriter.WriteHeader(code)
}

// Unwrap gives http.ResponseController the writer below.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// Store wraps a store so that the actions which go through it are counted.
func (m *Metrics) Store(s cordon.Store) cordon.Store { return &store{s, m} }

type store struct {
	cordon.Store
	m *Metrics
}

// CreateAction counts what was created.
func (s *store) CreateAction(ctx context.Context, d cordon.ActionDraft) (cordon.Action, error) {
	a, err := s.Store.CreateAction(ctx, d)
	if err == nil {
		s.m.created.WithLabelValues(string(a.Type)).Inc()
	}
	return a, err
}

// ChangeAction counts what has ended by it.
func (s *store) ChangeAction(ctx context.Context, id cordon.ActionID, change cordon.ActionChange) (cordon.Action, error) {
	open := false
	a, err := s.Store.ChangeAction(ctx, id, func(a cordon.Action) (cordon.Action, []cordon.AuditEntry, error) {
		open = !a.Status.Terminal()
		return change(a)
	})
	if err == nil && open && a.Status.Terminal() {
		s.m.ended.WithLabelValues(string(a.Type), string(a.Status)).Inc()
		s.m.took.WithLabelValues(string(a.Type), string(a.Status)).Observe(a.Updated.Sub(a.Created).Seconds())
	}
	return a, err
}
