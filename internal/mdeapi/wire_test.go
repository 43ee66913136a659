package mdeapi_test

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	gocmp "github.com/google/go-cmp/cmp"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/mdeapi"
	"github.com/cordon-project/cordon/internal/oauth"
	"github.com/cordon-project/cordon/internal/testkit/memstore"
	"github.com/cordon-project/cordon/internal/testkit/tokens"
	"github.com/cordon-project/cordon/internal/testkit/wirefile"
)

const (
	tenant      = "8f3d1c52-6b7a-4e0d-9c11-2a4b5c6d7e8f"
	otherTenant = "11111111-1111-4111-8111-111111111111"
	allApp      = "a11a0000-0000-4000-8000-000000000000"
)

// house is the edge with all that is behind it: the real domain, the real
// tokens, a store in memory, and a clock that goes on by a second and a tick
// with each request.
type house struct {
	t       testing.TB
	store   *breakable
	service *cordon.Service
	handler http.Handler // held against the document
	issuer  *oauth.Server
	addr    string
	now     time.Time
	log     bytes.Buffer
	vars    []string // names and values for requests
}

// rsaKeys are the key of the server and one that it does not know.
var rsaKeys = sync.OnceValues(func() (server, other *rsa.PrivateKey) {
	var err1, err2 error
	server, err1 = rsa.GenerateKey(rand.Reader, 2048)
	other, err2 = rsa.GenerateKey(rand.Reader, 2048)
	if err := errors.Join(err1, err2); err != nil {
		panic(err)
	}
	return server, other
})

func machine(n byte, name, platform, version string, build int64) cordon.Machine {
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, 32)).Public().(ed25519.PublicKey)
	first := time.Date(2026, 11, 1, 8, 0, 0, int(n)*100, time.UTC)
	return cordon.Machine{
		ID: cordon.IDOfKey(key), DeviceID: cordon.DeviceIDOfKey(key), Key: key, FirstSeen: first, LastSeen: first.AddDate(0, 0, 20),
		Facts: cordon.Facts{
			DNSName: name, OSPlatform: platform, OSVersion: version, OSBuild: build, Processor: "x64", Architecture: "64-bit",
			AgentVersion: "1.2.3", LastIP: "192.0.2.10", Interfaces: []cordon.Interface{
				{IP: "192.0.2.10", MAC: "00005E0053FF", Type: "Ethernet", Status: "Up"},
				{IP: "127.0.0.1", Type: "SoftwareLoopback", Status: "Up"},
			},
		},
	}
}

