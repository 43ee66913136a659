package cli

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/cordonapi"
	"github.com/cordon-project/cordon/internal/seal"
	"github.com/cordon-project/cordon/internal/testkit/memstore"
	"github.com/cordon-project/cordon/internal/testkit/port"
	"github.com/cordon-project/cordon/mde"
)

// fake is a small server with the routes, the answers and the errors of the
// real one. Everything in it is the same on each run. An action goes one step
// further whenever it has been looked at.
type fake struct {
	*httptest.Server
	orderKey ed25519.PrivateKey
	own      *http.ServeMux // the real one, for what has no machines behind it, over the store
	store    memstore.Store

	release func() // lets go of its port

	mu       sync.Mutex
	machines []*fakeMachine
	actions  []*fakeAction
	roles    []string
	trouble  string // what the next requests run into: throttle, html, crash, cut
	posts    int
}

type fakeMachine struct {
	mde.Machine
	state   mde.MachineState
	blocked mde.Findings
	key     ed25519.PrivateKey
	steps   []string // the statuses that an action on it goes through
	why     string   // its reason where that ends badly
}

type fakeAction struct {
	mde.MachineAction
	machine    *fakeMachine
	generation uint64
	lease      int64
	steps      []string
	entries    []mde.AuditEntry
}

var epoch = time.Date(2026, 1, 24, 22, 17, 2, 0, time.UTC)

func newFake() *fake {
	f := &fake{orderKey: key("order"), roles: []string{"Machine.Read.All", "Machine.RestrictExecution", "Cordon.Administer"}}
	f.add("web-01.example.org", cordon.Observed{Mode: cordon.ModeOff, InForce: true, Enforcer: "fanotify", Scope: "host", Trusted: 48211, At: epoch,
		Limits:   []string{"a program that is mapped without being executed is not seen", "restrictions end if the agent is killed"},
		Coverage: []cordon.Coverage{{What: "programs", Answer: cordon.Yes, Reason: "seen"}, {What: "libraries", Answer: cordon.No, Reason: "not asked about"}, {What: "files elsewhere", Answer: cordon.Unknown, Reason: "not tried"}}},
		nil, mde.InProgress, mde.Succeeded)
	f.add("broken-01.example.org", cordon.Observed{Generation: 1, Mode: cordon.ModeEnforce, Enforcer: "fanotify", Scope: "host", Problem: "the canary was not refused", At: epoch},
		nil, mde.Failed)
	f.add("offline-01.example.org", cordon.Observed{}, nil)
	f.add("held-01.example.org", cordon.Observed{Generation: 2, Mode: cordon.ModeEnforce, InForce: true, Enforcer: "fanotify", Scope: "host", Trusted: 51000, Refused: 3, At: epoch, Problem: "the restriction was not seen in force at noon"},
		nil, mde.Succeeded)
	evil := "evil\x1b[2J\u202e01"
	f.add(evil, cordon.Observed{Mode: "odd\nmode", Enforcer: "\u009b31m", At: epoch}, &evil, mde.TimeOut)
	f.machines[1].why = "the self-test failed: the canary was not refused"
	f.machines[3].state.Generation = 3
	f.own = f.newOwn()
	f.machines[3].blocked = mde.Findings{Findings: cordon.Findings{Kind: cordon.Blocked, Series: "s", Sequence: 3, Since: epoch, At: epoch.Add(time.Hour), Total: 1234, Files: []cordon.Finding{
		{Path: "/usr/bin/ls", SHA256: strings.Repeat("ab", 32), Owner: "dpkg:coreutils", Reason: "it is not in the trust set", Count: 1200, First: epoch, Last: epoch.Add(time.Minute)},
		{Path: "/tmp/\x1b[2J\u009b", Reason: "somebody has it open for writing", Count: 4, First: epoch, Last: epoch.Add(time.Minute)},
	}}, Others: 30}
	at, release, err := port.Keep() // there are tests in which the server is down
	if err != nil {
		panic(err) // as httptest does
	}
	f.release = func() { _ = release() } // the test is over
	l, err := net.Listen("tcp", at)
	if err != nil {
		panic(err)
	}
	f.Server = &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(f.serve)}}
	f.StartTLS()
	return f
}

