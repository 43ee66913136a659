package cordonapi_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cordon-project/cordon/internal/cordonapi"
)

// office is a world with two applications, of which the first administers.
func office(t *testing.T) (w *world, admin, other cordonapi.App) {
	w = newWorld(t)
	ids, secrets := 0, 0
	w.NewID = func() string { ids++; return fmt.Sprintf("0aa00000-0000-4000-8000-%012d", ids) }
	w.NewSecret = func() string { secrets++; return fmt.Sprintf("%dxx-secret", secrets) }
	var apps [2]cordonapi.App
	for i, body := range []string{`{"displayName":"Admin","permissions":["Application.ReadWrite.All"]}`, `{"displayName":"SOAR","permissions":["machine.scan"]}`} {
		r, text := w.send(http.MethodPost, "/cordon/v1/apps", body)
		if err := json.Unmarshal([]byte(text), &apps[i]); err != nil || r.StatusCode != http.StatusCreated || apps[i].SecretText == "" {
			t.Fatalf("%s %s", r.Status, text)
		}
	}
	return w, apps[0], apps[1]
}

func (w *world) send(method, path, body string) (*http.Response, string) {
	w.t.Helper()
	rec := httptest.NewRecorder()
	r := httptest.NewRequestWithContext(w.t.Context(), method, path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	w.handler.ServeHTTP(rec, r)
	text, err := io.ReadAll(rec.Result().Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return rec.Result(), string(text)
}

func TestAppsGolden(t *testing.T) {
	w, _, _ := office(t)
	r, text := w.send(http.MethodPost, "/cordon/v1/apps/soar/secrets", `{"expires":"2027-01-01T00:00:00Z"}`)
	if r.StatusCode != http.StatusCreated || !strings.Contains(text, `"secretText":"3xx-secret"`) || r.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("%s %v %s", r.Status, r.Header, text)
	}
	likeFile(t, "apps.json", w.get("/cordon/v1/apps"))
	likeFile(t, "app.json", w.get("/cordon/v1/apps/SOAR"))
	if r, text := w.send(http.MethodDelete, "/cordon/v1/apps/SOAR", ""); r.StatusCode != http.StatusNoContent || text != "" {
		t.Errorf("%s %s", r.Status, text)
	}
}

// trace is what a request could have changed.
func (w *world) trace() string {
	all, err := w.store.Applications(w.t.Context())
	return fmt.Sprint(all, err, len(w.store.AuditLog()))
}

func TestAppsErrors(t *testing.T) {
	w, admin, _ := office(t)
	for name, c := range map[string]struct {
		method, path, body string
		status             int
		code               string
	}{
		"no body":             {"POST", "", "", 400, "InvalidBody"},
		"no JSON":             {"POST", "", "displayName=x", 400, "InvalidBody"},
		"two objects":         {"POST", "", `{"displayName":"x"}{}`, 400, "InvalidBody"},
		"unknown member":      {"POST", "", `{"displayName":"x","roles":[]}`, 400, "InvalidBody"},
		"wrong type":          {"POST", "", `{"displayName":1}`, 400, "InvalidBody"},
		"too long":            {"POST", "", `{"displayName":"` + strings.Repeat("x", 1<<20) + `"}`, 400, "InvalidBody"},
		"deep":                {"POST", "", strings.Repeat("[", 20000), 400, "InvalidBody"},
		"no name":             {"POST", "", `{}`, 400, "MissingParameter"},
		"unknown permission":  {"POST", "/SOAR/grant", `{"permissions":["x"]}`, 400, "InvalidInput"},
		"no permission":       {"POST", "/SOAR/grant", `{}`, 400, "MissingParameter"},
		"bad certificate":     {"POST", "/SOAR/certificates", `{"certificate":"x"}`, 400, "InvalidInput"},
		"expired already":     {"POST", "/SOAR/secrets", `{"expires":"2020-01-01T00:00:00Z"}`, 400, "InvalidInput"},
		"unknown application": {"GET", "/nobody", "", 404, "NotFound"},
		"unknown secret":      {"DELETE", "/SOAR/secrets/x", "", 404, "NotFound"},
		"the last one":        {"DELETE", "/" + admin.ClientID, "", 409, "LastAdministrator"},
		"another method":      {"PUT", "/SOAR", "", 405, "MethodNotAllowed"},
	} {
		before := w.trace()
		r, text := w.send(c.method, "/cordon/v1/apps"+c.path, c.body)
		var answer struct {
			Error struct{ Code, Message string }
		}
		_ = json.Unmarshal([]byte(text), &answer) // else the members below are empty
		if r.StatusCode != c.status || answer.Error.Code != c.code || answer.Error.Message == "" {
			t.Errorf("%s: %s %s", name, r.Status, text)
		}
		if d := cmp.Diff(before, w.trace()); d != "" {
			t.Errorf("%s: refused, but left a trace: %s", name, d)
		}
	}
}