func newHouse(t testing.TB) *house {
	t.Helper()
	h := &house{t: t, now: time.Date(2026, 11, 21, 20, 6, 52, 360142600, time.UTC)}
	web, db, windows := machine(1, "web-01.Example.org", "Ubuntu", "24.04", 0), machine(2, "db-01.example.org", "Debian", "12", 0), machine(3, "desk-07", "Windows11", "24H2", 26100)
	silent := machine(6, "", "", "", 0)
	silent.LastSeen, silent.Facts = silent.FirstSeen, cordon.Facts{}
	h.store = &breakable{Store: new(memstore.Store)}
	for _, m := range []cordon.Machine{web, db, windows, machine(4, "twin.example.org", "Debian", "13", 0), machine(5, "twin.example.org", "Debian", "13", 0), silent} {
		if _, err := h.store.EnrolMachine(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	var ids, targets int
	clock := func() time.Time { return h.now }
	h.service = &cordon.Service{
		Store: h.store, Nudge: func(cordon.MachineID) {}, Now: clock, TTL: cordon.DefaultTTL,
		Seal: func(o cordon.Order) (string, error) { return "order:" + string(o.Action), nil },
		NewID: func() string {
			ids++
			return fmt.Sprintf("ac710000-0000-4000-8000-%012d", ids)
		},
	}

	key, own := rsaKeys()
	server := func(tenant string) *oauth.Server {
		s, err := oauth.New(oauth.Config{
			Tenant: tenant, Keys: func() []*rsa.PrivateKey { return []*rsa.PrivateKey{key} }, Applications: h.store, Now: clock, Log: slog.New(slog.DiscardHandler),
			Base: func(*http.Request) string { return "https://login.example.org" }, NewID: func() string { return tenant },
		})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	issuer := server(tenant)
	h.issuer = issuer
	h.handler = mdeapi.New(mdeapi.Config{
		Service: h.service, Authenticate: issuer.Authenticate, Now: clock, Log: slog.New(slog.NewTextHandler(&h.log, nil)),
		Base: func(r *http.Request) string { return "https://" + r.Host },
		NewID: func() string {
			targets++
			return fmt.Sprintf("7a26e700-0000-4000-8000-%012d", targets)
		},
	})

	all := h.application(issuer, tenant, allApp, "Defender for Endpoint API", cordon.AllPermissions()...)
	forge := func(signer jose.SigningKey, change func(map[string]any)) string {
		return tokens.Forge(t, all, signer, change)
	}
	rs256 := jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: key, KeyID: tokens.Header(t, all)["kid"]}}
	h.vars = []string{
		"$ALL", all,
		"$READ", h.application(issuer, tenant, "4ead0000-0000-4000-8000-000000000000", "reader", cordon.MachineReadAll),
		"$RESTRICT", h.application(issuer, tenant, "4e540000-0000-4000-8000-000000000000", "restricter", cordon.MachineRestrict),
		"$SCAN", h.application(issuer, tenant, "5ca00000-0000-4000-8000-000000000000", "scanner", cordon.MachineScan),
		"$ALERT", h.application(issuer, tenant, "a1e40000-0000-4000-8000-000000000000", "alerts", cordon.AlertReadAll),
		"$NONE", h.application(issuer, tenant, "00e00000-0000-4000-8000-000000000000", "nothing"),
		"$OTHERTENANT", h.application(server(otherTenant), otherTenant, "07e40000-0000-4000-8000-000000000000", "other", cordon.AllPermissions()...),
		"$EXPIRED", forge(rs256, func(c map[string]any) { c["exp"] = h.now.Add(-time.Hour).Unix() }),
		"$FOREIGN", forge(rs256, func(c map[string]any) { c["aud"] = "https://graph.microsoft.com" }),
		"$OTHERKEY", forge(jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: own, KeyID: tokens.Header(t, all)["kid"]}}, func(map[string]any) {}),
		"$UNSIGNED", base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"JWT"}`)) + "." + strings.Split(all, ".")[1] + ".",
		"$WEBDEVICE", web.DeviceID, "$WEB", string(web.ID), "$DB", string(db.ID), "$WINDOWS", string(windows.ID), "$SILENT", string(silent.ID),
		"$LONG4000", strings.Repeat("é", 4000), "$LONG4001", strings.Repeat("é", 4001), "$LONG200", strings.Repeat("é", 200), "$LONG201", strings.Repeat("é", 201), "$IDS501", list(501), "$TAGS101", list(101), "$MB", strings.Repeat("x", 1<<20),
		"$DEEP", strings.Repeat("[", 20000) + strings.Repeat("]", 20000), "$BADUTF8", "\xff\xfe", "$CR", "\r",
	}
	if _, ok := t.(*testing.T); ok { // a fuzzer says itself what is wrong
		h.handler = watched(t, h.handler)
	}
	listening := httptest.NewServer(h.handler)
	t.Cleanup(listening.Close)
	h.addr = listening.Listener.Addr().String()
	return h
}

// list is the inside of a JSON array of n different strings.
func list(n int) string {
	words := make([]string, n)
	for i := range words {
		words[i] = fmt.Sprintf(`"%d"`, i)
	}
	return strings.Join(words, ",")
}

// application adds an application and returns an access token for it.
func (h *house) application(issuer *oauth.Server, tenant, id, name string, permissions ...cordon.Permission) string {
	h.t.Helper()
	app := cordon.Application{ClientID: id, ObjectID: id, DisplayName: name, Secrets: []cordon.Secret{cordon.NewSecret(id, "secret", h.now, nil)}, Permissions: permissions}
	if err := h.store.PutApplication(h.t.Context(), app); err != nil {
		h.t.Fatal(err)
	}
	w := httptest.NewRecorder()
	issuer.ServeHTTP(w, httptest.NewRequest("POST", "/"+tenant+"/oauth2/v2.0/token", strings.NewReader(url.Values{
		"grant_type": {"client_credentials"}, "client_id": {id}, "client_secret": {"secret"}, "scope": {"https://api.securitycenter.microsoft.com/.default"},
	}.Encode())))
	var answer struct {
		Token string `json:"access_token"`
	}
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || answer.Token == "" {
		h.t.Fatalf("token: %d %s", w.Code, w.Body)
	}
	return answer.Token
}

// TestWire plays the files of testdata, each from a fresh start (package wirefile);
// answers stand there unpacked. A section "! words" lets something happen behind
// the edge. In requests, $ALL, $READ … are tokens,
// $WEB … machines, $A1 … the ids of the actions created so far.
//
// Whatever is refused must leave no trace in the store.
func TestWire(t *testing.T) {
	wirefile.Play(t, func(t *testing.T) func(name, section string) []byte {
		h := newHouse(t)
		return func(name, section string) []byte {
			if what, ok := strings.CutPrefix(name, "! "); ok {
				h.happen(strings.Fields(what))
				return nil
			}
			before := h.trace()
			status, answer := h.exchange(section)
			if diff := gocmp.Diff(before, h.trace()); status >= 400 && diff != "" {
				t.Errorf("%s: refused, but left a trace:\n%s", name, diff)
			}
			return answer
		}
	})
}

// created returns the actions in the order of their creation.
func (h *house) created() []cordon.Action {
	actions, _, err := h.store.Actions(context.Background(), cordon.Query{})
	if err != nil {
		h.t.Fatal(err)
	}
	slices.Reverse(actions)
	return actions
}

// trace is what the store holds of actions, machines and audit entries.
func (h *house) trace() string {
	machines, _, err := h.store.Machines(context.Background(), cordon.Query{})
	if err != nil {
		h.t.Fatal(err)
	}
	trace, err := json.Marshal([]any{h.created(), machines, h.store.AuditLog()})
	if err != nil {
		h.t.Fatal(err)
	}
	return string(trace)
}

// breakable is a store whose look-up of an action can be made to fail.
type breakable struct {
	*memstore.Store
	err error
}

func (s *breakable) Action(ctx context.Context, id cordon.ActionID) (cordon.Action, error) {
	if s.err != nil {
		return cordon.Action{}, s.err
	}
	return s.Store.Action(ctx, id)
}

// happen is what goes on behind the edge.
func (h *house) happen(words []string) {
	h.t.Helper()
	var err error
	switch words[0] {
	case "deliver": // machine
		_, err = h.service.Orders(h.t.Context(), cordon.MachineID(h.fill(words[1])))
	case "report": // machine, action, state
		m := cordon.MachineID(h.fill(words[1]))
		var a cordon.Action
		if a, err = h.store.Action(h.t.Context(), cordon.ActionID(h.fill(words[2]))); err == nil {
			_, err = h.service.Report(h.t.Context(), m, cordon.Report{Machine: m, Action: a.ID, Generation: a.Generation, State: cordon.ReportState(words[3]), Error: "no package database"}, "evidence")
		}
	case "agent": // machine, version
		m, _ := h.store.Machine(h.t.Context(), cordon.MachineID(h.fill(words[1])))
		m.Facts.AgentVersion = words[2]
		err = h.store.MachineSaid(h.t.Context(), m.ID, &m.Facts, m.Observed, h.now)
	case "address": // machine, IP address that it has from now on
		m, _ := h.store.Machine(h.t.Context(), cordon.MachineID(h.fill(words[1])))
		m.Facts.LastIP, m.Facts.Interfaces = words[2], []cordon.Interface{{IP: words[2], MAC: "00005E0053FF", Type: "Ethernet", Status: "Up"}}
		err = h.store.MachineSaid(h.t.Context(), m.ID, &m.Facts, m.Observed, h.now)
	case "group": // machine, name of a new group that it is put into
		admin := cordon.Caller{Permissions: cordon.AllPermissions()}
		if _, err = h.service.CreateGroup(h.t.Context(), admin, words[2]); err == nil {
			_, err = h.service.Assign(h.t.Context(), admin, words[2], []string{h.fill(words[1])}, false)
		}
	case "wait": // a duration
		var d time.Duration
		d, err = time.ParseDuration(words[1])
		h.now = h.now.Add(d)
	case "break": // the store
		h.store.err = map[string]error{
			"internally": errors.New("secret of the disk"), "unavailable": &cordon.Error{Kind: cordon.Unavailable, Message: "locked", Err: errors.New("secret of the lock")},
			"by-limit": cordon.Errorf(cordon.Limited, "", "API calls quota exceeded! maximum allowed 100 per 00:01:00"), "mended": nil,
		}[words[1]]
	default:
		h.t.Fatalf("what is %q?", words)
	}
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *house) fill(s string) string {
	vars := h.vars
	for i, a := range h.created() {
		vars = append(vars, fmt.Sprintf("$A%d", i+1), string(a.ID))
	}
	return strings.NewReplacer(vars...).Replace(s)
}

// exchange sends one request and returns the status and the answer as text.
func (h *house) exchange(request string) (int, []byte) {
	h.t.Helper()
	h.now = h.now.Add(time.Second + cordon.Tick)
	r, content := wirefile.Send(h.t, h.addr, "api.securitycenter.microsoft.com", h.fill(request))
	method, _, _ := strings.Cut(request, " ")
	if coding := r.Header.Get("Content-Encoding"); coding != "" {
		if r.ContentLength != int64(len(content)) && method != "HEAD" || r.ContentLength <= 0 {
			h.t.Errorf("Content-Length is %d of %d bytes", r.ContentLength, len(content))
		}
		r.Header.Del("Content-Length") // the packed one is the compressor's affair
		content = unpack(h.t, coding, content)
	}
	if len(content) > 0 && !json.Valid(content) {
		h.t.Errorf("not JSON: %s", content)
	}
	return r.StatusCode, wirefile.Text(r, content)
}

// unpack is what a client makes of a compressed body.
func unpack(t testing.TB, coding string, packed []byte) []byte {
	t.Helper()
	if len(packed) == 0 {
		return nil
	}
	var r io.Reader
	var err error
	switch coding {
	case "gzip":
		r, err = gzip.NewReader(bytes.NewReader(packed))
	case "deflate":
		r, err = zlib.NewReader(bytes.NewReader(packed))
	default:
		t.Fatalf("nobody asked for Content-Encoding %q", coding)
	}
	if err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return content
}