// newOwn is the server's own routes about applications, groups and trust, for a
// caller who has the fake's roles and Application.ReadWrite.All.
func (f *fake) newOwn() *http.ServeMux {
	ids, secrets := 0, 0
	service := &cordon.Service{
		Store: &f.store, Now: func() time.Time { return epoch }, Nudge: func(cordon.MachineID) {}, NudgeAll: func() {},
		NewID:     func() string { ids++; return fmt.Sprintf("aaaaaaaa-0000-4000-8000-%012d", ids) },
		NewSecret: func() string { secrets++; return fmt.Sprintf("%d-secret-secret-secret", secrets) },
	}
	caller := func() cordon.Caller {
		c := cordon.Caller{ID: "app"}
		if !slices.Equal(f.roles, []string{"none"}) {
			c.Permissions = []cordon.Permission{cordon.ApplicationReadWriteAll}
		}
		for _, r := range f.roles {
			c.Permissions = append(c.Permissions, cordon.Permission(r))
		}
		return c
	}
	if _, _, err := service.CreateApplication(context.Background(), caller(), cordon.ApplicationRequest{DisplayName: "Cordon bootstrap", Permissions: cordon.AllPermissions()}); err != nil {
		panic(err)
	}
	for _, m := range f.machines {
		if _, err := f.store.EnrolMachine(context.Background(), cordon.Machine{ID: cordon.MachineID(m.ID), DeviceID: *m.AADDeviceID, Facts: cordon.Facts{DNSName: *m.ComputerDNSName}}); err != nil {
			panic(err)
		}
	}
	mux := http.NewServeMux()
	api := &cordonapi.API{Service: service, Authenticate: func(*http.Request) (cordon.Caller, error) { return caller(), nil }, Log: slog.New(slog.DiscardHandler)}
	api.Register(mux)
	return mux
}

// key makes a key that is the same on each run.
func key(name string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte(name))
	return ed25519.NewKeyFromSeed(seed[:])
}

func (f *fake) add(name string, o cordon.Observed, tag *string, steps ...string) {
	private := key(name)
	public := private.Public().(ed25519.PublicKey)
	device, system, version, cpu, health, agent, ip := cordon.DeviceIDOfKey(public), "Debian", "12", "x64", "Active", "1.0.0", "192.0.2.7"
	f.machines = append(f.machines, &fakeMachine{
		Machine: mde.Machine{ID: string(cordon.IDOfKey(public)), ComputerDNSName: &name, AADDeviceID: &device, OSPlatform: &system, Version: &version,
			OSProcessor: &cpu, HealthStatus: &health, AgentVersion: &agent, LastIPAddress: &ip, FirstSeen: epoch, LastSeen: epoch.Add(time.Minute),
			MachineTags: []string{}, IPAddresses: []mde.IPAddress{}},
		state: mde.MachineState{ID: string(cordon.IDOfKey(public)), Generation: o.Generation, Observed: o},
		key:   private, steps: steps,
	})
}

// writeProfile writes bootstrap.json and ca.pem as a server does.
func (f *fake) writeProfile(dir string) error {
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.Certificate().Raw})
	if err := os.WriteFile(filepath.Join(dir, "ca.pem"), ca, 0o600); err != nil {
		return err
	}
	profile, err := json.Marshal(map[string]string{"url": f.URL, "caFile": "ca.pem", "tenantId": "tenant", "clientId": "app", "clientSecret": "secret", "enrollmentToken": "t"})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "bootstrap.json"), profile, 0o600)
}

// refusal is an error in Defender's form.
type refusal struct {
	status        int
	code, message string
}

func (r *refusal) Error() string { return r.message }

func (f *fake) serve(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	answer, status, err := any(nil), http.StatusOK, error(nil)
	switch path := strings.ToLower(r.URL.Path); {
	case path == "/tenant/oauth2/v2.0/token":
		f.token(w, r)
		return
	case r.Header.Get("Authorization") != "Bearer good":
		err = &refusal{401, "Unauthorized", "Unauthorized (invalid or expired authorization header)."}
	case f.trouble != "":
		f.stumble(w)
		return
	case slices.Contains([]string{"apps", "audit", "groups", "trust"}, at(strings.Split(path, "/"), 3)):
		f.own.ServeHTTP(w, r)
		return
	default:
		answer, status, err = f.route(r, strings.Split(strings.Trim(path, "/"), "/"))
	}
	if refused, ok := err.(*refusal); ok {
		status = refused.status
		answer = map[string]any{"error": map[string]string{"code": refused.code, "message": refused.message, "target": "43f4cb08-8fac-4b65-9db1-745c2ae65f3a"}}
	}
	if text, ok := answer.(string); ok {
		fmt.Fprintln(w, text)
		return
	}
	w.Header().Set("Content-Type", "application/json; odata.metadata=minimal")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(answer)
}

