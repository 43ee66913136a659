package servercmd

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestDispatch(t *testing.T) {
	name := func(n string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = w.Write([]byte(n + " " + r.URL.Path)) // a recorder does not fail
		})
	}
	h := dispatch(name("own"), name("api"), name("login"))
	for path, want := range map[string]string{
		"/api/machines":            "api /api/machines",
		"//api/machines":           "api /api/machines",
		"/API/v1.0/machines":       "api /API/v1.0/machines",
		"/api":                     "api /api",
		"/apis":                    "login /apis",
		"/agent/v1/sync":           "own /agent/v1/sync",
		"/cordon/v1/actions/1":     "own /cordon/v1/actions/1",
		"/healthz":                 "own /healthz",
		"/openapi/defender.yaml":   "own /openapi/defender.yaml",
		"/tenant/oauth2/token":     "login /tenant/oauth2/token",
		"//tenant/oauth2/token":    "login /tenant/oauth2/token",
		"/":                        "login /",
		"/common/discovery/x/api/": "login /common/discovery/x/api/",
	} {
		rec := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.URL.Path = path
		h.ServeHTTP(rec, r)
		if rec.Body.String() != want {
			t.Errorf("%s: went to %q, want %q", path, rec.Body, want)
		}
	}
}

func TestDocuments(t *testing.T) {
	mux := http.NewServeMux()
	describe(mux)
	for path, text := range documents {
		rec := httptest.NewRecorder()
		mux.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, path, nil))
		if rec.Code != http.StatusOK || rec.Body.String() != string(text) || rec.Header().Get("Content-Type") != "application/yaml" || !strings.Contains(string(text), path) {
			t.Errorf("%s: %d, %s, %d bytes", path, rec.Code, rec.Header().Get("Content-Type"), rec.Body.Len())
		}
	}
}

func TestPanicsAreSaid(t *testing.T) {
	var log strings.Builder
	s := &Server{log: slog.New(slog.NewTextHandler(&log, nil))}
	rec := httptest.NewRecorder()
	s.survive(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("oops") })).ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/x", nil))
	if rec.Code != http.StatusInternalServerError || strings.Contains(rec.Body.String(), "oops") || !strings.Contains(log.String(), "panic=oops") {
		t.Errorf("%d %q; log %s", rec.Code, rec.Body, log.String())
	}
}

func TestNames(t *testing.T) {
	n := newNames(append([]string{"Cordon.example.org", "192.0.2.1", "2001:DB8::1"}, localNames...), "https://public.example.org:444/")
	for host, want := range map[string]bool{
		"localhost": true, "127.0.0.1": true, "::1": true, "cordon.example.org": true, "CORDON.example.org.": true, "192.0.2.1": true, "2001:db8:0::1": true,
		"public.example.org": true, "": false, ".": false, "example.org": false, "x.cordon.example.org": false, "192.0.2.2": false, "::ffff:192.0.2.1": true,
	} {
		if got := n.own(host); got != want {
			t.Errorf("%q is ours: %v", host, got)
		}
	}
	if newNames(nil, "").own("") {
		t.Error("a server without names goes by none")
	}
}
