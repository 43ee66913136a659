package cordonapi_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/cordonapi"
	"github.com/cordon-project/cordon/internal/testkit/contract"
	"github.com/cordon-project/cordon/internal/testkit/golden"
	"github.com/cordon-project/cordon/internal/testkit/tokens"
	"github.com/cordon-project/cordon/mde"
)

func document(t testing.TB) *contract.Document {
	d := contract.Load(t, cordonapi.OpenAPI)
	d.Optional = []string{"limits", "coverage", "problem", "clockOffsetMs", "secretText", "sha256", "owner", "reason", "machine", "group", "scope", "comment", "lease", "lapsed", "leaseSeconds", "next"}
	return d
}

// watched judges what all worlds answer.
var watched = contract.Shared(document)

// TestOpenAPIRoutes: the document has the operations of the routing table, each
// with its method, permissions and status, and no others.
func TestOpenAPIRoutes(t *testing.T) {
	documented, routed := make(map[string][]string), make(map[string][]string)
	for _, op := range document(t).Operations() {
		says := slices.Clone(op.Permissions)
		for _, status := range op.Statuses {
			if status < 300 {
				says = append(says, http.StatusText(status))
			}
		}
		documented[op.Method+" "+op.Path] = says
	}
	for _, r := range cordonapi.Routes() {
		var says []string
		for _, p := range r.Operation {
			says = append(says, string(p))
		}
		routed[r.Method+" "+r.Path] = append(says, http.StatusText(r.Status))
	}
	if d := cmp.Diff(routed, documented); d != "" {
		t.Errorf("-routed +documented:\n%s", d)
	}
}