func (f *fake) token(w http.ResponseWriter, r *http.Request) {
	if r.FormValue("client_id") != "app" || r.FormValue("client_secret") != "secret" {
		w.WriteHeader(401)
		fmt.Fprint(w, `{"error":"invalid_client","error_description":"AADSTS7000215: Invalid client secret provided.\r\nTrace ID: 1","error_codes":[7000215],"correlation_id":"c"}`)
		return
	}
	fmt.Fprint(w, `{"token_type":"Bearer","expires_in":3599,"ext_expires_in":3599,"access_token":"good"}`)
}

func (f *fake) stumble(w http.ResponseWriter) {
	switch f.trouble {
	case "throttle":
		w.Header().Set("Retry-After", "90")
		w.WriteHeader(429)
		fmt.Fprint(w, `{"error":{"code":"429","message":"API calls quota exceeded! maximum allowed 45 per 00:01:00","target":"t"}}`)
	case "html":
		w.WriteHeader(502)
		fmt.Fprint(w, `<html>bad gateway</html>`)
	case "crash":
		w.WriteHeader(500)
		fmt.Fprint(w, `{"error":{"code":"InternalServerError","message":"The server could not do this.","target":"t-1"}}`)
	case "cut":
		panic(http.ErrAbortHandler)
	}
}

func (f *fake) need(roles ...string) error {
	if slices.ContainsFunc(roles, func(r string) bool { return slices.Contains(f.roles, r) }) {
		return nil
	}
	return &refusal{403, "Forbidden", fmt.Sprintf("Missing application roles. API required roles: %s, application roles: %s.", strings.Join(roles, ","), strings.Join(f.roles, ","))}
}

func (f *fake) route(r *http.Request, path []string) (any, int, error) {
	route := r.Method + " " + path[0] + " " + path[1]
	if len(path) > 3 {
		route += " " + path[3]
	}
	if len(path) > 4 {
		route += " " + path[4]
	}
	role := []string{"Machine.Read.All", "Machine.ReadWrite.All"}
	if strings.HasSuffix(route, "tags") || strings.HasSuffix(route, "setdevicevalue") {
		role = role[1:]
	} else if r.Method == "POST" || strings.HasSuffix(route, "order") {
		role = []string{"Machine.RestrictExecution"}
	}
	if slices.Contains(path, "break-glass") {
		role, route = []string{"Cordon.Administer"}, "POST cordon break-glass"
	}
	if err := f.need(role...); err != nil {
		return nil, 0, err
	}
	switch route {
	case "GET api machines":
		if len(path) == 2 {
			list := []mde.Machine{}
			for _, m := range f.machines {
				f.regroup(m)
				if filter := r.URL.Query().Get("$filter"); filter == "" || filter == fmt.Sprintf("rbacGroupId eq '%d'", *m.RBACGroupID) {
					list = append(list, m.Machine)
				}
			}
			return map[string]any{"@odata.context": f.URL + "/api/$metadata#Machines", "value": list}, 200, nil
		}
		if found, ok := f.find(r, path[2]); ok {
			return map[string]any{"@odata.context": f.URL + "/api/$metadata#Machines", "value": found}, 200, nil
		}
		m, err := f.machine(path[2])
		if err != nil {
			return nil, 0, err
		}
		f.regroup(m)
		return m.Machine, 200, nil
	case "POST api machines tags", "POST api machines setdevicevalue":
		return f.label(r, path[2])
	case "POST api machines restrictcodeexecution":
		return f.create(r, path[2], mde.RestrictCodeExecution)
	case "POST api machines unrestrictcodeexecution":
		return f.create(r, path[2], mde.UnrestrictCodeExecution)
	case "GET api machineactions":
		if len(path) == 2 {
			return f.list(r)
		}
	case "POST cordon break-glass":
		return f.breakGlass(r, path[3])
	case "GET cordon v1 " + at(path, 3) + " preview":
		m, err := f.machine(path[3])
		if err != nil {
			return nil, 0, err
		}
		return mde.Preview{Running: m.blocked}, 200, nil
	case "GET cordon v1 " + at(path, 3) + " blocked":
		m, err := f.machine(path[3])
		if err != nil {
			return nil, 0, err
		}
		return m.blocked, 200, nil
	case "POST cordon v1 " + at(path, 3) + " restrict":
		return f.create(r, path[3], mde.RestrictCodeExecution)
	case "GET cordon v1 " + at(path, 3):
		if path[2] == "actions" {
			break
		}
		m, err := f.machine(path[3])
		if err != nil {
			return nil, 0, err
		}
		return m.state, 200, nil
	}
	id := path[2]
	if path[0] == "cordon" {
		id = path[3]
	}
	i := slices.IndexFunc(f.actions, func(a *fakeAction) bool { return a.ID == id })
	if i < 0 {
		return nil, 0, &refusal{404, "ResourceNotFound", "Machine action " + id + " was not found"}
	}
	a := f.actions[i]
	if path[0] == "cordon" && len(path) == 4 {
		return map[string]any{"id": a.ID, "leaseSeconds": a.lease}, 200, nil
	}
	switch path[len(path)-1] {
	case "cancel":
		return f.cancel(r, a)
	case "order":
		if a.Ended() {
			return nil, 0, &refusal{409, "ActionFinal", "Machine action " + a.ID + " has already ended (" + a.Status + ")"}
		}
		return f.deliver(a), 200, nil
	case "evidence":
		order, _ := seal.MarshalKey(f.orderKey.Public().(ed25519.PublicKey))
		machine, _ := seal.MarshalKey(a.machine.key.Public().(ed25519.PublicKey))
		return mde.Evidence{OrderKey: order, MachineKey: machine, Entries: a.entries}, 200, nil
	}
	now := a.MachineAction
	f.step(a)
	return now, 200, nil
}

