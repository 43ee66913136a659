package cordonapi_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cordon-project/cordon"
)

func TestGroups(t *testing.T) {
	w := newWorld(t)
	call := func(method, path, request string, status int, want string) {
		t.Helper()
		rec := httptest.NewRecorder()
		r := httptest.NewRequestWithContext(t.Context(), method, "/cordon/v1/groups"+path, strings.NewReader(request))
		r.Header.Set("Content-Type", "application/json")
		before := w.trace()
		w.handler.ServeHTTP(rec, r)
		if rec.Code != status || !strings.Contains(rec.Body.String(), want) {
			t.Errorf("%s %s %s: %d %s, want %d %s", method, path, request, rec.Code, rec.Body, status, want)
		}
		if d := cmp.Diff(before, w.trace()); status >= 400 && d != "" {
			t.Errorf("%s %s %s: refused, but left a trace: %s", method, path, request, d)
		}
	}
	const none = `{"id":1,"name":"Web servers","created":"2026-11-21T12:00:00Z","machines":0,"trusted":0}`
	one := strings.Replace(none, `"machines":0`, `"machines":1`, 1)
	machine := `{"machines":["` + string(w.machine) + `","web.example.com"]}`
	rule := func(method string) {
		t.Helper()
		r := httptest.NewRequestWithContext(t.Context(), method, "/cordon/v1/trust", strings.NewReader(`{"sha256":"`+strings.Repeat("ab", 32)+`","group":"Web servers","comment":"x"}`))
		r.Header.Set("Content-Type", "application/json")
		rec := httptest.NewRecorder()
		if w.handler.ServeHTTP(rec, r); rec.Code != http.StatusOK {
			t.Errorf("%d %s", rec.Code, rec.Body)
		}
	}
	call("GET", "", "", 200, `{"value":[]}`)
	call("POST", "", `{"name":" Web servers "}`, 201, none)
	call("POST", "", `{"name":"web SERVERS"}`, 409, "There is a group")
	call("GET", "/web%20servers", "", 200, none)
	call("PATCH", "/web%20servers", `{"name":"front"}`, 200, `{"id":1,"name":"front"`)
	call("PATCH", "/web%20servers", `{"name":"x"}`, 404, "was not found")
	call("PATCH", "/front", `{"name":" Web servers "}`, 200, none)
	call("POST", "/web%20servers/machines", machine, 200, `{"changed":1}`)
	call("POST", "/web%20servers/machines", machine, 200, `{"changed":0}`)
	call("GET", "", "", 200, `{"value":[`+one+`]}`)
	rule("POST")
	call("DELETE", "/web%20servers", "", 409, "Conflict")
	rule("DELETE")
	call("DELETE", "/web%20servers/machines", machine, 200, `{"changed":1}`)
	call("DELETE", "/web%20servers/machines", machine, 200, `{"changed":0}`)
	call("DELETE", "/web%20servers", "", 204, "")

	call("POST", "", `{"name":"a"}`, 201, `"id":2`)
	for _, bad := range []string{`{"name":""}`, `{"name":" "}`, `{}`, `{"name":".."}`, `{"name":"a\u0007"}`, `{"name":"` + strings.Repeat("ü", 101) + `"}`, `{"name":"b","id":7}`, `{`, ``} {
		call("POST", "", bad, 400, `"code"`)
		call("PATCH", "/a", bad, 400, `"code"`)
	}
	for _, path := range []string{"/nobody", "/1", "/web%20servers"} {
		call("GET", path, "", 404, "was not found")
		call("DELETE", path, "", 404, "was not found")
		call("POST", path+"/machines", machine, 404, "was not found")
	}
	call("POST", "/a/machines", `{"machines":["`+string(w.machine)+`","nobody"]}`, 404, "Machine nobody was not found")
	call("POST", "/a/machines", `{"machines":[]}`, 400, "MissingParameter")
	call("POST", "/a/machines", `{}`, 400, "MissingParameter")
	call("POST", "/a/machines", `{"machines":["x"`+strings.Repeat(`,"x"`, cordon.MaxLabelBatch)+`]}`, 400, "Received: 501")
	call("GET", "/a", "", 200, `"machines":0`)
	if m, err := w.store.Machine(t.Context(), w.machine); err != nil || m.Group != (cordon.Group{}) {
		t.Errorf("%+v, %v", m.Group, err)
	}

	// Who may label machines has no say about groups, and who may read sees them.
	w.caller.Permissions = []cordon.Permission{cordon.MachineReadWriteAll, cordon.MachineRestrict, cordon.ApplicationReadWriteAll}
	call("GET", "", "", 200, `"name":"a"`)
	call("POST", "", `{"name":"b"}`, 403, "Cordon.Administer")
	call("POST", "/a/machines", machine, 403, "Cordon.Administer")
	call("DELETE", "/a/machines", machine, 403, "Cordon.Administer")
	call("DELETE", "/a", "", 403, "Cordon.Administer")
	call("DELETE", "/nobody", "", 403, "Cordon.Administer")
}
