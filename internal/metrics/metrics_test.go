package metrics

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/cordon-project/cordon"
)

func (m *Metrics) text(t *testing.T) string {
	t.Helper()
	rec := httptest.NewRecorder()
	m.Handler().ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	return rec.Body.String()
}

func TestRequests(t *testing.T) {
	m := New(func() int { return 3 })
	h := m.Count(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/api/missing" {
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	for _, path := range []string{"/api/machines", "/API/v1.0/machines", "/api/missing", "/agent/v1/sync", "/cordon/v1/x", "/t/oauth2/v2.0/token", "/what/ever"} {
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, path, nil))
	}
	upgrade := httptest.NewRequest(http.MethodGet, "/agent/v1/connect", nil)
	upgrade.Header.Set("Upgrade", "websocket")
	h.ServeHTTP(httptest.NewRecorder(), upgrade)
	text := m.text(t)
	for _, line := range []string{
		`cordon_http_requests_total{area="api",code="200"} 3`, `cordon_http_requests_total{area="api",code="404"} 1`,
		`cordon_http_requests_total{area="agent",code="200"} 1`, `cordon_http_requests_total{area="login",code="200"} 1`,
		`cordon_http_requests_total{area="other",code="200"} 1`, `cordon_agents_connected 3`,
	} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("%s is not told:\n%s", line, text)
		}
	}
}

func TestIssuers(t *testing.T) {
	m := New(func() int { return 0 })
	m.IssuerRefreshed("https://id.example.org", nil)
	for range 2 {
		m.IssuerRefreshed("https://id.example.org", errors.New("down"))
	}
	text := m.text(t)
	for _, line := range []string{
		`cordon_issuer_refreshes_total{issuer="https://id.example.org",result="ok"} 1`,
		`cordon_issuer_refreshes_total{issuer="https://id.example.org",result="failed"} 2`,
	} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("%s is not told:\n%s", line, text)
		}
	}
}

// oneAction is a store with one action in it.
type oneAction struct {
	cordon.Store
	a cordon.Action
}

func (s *oneAction) CreateAction(_ context.Context, d cordon.ActionDraft) (cordon.Action, error) {
	s.a = d.Open(1, "host")
	return s.a, nil
}

func (s *oneAction) ChangeAction(_ context.Context, _ cordon.ActionID, change cordon.ActionChange) (cordon.Action, error) {
	a, _, err := change(s.a)
	if err == nil {
		s.a = a
	}
	return a, err
}

// An action's end is counted once, however often it is changed after it.
func TestActions(t *testing.T) {
	m := New(func() int { return 0 })
	s := m.Store(&oneAction{})
	now := time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC)
	if _, err := s.CreateAction(t.Context(), cordon.ActionDraft{ID: "a", Type: cordon.RestrictCodeExecution, Created: now, Expires: now.Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	for _, state := range []cordon.ReportState{cordon.ReportInProgress, cordon.ReportSucceeded, cordon.ReportSucceeded} {
		if _, err := s.ChangeAction(t.Context(), "a", func(a cordon.Action) (cordon.Action, []cordon.AuditEntry, error) {
			return a.Apply(cordon.Report{State: state}, now.Add(2*time.Second)), nil, nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	text := m.text(t)
	for _, line := range []string{
		`cordon_actions_created_total{type="RestrictCodeExecution"} 1`,
		`cordon_actions_ended_total{status="Succeeded",type="RestrictCodeExecution"} 1`,
		`cordon_action_seconds_sum{status="Succeeded",type="RestrictCodeExecution"} 2`,
	} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("%s is not told:\n%s", line, text)
		}
	}
}