func (f *fake) breakGlass(r *http.Request, ref string) (any, int, error) {
	m, err := f.machine(ref)
	if err != nil {
		return nil, 0, err
	}
	var body struct{ Seconds int }
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		return nil, 0, &refusal{400, "InvalidBody", "The request body cannot be read"}
	}
	release := cordon.Release{Machine: cordon.MachineID(m.ID), Generation: m.state.Generation, NotBefore: epoch, Expires: epoch.Add(time.Duration(body.Seconds) * time.Second)}
	jws, err := seal.Release(release, f.orderKey)
	if err != nil {
		return nil, 0, err
	}
	code, err := seal.ReleaseCode(jws)
	return mde.Release{ID: string(release.ID()), Machine: m.ID, Generation: release.Generation, NotBefore: epoch, Expires: release.Expires, Release: jws, Code: code}, 201, err
}

// regroup shows a machine in the group that the store has it in.
func (f *fake) regroup(m *fakeMachine) {
	stored, err := f.store.Machine(context.Background(), cordon.MachineID(m.ID))
	if err != nil {
		panic(err)
	}
	m.RBACGroupID, m.RBACGroupName = &stored.Group.ID, &stored.Group.Name
}

func at(path []string, i int) string {
	if i < len(path) {
		return path[i]
	}
	return ""
}

func (f *fake) machine(ref string) (*fakeMachine, error) {
	for _, m := range f.machines {
		if strings.EqualFold(ref, m.ID) || strings.EqualFold(ref, *m.AADDeviceID) || strings.EqualFold(ref, *m.ComputerDNSName) {
			return m, nil
		}
	}
	return nil, &refusal{404, "ResourceNotFound", "Machine " + ref + " was not found"}
}

var byIP = regexp.MustCompile(`^findbyip\(ip='(.*)',timestamp=(.*)\)$`)

// find answers findbyip and findbytag.
func (f *fake) find(r *http.Request, function string) ([]mde.Machine, bool) {
	found := []mde.Machine{}
	args := byIP.FindStringSubmatch(function)
	if args == nil && function != "findbytag" {
		return nil, false
	}
	tag := strings.ToLower(r.URL.Query().Get("tag"))
	for _, m := range f.machines {
		if args != nil && *m.LastIPAddress == args[1] && args[2] >= "2026-01-24t" {
			found = append(found, m.Machine)
		}
		if args == nil && slices.ContainsFunc(m.MachineTags, func(t string) bool {
			t = strings.ToLower(t)
			return t == tag || r.URL.Query().Get("useStartsWithFilter") == "true" && strings.HasPrefix(t, tag)
		}) {
			found = append(found, m.Machine)
		}
	}
	return found, true
}

