package mdeapi_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/mdeapi"
	"github.com/cordon-project/cordon/internal/testkit/contract"
	"github.com/cordon-project/cordon/mde"
)

// watched judges what all houses answer.
var watched = contract.Shared(document)

func document(t testing.TB) *contract.Document {
	d := contract.Load(t, mdeapi.OpenAPI)
	d.Optional = []string{"@odata.count", "@odata.nextLink", "details"}
	d.AnyCase = []string{"Action", "DeviceValue", "deviceValue"}
	// The arguments of a function come in any order and spelling.
	d.Canonical = func(segments []string) []string {
		if last := len(segments) - 1; last > 0 && strings.HasPrefix(strings.ToLower(segments[last]), "findbyip(") {
			segments[last] = "findbyip(ip='',timestamp=)"
		}
		return segments
	}
	return d
}

// unperformed are the operations that never succeed.
func unperformed(r mdeapi.Route) bool {
	return r.Status == http.StatusCreated && !strings.HasSuffix(r.Path, "restrictCodeExecution") ||
		r.Path == "alerts/*" || strings.HasPrefix(r.Path, "machineactions/*/Get") || strings.HasPrefix(r.Path, "machineactions/*/get")
}

// TestOpenAPIRoutes: the document has the operations of the routing table, each
// with its method, permissions and status, and no others.
func TestOpenAPIRoutes(t *testing.T) {
	documented := make(map[string][]string)
	for _, op := range document(t).Operations() {
		path := strings.NewReplacer("findbyip(ip='{ip}',timestamp={timestamp})", "findbyip(*)").Replace(op.Path)
		for _, name := range []string{"{machine}", "{action}", "{alert}", "{index}"} {
			path = strings.ReplaceAll(path, name, "*")
		}
		says := slices.Clone(op.Permissions)
		for _, status := range op.Statuses {
			if status < 300 {
				says = append(says, http.StatusText(status))
			}
		}
		documented[op.Method+" "+strings.TrimPrefix(path, "/")] = says
	}
	routed := make(map[string][]string)
	for _, r := range mdeapi.Routes() {
		var says []string
		for _, p := range r.Operation {
			says = append(says, string(p))
		}
		if !unperformed(r) {
			says = append(says, http.StatusText(r.Status))
		}
		routed[r.Method+" "+r.Path] = says
	}
	if diff := gocmp.Diff(routed, documented); diff != "" {
		t.Errorf("-routed +documented:\n%s", diff)
	}
}

// TestOpenAPIExamples: the examples of answers are answers of the golden files,
// byte for byte but for the blanks.
func TestOpenAPIExamples(t *testing.T) {
	seen := make(map[string]bool)
	for line := range strings.Lines(readAll(t, "testdata/*.txtar", func(string) bool { return true })) {
		var body any
		if strings.HasPrefix(line, "{") && json.Unmarshal([]byte(line), &body) == nil {
			plain, _ := json.Marshal(body) // it came out of JSON
			seen[string(plain)] = true
		}
	}
	examples := document(t).Examples()
	if len(examples) < 20 {
		t.Errorf("%d examples", len(examples))
	}
	for at, example := range examples {
		plain, err := json.Marshal(example)
		if err != nil {
			t.Fatal(err)
		}
		if !seen[string(plain)] {
			t.Errorf("%s was never answered: %s", at, plain)
		}
	}
}

// TestClientIsDocumented: the Go client reads the members that the document has.
func TestClientIsDocumented(t *testing.T) {
	d := document(t)
	for schema, v := range map[string]any{"MachineAction": mde.MachineAction{}, "Machine": mde.Machine{}, "MachineUpdate": mde.MachineUpdate{}} {
		all, _ := d.Members(t, schema)
		if diff := gocmp.Diff(all, members(reflect.TypeOf(v))); diff != "" {
			t.Errorf("%s: -documented +client:\n%s", schema, diff)
		}
	}
}

func members(t reflect.Type) (names []string) {
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// TestClient: what the Go client sends is what the document asks for, in each
// of its calls.
func TestClient(t *testing.T) {
	h, d := newHouse(t), document(t)
	h.application(h.issuer, tenant, allApp, "Defender for Endpoint API", cordon.AllPermissions()...)
	mux := http.NewServeMux()
	mux.Handle("/api/", d.Watch(t, h.handler)) // it is watched twice then
	mux.Handle("/", h.issuer)
	server := httptest.NewServer(mux)
	defer server.Close()
	c, err := mde.New(mde.Config{BaseURL: server.URL, TenantID: tenant, ClientID: allApp, ClientSecret: "secret", HTTPClient: server.Client()}) // which takes all the time that it takes
	if err != nil {
		t.Fatal(err)
	}
	ctx, web := t.Context(), h.fill("$WEB")
	check := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	a, err := c.Restrict(ctx, web, "why")
	check("restrict", err)
	_, err = c.GetAction(ctx, a.ID)
	check("get action", err)
	_, err = c.CancelAction(ctx, a.ID, "no")
	check("cancel", err)
	_, err = c.Unrestrict(ctx, web, "why")
	check("unrestrict", err)
	for _, err := range c.ListActions(ctx, mde.ListOptions{Filter: "status eq 'Pending'", OrderBy: "creationDateTimeUtc asc", Top: 2}) {
		check("list actions", err)
	}
	for _, err := range c.ListMachines(ctx, mde.ListOptions{}) {
		check("list machines", err)
	}
	_, err = c.GetMachine(ctx, "db-01.example.org")
	check("get machine", err)
	_, err = c.FindMachinesByIP(ctx, "192.0.2.10", time.Date(2026, 11, 21, 8, 0, 0, 0, time.UTC))
	check("find by ip", err)
	for _, err := range c.FindMachinesByTag(ctx, "x", true) {
		check("find by tag", err)
	}
	_, err = c.AddTag(ctx, web, "x")
	check("add tag", err)
	_, err = c.RemoveTag(ctx, web, "x")
	check("remove tag", err)
	_, err = c.AddTagToMany(ctx, []string{web}, "x")
	check("add tag to many", err)
	_, err = c.RemoveTagFromMany(ctx, []string{web}, "x")
	check("remove tag from many", err)
	_, err = c.SetDeviceValue(ctx, web, mde.HighValue)
	check("set value", err)
	_, err = c.UpdateMachine(ctx, web, mde.MachineUpdate{MachineTags: &[]string{"a"}})
	check("update", err)
	if unseen := d.Unseen(); !slices.Equal(unseen, []string{"listAlerts"}) {
		t.Errorf("the client cannot do, or this test does not: %v", unseen)
	}
}
