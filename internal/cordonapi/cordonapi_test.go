package cordonapi_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/cordonapi"
	"github.com/cordon-project/cordon/internal/seal"
	"github.com/cordon-project/cordon/internal/testkit/golden"
	"github.com/cordon-project/cordon/internal/testkit/memstore"
)

// world is the edge over a store in memory, with one machine, keys that are
// always the same, and a clock that stands still.
type world struct {
	*cordon.Service
	t          *testing.T
	store      *memstore.Store
	now        time.Time
	orderKey   ed25519.PrivateKey
	machineKey ed25519.PrivateKey
	machine    cordon.MachineID
	handler    http.Handler // held against the document
	caller     cordon.Caller
	denied     error // what authentication says
	// authenticate, if it is set, is asked instead.
	authenticate func(*http.Request) (cordon.Caller, error)
	log          bytes.Buffer
}

func key(n byte) ed25519.PrivateKey {
	seed := make([]byte, ed25519.SeedSize)
	seed[0] = n
	return ed25519.NewKeyFromSeed(seed)
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{
		t: t, store: new(memstore.Store), now: time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC), orderKey: key(1), machineKey: key(2),
		caller: cordon.Caller{ID: "app1", DisplayName: "SOAR", Permissions: cordon.AllPermissions(), Source: "PublicApi"},
	}
	public := w.machineKey.Public().(ed25519.PublicKey)
	w.machine = cordon.IDOfKey(public)
	m := cordon.Machine{ID: w.machine, DeviceID: cordon.DeviceIDOfKey(public), Key: public, Facts: cordon.Facts{DNSName: "web.example.com", OSPlatform: "Debian"}}
	if _, err := w.store.EnrolMachine(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	w.Service = &cordon.Service{
		Store: w.store, Nudge: func(cordon.MachineID) {}, NudgeAll: func() {}, Now: func() time.Time { return w.now }, TTL: cordon.DefaultTTL,
		Seal:        func(o cordon.Order) (string, error) { return seal.Order(o, w.orderKey) },
		SealRelease: func(r cordon.Release) (string, error) { return seal.Release(r, w.orderKey) },
		NewID:       func() string { return "01f7d891-1234-4678-8bcd-abcdefa2edf3" },
	}
	jwk, err := seal.MarshalKey(w.orderKey.Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	api := &cordonapi.API{
		Service: w.Service, OrderJWK: jwk, Log: slog.New(slog.NewTextHandler(&w.log, nil)),
		Authenticate: func(r *http.Request) (cordon.Caller, error) {
			if w.authenticate != nil {
				return w.authenticate(r)
			}
			return w.caller, w.denied
		},
	}
	mux := http.NewServeMux()
	api.Register(mux)
	w.handler = watched(t, mux)
	return w
}

func (w *world) request(typ cordon.ActionType) cordon.Action {
	w.t.Helper()
	m, err := w.store.Machine(w.t.Context(), w.machine)
	if err != nil {
		w.t.Fatal(err)
	}
	a, err := w.Request(w.t.Context(), w.caller, m, typ, "ransomware")
	if err != nil {
		w.t.Fatal(err)
	}
	return a
}

// report is what the machine answers.
func (w *world) report(a cordon.Action, state cordon.ReportState) {
	w.t.Helper()
	r := cordon.Report{
		Machine: w.machine, Action: a.ID, Generation: a.Generation, State: state,
		Observed: cordon.Observed{
			Generation: a.Generation, Mode: cordon.ModeEnforce, InForce: true, Enforcer: "fanotify", Scope: "host", Limits: []string{"Library loads are not judged"}, Coverage: []cordon.Coverage{{What: "libraries", Answer: cordon.No, Reason: "it asks about executions"}},
			Trusted: 4711, TrustSet: strings.Repeat("ab", 32), Refused: 3, BootID: "boot", At: w.now, ClockOffset: -12,
		},
	}
	jws, err := seal.Report(r, w.machineKey)
	if err == nil {
		_, err = w.Report(w.t.Context(), w.machine, r, jws)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) get(path string) *http.Response { return w.do(http.MethodGet, path) }

func (w *world) do(method, path string) *http.Response {
	w.t.Helper()
	rec := httptest.NewRecorder()
	w.handler.ServeHTTP(rec, httptest.NewRequestWithContext(w.t.Context(), method, path, nil))
	return rec.Result()
}

func body(t *testing.T, r *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// likeFile compares an answer with a file under testdata, byte by byte.
func likeFile(t *testing.T, name string, r *http.Response) {
	t.Helper()
	if r.StatusCode != http.StatusOK || r.Header.Get("Content-Type") != "application/json; charset=utf-8" {
		t.Errorf("%s: %s, %s", name, r.Status, r.Header.Get("Content-Type"))
	}
	golden.Compare(t, filepath.Join("testdata", name), body(t, r))
}

func TestGolden(t *testing.T) {
	w := newWorld(t)
	likeFile(t, "machine_new.json", w.get("/cordon/v1/machines/"+string(w.machine)))
	a := w.request(cordon.RestrictCodeExecution)
	likeFile(t, "evidence_pending.json", w.get("/cordon/v1/actions/"+string(a.ID)+"/evidence"))
	if _, err := w.Orders(t.Context(), w.machine); err != nil {
		t.Fatal(err)
	}
	w.now = w.now.Add(1500 * time.Millisecond)
	w.report(a, cordon.ReportInProgress)
	w.now = w.now.Add(100 * time.Nanosecond)
	w.report(a, cordon.ReportSucceeded)
	likeFile(t, "evidence_succeeded.json", w.get("/cordon/v1/actions/"+string(a.ID)+"/evidence"))
	for _, ref := range []string{string(w.machine), strings.ToUpper(string(w.machine)), "WEB.example.com", cordon.DeviceIDOfKey(w.machineKey.Public().(ed25519.PublicKey))} {
		likeFile(t, "machine_restricted.json", w.get("/cordon/v1/machines/"+ref))
	}
}

// The evidence proves what happened to somebody who trusts nobody but the key of
// the orders: who the machine is follows from its own key.
func TestEvidenceVerifies(t *testing.T) {
	w := newWorld(t)
	a := w.request(cordon.RestrictCodeExecution)
	if _, err := w.Orders(t.Context(), w.machine); err != nil {
		t.Fatal(err)
	}
	w.report(a, cordon.ReportSucceeded)
	var e cordonapi.Evidence
	if err := json.Unmarshal([]byte(body(t, w.get("/cordon/v1/actions/"+strings.ToUpper(string(a.ID))+"/evidence"))), &e); err != nil {
		t.Fatal(err)
	}
	orderKey, err := seal.PublicKey(e.OrderKey)
	if err != nil || !orderKey.Equal(w.orderKey.Public()) {
		t.Fatalf("order key: %v", err)
	}
	machineKey, err := seal.PublicKey(e.MachineKey)
	if err != nil || cordon.IDOfKey(machineKey) != a.Machine {
		t.Fatalf("machine key: %v", err)
	}
	var kinds []cordon.AuditKind
	for i, entry := range e.Entries {
		kinds = append(kinds, entry.Kind)
		if entry.Action != a.ID || entry.Machine != a.Machine || i > 0 && entry.Seq <= e.Entries[i-1].Seq {
			t.Errorf("entry %+v", entry)
		}
		switch entry.Kind {
		case cordon.AuditDelivered:
			o, err := seal.OpenOrder(entry.Evidence, orderKey)
			if err != nil || o.Action != a.ID || o.Machine != a.Machine || o.Type != cordon.RestrictOrder || o.Generation != a.Generation || o.Comment != a.Comment {
				t.Errorf("order %+v, %v", o, err)
			}
			if _, err := seal.OpenOrder(entry.Evidence, machineKey); err == nil {
				t.Error("the order verifies with the machine's key")
			}
		case cordon.AuditReport:
			r, err := seal.OpenReport(entry.Evidence, machineKey)
			if err != nil || r.Action != a.ID || r.Machine != a.Machine || r.State != cordon.ReportSucceeded || !r.Observed.Restricted() {
				t.Errorf("report %+v, %v", r, err)
			}
		}
	}
	if d := cmp.Diff([]cordon.AuditKind{"created", "delivered", "report"}, kinds); d != "" {
		t.Errorf("entries (-want +got):\n%s", d)
	}
}

func TestOrder(t *testing.T) {
	w := newWorld(t)
	a := w.request(cordon.UnrestrictCodeExecution)
	if r := w.get("/cordon/v1/actions/" + string(a.ID) + "/order"); r.StatusCode != http.StatusMethodNotAllowed || r.Header.Get("Allow") != "POST" {
		t.Errorf("GET: %s, Allow: %s", r.Status, r.Header.Get("Allow"))
	}
	if got, err := w.store.Action(t.Context(), a.ID); err != nil || got.Delivered != nil {
		t.Errorf("GET has changed the action: %+v, %v", got, err)
	}
	r := w.do(http.MethodPost, "/cordon/v1/actions/"+string(a.ID)+"/order")
	text := body(t, r)
	o, err := seal.OpenOrder(text, w.orderKey.Public().(ed25519.PublicKey))
	want := cordon.Order{
		Machine: w.machine, Action: a.ID, Generation: 1, Type: cordon.UnrestrictOrder, Comment: "ransomware", Issued: w.now, Expires: w.now.Add(cordon.DefaultTTL),
	}
	if d := cmp.Diff(want, o); d != "" || err != nil || r.StatusCode != http.StatusOK || r.Header.Get("Content-Type") != "text/plain; charset=utf-8" || !strings.HasSuffix(text, "\n") {
		t.Errorf("%s, %v (-want +got):\n%s", r.Status, err, d)
	}
	if got, err := w.store.Action(t.Context(), a.ID); err != nil || got.Delivered == nil {
		t.Errorf("it does not count as delivered: %+v, %v", got, err)
	}
}

func TestErrors(t *testing.T) {
	none := cordon.Caller{Permissions: []cordon.Permission{cordon.MachineIsolate}}
	reader := cordon.Caller{Permissions: []cordon.Permission{cordon.MachineReadAll}}
	const unknown = "00000000-0000-4000-8000-000000000000"
	w := newWorld(t)
	a := w.request(cordon.RestrictCodeExecution)
	all := w.caller
	missing := "Missing application roles. API required roles: Machine.Read.All,Machine.ReadWrite.All, application roles: Machine.Isolate."
	for name, c := range map[string]struct {
		path   string
		caller cordon.Caller
		denied error
		fault  bool
		expire bool
		status int
		code   string
		text   string
	}{
		"no token":              {"/cordon/v1/machines/x", all, cordon.Errorf(cordon.Unauthenticated, "", "The token has expired"), false, false, 401, "Unauthorized", "The token has expired"},
		"machine unknown":       {"/cordon/v1/machines/db.example.com", all, nil, false, false, 404, "NotFound", "Machine db.example.com was not found"},
		"machine forbidden":     {"/cordon/v1/machines/" + string(w.machine), none, nil, false, false, 403, "MissingPermission", missing},
		"evidence forbidden":    {"/cordon/v1/actions/" + string(a.ID) + "/evidence", none, nil, false, false, 403, "MissingPermission", missing},
		"evidence unknown":      {"/cordon/v1/actions/" + unknown + "/evidence", all, nil, false, false, 404, "NotFound", "Machine action " + unknown + " was not found"},
		"order unknown":         {"/cordon/v1/actions/" + unknown + "/order", all, nil, false, false, 404, "NotFound", "Machine action " + unknown + " was not found"},
		"order for readers":     {"/cordon/v1/actions/" + string(a.ID) + "/order", reader, nil, false, false, 403, "MissingPermission", "Missing application roles. API required roles: Machine.RestrictExecution, application roles: Machine.Read.All."},
		"order, store broken":   {"/cordon/v1/actions/" + string(a.ID) + "/order", all, nil, true, false, 500, "InternalServerError", "The server could not do this. Try again later"},
		"order expired":         {"/cordon/v1/actions/" + string(a.ID) + "/order", all, nil, false, true, 409, "ActionExpired", "Machine action " + string(a.ID) + " expired at 2026-11-24T12:00:00Z"},
		"authentication broken": {"/cordon/v1/machines/x", all, errors.New("disk on fire"), false, false, 500, "InternalServerError", "The server could not do this. Try again later"},
		"classified internal":   {"/cordon/v1/machines/x", all, &cordon.Error{Message: "disk on fire"}, false, false, 500, "InternalServerError", "The server could not do this. Try again later"},
		"unavailable":           {"/cordon/v1/machines/x", all, &cordon.Error{Kind: cordon.Unavailable, Message: "The server is stopping"}, false, false, 503, "ServiceUnavailable", "The server is stopping"},
		"limited":               {"/cordon/v1/machines/x", all, &cordon.Error{Kind: cordon.Limited, Message: "Too many requests"}, false, false, 429, "TooManyRequests", "Too many requests"},
	} {
		t.Run(name, func(t *testing.T) {
			w.caller, w.denied, w.store.Hook = c.caller, c.denied, nil
			w.log.Reset()
			if c.fault {
				w.store.Hook = func(string, bool) error { return errors.New("disk on fire") }
			}
			now := w.now
			if c.expire {
				w.now = now.Add(cordon.DefaultTTL)
			}
			method := http.MethodGet
			if strings.HasSuffix(c.path, "/order") {
				method = http.MethodPost
			}
			r := w.do(method, c.path)
			w.now = now
			want, err := json.Marshal(map[string]any{"error": map[string]string{"code": c.code, "message": c.text}})
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.TrimSpace(body(t, r)); r.StatusCode != c.status || got != string(want) || r.Header.Get("Content-Type") != "application/json; charset=utf-8" {
				t.Errorf("%s %s %s", r.Status, r.Header.Get("Content-Type"), got)
			}
			if got := r.Header.Get("WWW-Authenticate"); (got == "Bearer") != (c.status == 401) {
				t.Errorf("WWW-Authenticate: %q", got)
			}
			// What the caller does not learn, the log says.
			if logged := strings.Contains(w.log.String(), "disk on fire"); logged != (c.status == 500) {
				t.Errorf("log: %s", w.log.String())
			}
		})
	}
	w.caller, w.denied, w.store.Hook = all, nil, nil
	if got, err := w.store.Action(t.Context(), a.ID); err != nil || got.Delivered != nil {
		t.Errorf("a refused request changed the action: %+v, %v", got, err)
	}
}

func (w *world) post(path, body string) *http.Response {
	w.t.Helper()
	rec := httptest.NewRecorder()
	r := httptest.NewRequestWithContext(w.t.Context(), http.MethodPost, path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	w.handler.ServeHTTP(rec, r)
	return rec.Result()
}

func TestBreakGlass(t *testing.T) {
	w := newWorld(t)
	w.request(cordon.RestrictCodeExecution)
	path := "/cordon/v1/machines/web.example.com/break-glass"
	resp := w.post(path, `{"seconds":86400,"comment":"locked out"}`)
	var r cordonapi.Release
	if err := json.Unmarshal([]byte(body(t, resp)), &r); err != nil || resp.StatusCode != http.StatusCreated || resp.Header.Get("Cache-Control") != "no-store" {
		t.Fatalf("%s, %v", resp.Status, err)
	}
	got, err := seal.OpenRelease(r.Release, w.orderKey.Public().(ed25519.PublicKey))
	if err != nil || got.ID() != r.ID || got.Generation != 1 || got.Machine != w.machine || !got.Expires.Equal(w.now.Add(24*time.Hour)) {
		t.Errorf("%+v, %v", got, err)
	}
	if typed, err := seal.ReleaseOfCode(strings.Join(r.Code, "\n"), w.machine); err != nil || typed != r.Release {
		t.Errorf("the code is another release: %v", err)
	}
	var e cordonapi.Evidence
	if err := json.Unmarshal([]byte(body(t, w.get("/cordon/v1/releases/"+strings.ToUpper(string(r.ID))))), &e); err != nil || len(e.Entries) != 1 || e.Entries[0].Evidence != r.Release {
		t.Errorf("%+v, %v", e, err)
	}
	for name, c := range map[string]struct {
		path, body string
		status     int
	}{
		"no machine":        {"/cordon/v1/machines/db/break-glass", `{"seconds":3600,"comment":"x"}`, 404},
		"no reason":         {path, `{"seconds":3600}`, 400},
		"too long":          {path, `{"seconds":9223372036854775807,"comment":"x"}`, 400},
		"negative":          {path, `{"seconds":-9223372036854775808,"comment":"x"}`, 400},
		"no JSON":           {path, `seconds`, 400},
		"two values":        {path, `{"seconds":3600,"comment":"x"}{}`, 400},
		"unknown word":      {path, `{"hours":1,"comment":"x"}`, 400},
		"a fraction":        {path, `{"seconds":3600.5,"comment":"x"}`, 400},
		"large":             {path, `{"comment":"` + strings.Repeat("x", 70<<10) + `"}`, 400},
		"responders cannot": {path, `{"seconds":3600,"comment":"x"}`, 403},
	} {
		w.caller.Permissions = cordon.AllPermissions()
		if c.status == 403 {
			w.caller.Permissions = []cordon.Permission{cordon.MachineReadAll, cordon.MachineRestrict}
		}
		before := len(w.store.AuditLog())
		if resp := w.post(c.path, c.body); resp.StatusCode != c.status || len(w.store.AuditLog()) != before {
			t.Errorf("%s: %s %s", name, resp.Status, body(t, resp))
		}
	}
	if resp := w.get("/cordon/v1/releases/" + string(w.machine)); resp.StatusCode != 404 {
		t.Errorf("unknown release: %s", resp.Status)
	}
}

func TestBlocked(t *testing.T) {
	w := newWorld(t)
	likeFile(t, "blocked_none.json", w.get("/cordon/v1/machines/web.example.com/blocked"))
	told := cordon.Findings{Kind: cordon.Blocked, Series: "s", Sequence: 1, Since: w.now, At: w.now.Add(time.Minute), Total: 9, Files: []cordon.Finding{
		{Path: "/tmp/\x1b]0;x\a\xff", SHA256: strings.Repeat("ab", 32), Reason: "it is not in the trust set", Count: 5, First: w.now, Last: w.now}}}
	if err := w.Seen(t.Context(), w.machine, told); err != nil {
		t.Fatal(err)
	}
	likeFile(t, "blocked.json", w.get("/cordon/v1/machines/web.example.com/blocked"))
	if r := w.get("/cordon/v1/machines/db/blocked"); r.StatusCode != 404 {
		t.Errorf("unknown machine: %s", r.Status)
	}
	w.caller.Permissions = []cordon.Permission{cordon.MachineIsolate}
	if r := w.get("/cordon/v1/machines/web.example.com/blocked"); r.StatusCode != 403 {
		t.Errorf("without permission: %s", r.Status)
	}
}

func TestTrust(t *testing.T) {
	w := newWorld(t)
	call := func(method, body string) *http.Response {
		rec := httptest.NewRecorder()
		r := httptest.NewRequestWithContext(t.Context(), method, "/cordon/v1/trust", strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		w.handler.ServeHTTP(rec, r)
		return rec.Result()
	}
	w.post("/cordon/v1/groups", `{"name":"Servers"}`)
	sha := strings.Repeat("ab", 32)
	good := `{"sha256":"` + sha + `","machine":"web.example.com","comment":"our tool"}`
	for i, c := range []struct {
		method, body string
		status       int
		want         string
	}{
		{"POST", good, 200, `{"changed":true}`},
		{"POST", good, 200, `{"changed":false}`},
		{"POST", `{"sha256":"` + strings.ToUpper(sha) + `","scope":"all","comment":"ours"}`, 200, `{"changed":true}`},
		{"GET", "", 200, `{"value":[{"sha256":"` + sha + `","scope":"all","comment":"ours","actor":"app1","at":"2026-11-21T12:00:00Z"},{"sha256":"` + sha + `","scope":"machine:` + string(w.machine) + `","comment":"our tool","actor":"app1","at":"2026-11-21T12:00:00Z"}]}`},
		{"DELETE", good, 200, `{"changed":true}`},
		{"DELETE", good, 200, `{"changed":false}`},
		{"POST", `{"sha256":"ab","scope":"all","comment":"x"}`, 400, "64 hex digits"},
		{"POST", `{"sha256":"` + sha + `","group":"SERVERS","comment":"x"}`, 200, `{"changed":true}`},
		{"POST", `{"sha256":"` + sha + `","scope":"group:1","comment":"x"}`, 200, `{"changed":false}`},
		{"GET", "", 200, `,"scope":"group:1","group":"Servers","comment":"x",`},
		{"DELETE", `{"sha256":"` + sha + `","group":"servers"}`, 200, `{"changed":true}`},
		{"POST", `{"sha256":"` + sha + `","group":"nobody","comment":"x"}`, 404, "Group nobody was not found"},
		{"POST", `{"sha256":"` + sha + `","scope":"group:7","comment":"x"}`, 404, "Group 7 was not found"},
		{"POST", `{"sha256":"` + sha + `","scope":"group:01","comment":"x"}`, 400, "group:01"},
		{"POST", `{"sha256":"` + sha + `","comment":"x"}`, 400, "scope, machine and group"},
		{"POST", `{"sha256":"` + sha + `","scope":"all","machine":"x","comment":"x"}`, 400, "scope, machine and group"},
		{"POST", `{"sha256":"` + sha + `","scope":"all","group":"x","comment":"x"}`, 400, "scope, machine and group"},
		{"POST", `{"sha256":"` + sha + `","group":"x","machine":"x","comment":"x"}`, 400, "scope, machine and group"},
		{"POST", `{"sha256":"` + sha + `","scope":"all","group":"x","machine":"x","comment":"x"}`, 400, "scope, machine and group"},
		{"POST", `{"sha256":"` + sha + `","scope":"everybody","comment":"x"}`, 400, "everybody"},
		{"POST", `{"sha256":"` + sha + `","scope":"all"}`, 400, "comment"},
		{"POST", `{"sha256":"` + sha + `","machine":"db","comment":"x"}`, 404, "db"},
		{"PUT", good, 405, ""},
	} {
		if r := call(c.method, c.body); r.StatusCode != c.status {
			t.Errorf("%d: %s", i, r.Status)
		} else if got := body(t, r); !strings.Contains(got, c.want) {
			t.Errorf("%d: %s", i, got)
		}
	}
	w.caller.Permissions = []cordon.Permission{cordon.MachineReadAll, cordon.MachineRestrict}
	if r := call("POST", good); r.StatusCode != 403 {
		t.Errorf("responders may: %s", r.Status)
	}
	if r := call("GET", ""); r.StatusCode != 200 {
		t.Errorf("readers may not: %s", r.Status)
	}
}

func TestPreview(t *testing.T) {
	w := newWorld(t)
	for _, s := range []cordon.Findings{
		{Kind: cordon.Running, Series: "s", Sequence: 1, Since: w.now, At: w.now, Total: 2, Files: []cordon.Finding{{Path: "/srv/tool", SHA256: strings.Repeat("ab", 32), Count: 2, First: w.now, Last: w.now}}},
		{Kind: cordon.Audited, Series: "s", Sequence: 1, Since: w.now, At: w.now, Total: 9},
	} {
		if err := w.Seen(t.Context(), w.machine, s); err != nil {
			t.Fatal(err)
		}
	}
	likeFile(t, "preview.json", w.get("/cordon/v1/machines/web.example.com/preview"))
	if r := w.get("/cordon/v1/machines/db/preview"); r.StatusCode != 404 {
		t.Errorf("unknown machine: %s", r.Status)
	}
	w.caller.Permissions = []cordon.Permission{cordon.MachineIsolate}
	if r := w.get("/cordon/v1/machines/web.example.com/preview"); r.StatusCode != 403 {
		t.Errorf("without permission: %s", r.Status)
	}
}

func TestRestrictWithALease(t *testing.T) {
	w := newWorld(t)
	post := func(request string) (int, cordonapi.Action, string) {
		t.Helper()
		r := w.post("/cordon/v1/machines/web.example.com/restrict", request)
		text := body(t, r)
		var a cordonapi.Action
		_ = json.Unmarshal([]byte(text), &a) // an error has none of it
		return r.StatusCode, a, text
	}
	for _, bad := range []string{`{"comment":"x","leaseSeconds":9}`, `{"comment":"x","leaseSeconds":-1}`, `{"comment":"x","leaseSeconds":9223372036854775807}`, `{"leaseSeconds":60}`,
		`{"comment":"x","lease":60}`, `{"comment":"x","leaseSeconds":"60"}`, `{`, ``} {
		if status, _, text := post(bad); status != http.StatusBadRequest {
			t.Errorf("%s: %d %s", bad, status, text)
		}
	}
	w.caller.Permissions = []cordon.Permission{cordon.MachineReadAll}
	if status, _, text := post(`{"comment":"x","leaseSeconds":60}`); status != http.StatusForbidden {
		t.Errorf("without the permission: %d %s", status, text)
	}
	w.caller.Permissions = cordon.AllPermissions()
	status, a, text := post(`{"comment":"x","leaseSeconds":60}`)
	if status != http.StatusCreated || a.LeaseSeconds != 60 || a.Comment != "x" || a.Generation != 1 || *a.DNSName != "web.example.com" || a.Status != cordon.Pending {
		t.Fatalf("%d %s", status, text)
	}
	if got := body(t, w.get("/cordon/v1/actions/"+strings.ToUpper(string(a.ID)))); got != text {
		t.Errorf("read again: %s, not %s", got, text)
	}
	if status, _, text := post(`{"comment":"x"}`); status != http.StatusConflict {
		t.Errorf("while one is open: %d %s", status, text)
	}
	if r := w.get("/cordon/v1/actions/00000000-0000-4000-8000-00000000ffff"); r.StatusCode != http.StatusNotFound {
		t.Errorf("one that is not there: %d", r.StatusCode)
	}
	w.report(cordon.Action{ID: a.ID, Generation: 1}, cordon.ReportSucceeded)
	w.NewID = func() string { return "01f7d891-1234-4678-8bcd-abcdefa2edf4" }
	w.DefaultLease = time.Hour
	if status, a, text := post(`{"comment":"x"}`); status != http.StatusCreated || a.LeaseSeconds != 3600 {
		t.Errorf("the default: %d %s", status, text)
	}
}