// label changes a tag or the value of a machine.
func (f *fake) label(r *http.Request, ref string) (any, int, error) {
	m, err := f.machine(ref)
	if err != nil {
		return nil, 0, err
	}
	var body struct{ Value, Action, DeviceValue string }
	if json.NewDecoder(r.Body).Decode(&body) != nil {
		return nil, 0, &refusal{400, "InvalidRequestBody", "Request body is incorrect"}
	}
	f.posts++
	u := cordon.LabelUpdate{Value: cordon.DeviceValue(body.DeviceValue)}
	if body.Action == "Add" {
		u.Add = body.Value
	} else {
		u.Remove = body.Value
	}
	if strings.HasPrefix(body.Value, "refuse") {
		return nil, 0, &refusal{400, "InvalidInput", "Invalid input tag: it is refused."}
	}
	l, err := cordon.Labels{Tags: m.MachineTags}.Apply(u)
	if err != nil {
		return nil, 0, &refusal{400, "InvalidInput", err.Error()}
	}
	m.MachineTags = append([]string{}, l.Tags...)
	if l.Value != "" {
		m.DeviceValue = &body.DeviceValue
	}
	return m.Machine, 200, nil
}

func comment(r *http.Request) (string, error) {
	var body struct{ Comment string }
	if r.Header.Get("Content-Type") != "application/json" || json.NewDecoder(r.Body).Decode(&body) != nil {
		return "", &refusal{400, "InvalidRequestBody", "Request body is incorrect"}
	}
	if len(body.Comment) > cordon.MaxComment {
		return "", &refusal{400, "InvalidInput", fmt.Sprintf("Invalid input Comment: it has %d characters, allowed are %d.", len(body.Comment), cordon.MaxComment)}
	}
	return body.Comment, nil
}

func (f *fake) create(r *http.Request, ref, kind string) (any, int, error) {
	m, err := f.machine(ref)
	if err != nil {
		return nil, 0, err
	}
	var body struct{ LeaseSeconds int64 }
	data, err := io.ReadAll(r.Body)
	if err == nil {
		r.Body = io.NopCloser(bytes.NewReader(data))
		_ = json.Unmarshal(data, &body) // comment says what is wrong
	}
	text, err := comment(r)
	if err != nil {
		return nil, 0, err
	}
	for _, a := range f.actions {
		if a.machine == m && a.Type == kind && !a.Ended() {
			return nil, 0, &refusal{400, "ActiveRequestAlreadyExists", "Action is already in progress"}
		}
	}
	f.posts++
	m.state.Generation++
	now := f.now()
	a := &fakeAction{machine: m, generation: m.state.Generation, lease: body.LeaseSeconds, steps: slices.Clone(m.steps), MachineAction: mde.MachineAction{
		ID: fmt.Sprintf("00000000-0000-4000-8000-%012d", len(f.actions)+1), Type: kind, Requestor: "responders", RequestorComment: text,
		Status: mde.Pending, MachineID: m.ID, ComputerDNSName: m.ComputerDNSName, CreationDateTimeUTC: now, LastUpdateDateTimeUTC: now,
		RequestSource: "PublicApi", Commands: json.RawMessage("[]"),
	}}
	a.note(cordon.AuditCreated, "app", "", "")
	f.actions = append(f.actions, a)
	if text == "cut the line" {
		panic(http.ErrAbortHandler)
	}
	return a.MachineAction, 201, nil
}

// now is a second later each time something happens.
func (f *fake) now() time.Time {
	n := len(f.actions)
	for _, a := range f.actions {
		n += len(a.entries)
	}
	return epoch.Add(time.Duration(n) * time.Second)
}

func (a *fakeAction) note(kind cordon.AuditKind, actor, detail, evidence string) {
	a.entries = append(a.entries, mde.AuditEntry{Seq: int64(len(a.entries) + 1), At: a.LastUpdateDateTimeUTC, Kind: kind, Machine: a.MachineID,
		Action: a.ID, Actor: actor, Status: a.Status, Detail: detail, Evidence: evidence})
}

func (f *fake) deliver(a *fakeAction) string {
	order, err := seal.Order(cordon.Order{Machine: cordon.MachineID(a.MachineID), Action: cordon.ActionID(a.ID), Generation: a.generation,
		Type: cordon.OrderType(a.Type), Comment: a.RequestorComment, Policy: cordon.Policy{LeaseSeconds: a.lease}, Issued: a.CreationDateTimeUTC, Expires: a.CreationDateTimeUTC.Add(72 * time.Hour)}, f.orderKey)
	if err != nil {
		panic(err)
	}
	if !slices.ContainsFunc(a.entries, func(e mde.AuditEntry) bool { return e.Kind == cordon.AuditDelivered }) {
		a.note(cordon.AuditDelivered, a.MachineID, "", order)
	}
	return order
}