// certificate is one in PEM.
func certificate(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "soar"}, NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(1, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// furnished is a world in which every route has something to act on: it
// returns the values of the variables of paths.
func furnished(t *testing.T) (*world, map[string]string) {
	w, _, soar := office(t)
	body, _ := json.Marshal(map[string]string{"certificate": certificate(t)}) // strings
	r, text := w.send(http.MethodPost, "/cordon/v1/apps/SOAR/certificates", string(body))
	var app cordonapi.App
	if err := json.Unmarshal([]byte(text), &app); err != nil || len(app.Certificates) != 1 {
		t.Fatalf("%s %s", r.Status, text)
	}
	var release cordonapi.Release
	glass := w.post("/cordon/v1/machines/"+string(w.machine)+"/break-glass", `{"seconds":86400,"comment":"locked out"}`)
	if err := json.NewDecoder(glass.Body).Decode(&release); err != nil || release.ID == "" {
		t.Fatalf("%s, %v", glass.Status, err)
	}
	if r := w.post("/cordon/v1/groups", `{"name":"web servers"}`); r.StatusCode != http.StatusCreated {
		t.Fatal(r.Status)
	}
	return w, map[string]string{
		"{group}":   "Web%20Servers",
		"{release}": string(release.ID),
		"{machine}": string(w.machine), "{action}": string(w.request(cordon.UnrestrictCodeExecution).ID), "{app}": "SOAR",
		"{secret}": soar.Secrets[0].KeyID, "{certificate}": app.Certificates[0].Thumbprint,
	}
}

// try sends a good request to a route.
func (w *world) try(method string, r cordonapi.Route, values map[string]string, token string) *httptest.ResponseRecorder {
	w.t.Helper()
	path := "/cordon/v1" + r.Path
	for name, value := range values {
		path = strings.ReplaceAll(path, name, value)
	}
	var body string
	switch key := r.Method + " " + r.Path; key {
	case "POST /machines/{machine}/break-glass":
		body = `{"seconds":86400,"comment":"locked out"}`
	case "POST /machines/{machine}/restrict":
		body = `{"comment":"why","leaseSeconds":86400}`
	case "POST /trust", "DELETE /trust":
		body = `{"sha256":"` + strings.Repeat("ab", 32) + `","scope":"all","comment":"why"}`
	case "POST /groups", "PATCH /groups/{group}":
		body = `{"name":"new"}`
	case "POST /groups/{group}/machines", "DELETE /groups/{group}/machines":
		body = `{"machines":["` + string(w.machine) + `"]}`
	case "POST /apps":
		body = `{"displayName":"new","permissions":["Machine.Read.All"]}`
	case "POST /apps/{app}/grant", "POST /apps/{app}/revoke":
		body = `{"permissions":["Machine.Scan"]}`
	case "POST /apps/{app}/secrets":
		body = `{}`
	case "POST /apps/{app}/certificates":
		b, _ := json.Marshal(map[string]string{"certificate": certificate(w.t)}) // strings
		body = string(b)
	}
	request := httptest.NewRequestWithContext(w.t.Context(), method, path, strings.NewReader(body))
	request.Header.Set("Content-Type", "application/json")
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	rec := httptest.NewRecorder()
	w.handler.ServeHTTP(rec, request)
	return rec
}

const (
	page    = "../../docs/permissions.md"
	heading = "\n## Cordon's own API\n"
)

// TestAuthorization tries every route with every token: the bad ones, each
// permission alone, and all of them. What is refused leaves no trace. The page
// in the documentation says the same.
func TestAuthorization(t *testing.T) {
	statuses := map[cordon.Kind]int{cordon.Unauthenticated: http.StatusUnauthorized, cordon.Forbidden: http.StatusForbidden}
	var rows strings.Builder
	for _, r := range cordonapi.Routes() {
		methods := []string{r.Method}
		if r.Method == http.MethodGet {
			methods = append(methods, http.MethodHead)
		}
		allowed := func(what string, permissions ...cordon.Permission) {
			for _, method := range methods {
				w, values := furnished(t)
				issuer := tokens.New(t, w.store, w.Now)
				w.authenticate = issuer.Authenticate
				if rec := w.try(method, r, values, issuer.Issue(permissions...)); rec.Code != r.Status {
					t.Errorf("%s %s with %s: %d %s", method, r.Path, what, rec.Code, rec.Body)
				}
			}
		}
		w, values := furnished(t)
		issuer := tokens.New(t, w.store, w.Now)
		w.authenticate = issuer.Authenticate
		refused := func(what, token string, kind cordon.Kind) {
			for _, method := range methods {
				before := w.everything()
				rec := w.try(method, r, values, token)
				if rec.Code != statuses[kind] {
					t.Errorf("%s %s, token: %s: %d %s", method, r.Path, what, rec.Code, rec.Body)
				}
				if d := cmp.Diff(before, w.everything()); d != "" {
					t.Errorf("%s %s, token: %s: refused, but left a trace: %s", method, r.Path, what, d)
				}
			}
		}
		for _, f := range issuer.Faults() {
			refused(f.What, f.Token, f.Kind)
		}
		var names []string
		for _, p := range cordon.AllPermissions() {
			if slices.Contains(r.Operation, p) {
				allowed(string(p), p)
			} else {
				refused(string(p), issuer.Issue(p), cordon.Forbidden)
			}
		}
		allowed("everything", cordon.AllPermissions()...)
		for _, p := range r.Operation {
			names = append(names, "`"+string(p)+"`")
		}
		fmt.Fprintf(&rows, "| `%s /cordon/v1%s` | %s | %d |\n", r.Method, r.Path, strings.Join(names, ", "), r.Status)
	}
	want := fmt.Sprintf(`%s
<!-- Written by "go test ./internal/cordonapi -run TestAuthorization -update" from the table that the server checks by. -->

The same tokens, and the same answers to bad ones. Addresses count with their case here.

| operation | any one of | answer |
|---|---|---|
%s`, heading, rows.String())
	file, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	before, _, _ := strings.Cut(string(file), heading)
	golden.Compare(t, page, before+want)
}

// everything is what a request could have changed.
func (w *world) everything() string {
	actions, _, err1 := w.store.Actions(w.t.Context(), cordon.Query{})
	machines, _, err2 := w.store.Machines(w.t.Context(), cordon.Query{})
	return fmt.Sprint(w.trace(), actions, machines, err1, err2)
}

// TestPathsAndMethods: what is no route says so in JSON, to anybody.
func TestPathsAndMethods(t *testing.T) {
	w := newWorld(t)
	w.denied = cordon.Errorf(cordon.Unauthenticated, "", "no token")
	for request, want := range map[string]struct {
		status int
		allow  string
	}{
		"GET /cordon/":                         {404, ""},
		"GET /cordon/v2/apps":                  {404, ""},
		"POST /cordon/v1/machines":             {404, ""},
		"GET /cordon/v1/actions/a/order":       {405, "POST"},
		"HEAD /cordon/v1/actions/a/order":      {405, "POST"},
		"PUT /cordon/v1/apps/a":                {405, "DELETE, GET, HEAD"},
		"OPTIONS /cordon/v1/apps":              {204, "GET, HEAD, POST"},
		"OPTIONS /cordon/v1/nothing":           {404, ""},
		"POST /cordon/v1/machines/a":           {405, "GET, HEAD"},
		"purge /cordon/v1/actions/a/evidence":  {405, "GET, HEAD"},
		"GET /cordon/v1/machines/a%2Fb":        {401, ""},
		"DELETE /cordon/v1/apps/a/secrets/b/c": {404, ""},
	} {
		method, path, _ := strings.Cut(request, " ")
		r := w.do(method, path)
		if r.StatusCode != want.status || r.Header.Get("Allow") != want.allow {
			t.Errorf("%s: %s, Allow: %s", request, r.Status, r.Header.Get("Allow"))
		}
	}
}

// TestClient: what the Go client sends is what the document asks for, in each
// of its calls, and it reads all members that the document has.
func TestClient(t *testing.T) {
	w, values := furnished(t)
	issuer := tokens.New(t, w.store, w.Now)
	w.authenticate = issuer.Authenticate
	d := document(t)
	mux := http.NewServeMux()
	mux.Handle("/cordon/", d.Watch(t, w.handler)) // it is watched twice then
	mux.Handle("/", issuer)
	server := httptest.NewServer(mux)
	defer server.Close()
	id := "0e400000-0000-4000-8000-000000000000"
	app := cordon.Application{ClientID: id, ObjectID: id, DisplayName: "client", Permissions: cordon.AllPermissions(), Secrets: []cordon.Secret{cordon.NewSecret(id, "secret", w.now, nil)}}
	if err := w.store.PutApplication(t.Context(), app); err != nil {
		t.Fatal(err)
	}
	c, err := mde.New(mde.Config{BaseURL: server.URL, TenantID: tokens.Tenant, ClientID: id, ClientSecret: "secret", HTTPClient: server.Client()}) // which takes all the time that it takes
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	ctx := t.Context()
	_, err = c.MachineState(ctx, values["{machine}"])
	check("machine state", err)
	restricted, err := c.RestrictWithLease(ctx, values["{machine}"], "why", time.Hour)
	check("restrict", err)
	if lease, err := c.Lease(ctx, restricted.ID); err != nil || lease != time.Hour {
		t.Errorf("lease: %s, %v", lease, err)
	}
	_, err = c.SignedOrder(ctx, values["{action}"])
	check("order", err)
	_, err = c.Evidence(ctx, values["{action}"])
	check("evidence", err)
	release, err := c.BreakGlass(ctx, values["{machine}"], 24*time.Hour, "why")
	check("break glass", err)
	_, err = c.ReleaseEvidence(ctx, release.ID)
	check("evidence of a release", err)
	_, err = c.Blocked(ctx, values["{machine}"])
	check("blocked", err)
	_, err = c.Preview(ctx, values["{machine}"])
	check("preview", err)
	_, err = c.Trust(ctx, mde.TrustRule{SHA256: strings.Repeat("ab", 32), Scope: "all", Comment: "why"}, false)
	check("trust", err)
	_, err = c.TrustRules(ctx)
	check("trust rules", err)
	_, err = c.Trust(ctx, mde.TrustRule{SHA256: strings.Repeat("ab", 32), Scope: "all", Comment: "why"}, true)
	check("trust no more", err)
	_, err = c.CreateGroup(ctx, "a/b ü")
	check("create group", err)
	if n, err := c.Assign(ctx, "A/B ü", []string{values["{machine}"]}, false); err != nil || n != 1 {
		t.Errorf("assign: %d, %v", n, err)
	}
	_, err = c.Trust(ctx, mde.TrustRule{SHA256: strings.Repeat("ab", 32), Group: "a/b ü", Comment: "why"}, false)
	check("trust for a group", err)
	if rules, err := c.TrustRules(ctx); err != nil || len(rules) != 1 || rules[0].Group != "a/b ü" {
		t.Errorf("rules %+v, %v", rules, err)
	}
	if g, err := c.GetGroup(ctx, "a/b ü"); err != nil || g.Machines != 1 || g.Trusted != 1 {
		t.Errorf("group %+v, %v", g, err)
	}
	_, err = c.Trust(ctx, mde.TrustRule{SHA256: strings.Repeat("ab", 32), Group: "a/b ü"}, true)
	check("trust for a group no more", err)
	_, err = c.Assign(ctx, "a/b ü", []string{values["{machine}"]}, true)
	check("unassign", err)
	if g, err := c.RenameGroup(ctx, "a/b ü", "b/a ü"); err != nil || g.Name != "b/a ü" {
		t.Errorf("renamed: %+v, %v", g, err)
	}
	check("delete group", c.DeleteGroup(ctx, "b/a ü"))
	_, err = c.ListGroups(ctx)
	check("list groups", err)
	var log []cordon.AuditKind
	for e, err := range c.AuditLog(ctx, mde.AuditOptions{Since: w.now, Kinds: []cordon.AuditKind{cordon.AuditGroup, cordon.AuditTrust}, Top: 4}) {
		check("audit", err)
		log = append(log, e.Kind)
	}
	if d := cmp.Diff([]cordon.AuditKind{"group", "group", "group", "trust"}, log); d != "" {
		t.Errorf("audit (-want +got):\n%s", d)
	}
	check("many", w.store.Audit(ctx, slices.Repeat([]cordon.AuditEntry{{At: w.now, Kind: cordon.AuditLease}}, 2*cordon.MaxAudit+7)...))
	for top, want := range map[int]int{0: 2*cordon.MaxAudit + 7, cordon.MaxAudit + 1: cordon.MaxAudit + 1, 2 * cordon.MaxAudit: 2 * cordon.MaxAudit} {
		seen := make(map[int64]bool)
		for e, err := range c.AuditLog(ctx, mde.AuditOptions{Kinds: []cordon.AuditKind{cordon.AuditLease}, Top: top}) {
			check("pages", err)
			seen[e.Seq] = true
		}
		if len(seen) != want {
			t.Errorf("pages for %d: %d entries, want %d", top, len(seen), want)
		}
	}
	_, err = c.ListApps(ctx)
	check("list", err)
	_, err = c.GetApp(ctx, "SOAR")
	check("get", err)
	_, err = c.CreateApp(ctx, mde.NewApp{DisplayName: "new"})
	check("create", err)
	_, err = c.GrantApp(ctx, "new", cordon.MachineScan)
	check("grant", err)
	_, err = c.RevokeApp(ctx, "new", cordon.MachineScan)
	check("revoke", err)
	_, err = c.RotateSecret(ctx, "new", nil, false)
	check("rotate", err)
	_, err = c.AddCertificate(ctx, "new", certificate(t))
	check("add certificate", err)
	_, err = c.RemoveSecret(ctx, "SOAR", values["{secret}"])
	check("remove secret", err)
	_, err = c.RemoveCertificate(ctx, "SOAR", values["{certificate}"])
	check("remove certificate", err)
	check("delete", c.DeleteApp(ctx, "new"))
	for schema, v := range map[string]any{"Machine": mde.MachineState{}, "Evidence": mde.Evidence{}, "Entry": mde.AuditEntry{}, "NewCredential": mde.App{}, "Release": mde.Release{}, "NewApplication": mde.NewApp{}, "Group": mde.Group{}} {
		all, _ := d.Members(t, schema)
		var read []string
		for i := range reflect.TypeOf(v).NumField() {
			name, _, _ := strings.Cut(reflect.TypeOf(v).Field(i).Tag.Get("json"), ",")
			read = append(read, name)
		}
		slices.Sort(read)
		if d := cmp.Diff(all, read); d != "" {
			t.Errorf("%s: -documented +client:\n%s", schema, d)
		}
	}
	if unseen := d.Unseen(); len(unseen) > 0 {
		t.Errorf("the client cannot do, or this test does not: %v", unseen)
	}
}