// step lets the machine do the next thing.
func (f *fake) step(a *fakeAction) {
	if len(a.steps) == 0 || a.Ended() {
		return
	}
	f.deliver(a)
	a.Status, a.steps, a.LastUpdateDateTimeUTC = a.steps[0], a.steps[1:], f.now()
	if a.Status == mde.TimeOut {
		a.note(cordon.AuditEnded, "server", "the machine has not answered\x07", "")
		return
	}
	o := cordon.Observed{Generation: a.generation, Mode: cordon.OrderType(a.Type).ModeFor(), InForce: a.Status == mde.Succeeded, Enforcer: "fanotify", Scope: "host", At: a.LastUpdateDateTimeUTC}
	why := ""
	if a.Status == mde.Failed {
		why = a.machine.why
	}
	report, err := seal.Report(cordon.Report{Machine: cordon.MachineID(a.MachineID), Action: cordon.ActionID(a.ID), Generation: a.generation,
		State: cordon.ReportState(a.Status), Error: why, Observed: o}, a.machine.key)
	if err != nil {
		panic(err)
	}
	a.note(cordon.AuditReport, a.MachineID, why, report)
}

func (f *fake) cancel(r *http.Request, a *fakeAction) (any, int, error) {
	text, err := comment(r)
	if err != nil {
		return nil, 0, err
	}
	if a.Ended() && a.Status != mde.Cancelled {
		return nil, 0, &refusal{400, "BadRequest", "Machine action " + a.ID + " has already ended (" + a.Status + ") and cannot be cancelled"}
	}
	now, who := f.now(), "app"
	a.CancellationRequestor, a.CancellationComment, a.CancellationDateTimeUTC, a.LastUpdateDateTimeUTC = &who, &text, &now, now
	if len(a.entries) == 1 { // not delivered
		a.Status = mde.Cancelled
	}
	a.note(cordon.AuditCancel, "app", text, "")
	return a.MachineAction, 200, nil
}

var term = regexp.MustCompile(`^(\w+) (eq|ge) (?:'((?:[^']|'')*)'|(\S+))$`)

func (f *fake) list(r *http.Request) (any, int, error) {
	q := r.URL.Query()
	var found []mde.MachineAction
	for _, a := range f.actions {
		ok := true
		switch filter := q.Get("$filter"); filter {
		case "":
		case "status eq 'Pending' or status eq 'InProgress'":
			ok = !a.Ended()
		default:
			for part := range strings.SplitSeq(filter, " and ") {
				t := term.FindStringSubmatch(part)
				if t == nil {
					return nil, 0, &refusal{400, "BadRequest", "A recognition error occurred.. Fix syntax errors in your query."}
				}
				have := map[string]string{"machineId": a.MachineID, "status": a.Status, "type": a.Type}[t[1]]
				if since, err := time.Parse(time.RFC3339Nano, t[4]); t[2] == "ge" && err == nil {
					ok = ok && !a.LastUpdateDateTimeUTC.Before(since)
				} else {
					ok = ok && have == strings.ReplaceAll(t[3], "''", "'")
				}
			}
		}
		if ok {
			found = append(found, a.MachineAction)
		}
	}
	slices.SortFunc(found, func(a, b mde.MachineAction) int {
		switch q.Get("$orderby") {
		case "lastUpdateDateTimeUtc asc":
			return a.LastUpdateDateTimeUTC.Compare(b.LastUpdateDateTimeUTC)
		case "lastUpdateDateTimeUtc desc":
			return b.LastUpdateDateTimeUTC.Compare(a.LastUpdateDateTimeUTC)
		case "creationDateTimeUtc asc":
			return a.CreationDateTimeUTC.Compare(b.CreationDateTimeUTC)
		}
		return cmp.Compare(b.ID, a.ID)
	})
	if top, err := strconv.Atoi(q.Get("$top")); err == nil && top < len(found) {
		found = found[:top]
	}
	if strings.Contains(q.Get("$filter"), " ge ") { // the looks of a watch
		for _, a := range f.actions {
			f.step(a)
		}
	}
	return map[string]any{"@odata.context": f.URL + "/api/$metadata#MachineActions", "value": append([]mde.MachineAction{}, found...)}, 200, nil
}
