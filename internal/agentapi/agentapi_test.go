package agentapi_test

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
	"github.com/google/go-cmp/cmp"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/seal"
	"github.com/cordon-project/cordon/internal/testkit/memnet"
	"github.com/cordon-project/cordon/internal/wire"
	"github.com/cordon-project/cordon/test/lab"
)

func TestEnroll(t *testing.T) {
	server := lab.Start(t, lab.Options{})
	d := newDevice(t, server, 1)
	for _, name := range []string{"web.example.com", "renamed.example.com"} { // the same machine again is no second one
		var resp wire.EnrollResponse
		if status, text := d.post(wire.EnrollPath, d.enrolment(func(r *wire.EnrollRequest) { r.Facts.DNSName = name }), &resp); status != http.StatusOK {
			t.Fatalf("%d %s", status, text)
		}
		want := wire.EnrollResponse{Capability: 1, Machine: d.id, Tenant: lab.Tenant, OrderKey: server.OrderJWK()}
		if diff := cmp.Diff(want, resp); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		all, _, err := server.Store.Machines(t.Context(), cordon.Query{})
		if err != nil || len(all) != 1 || all[0].ID != d.id || all[0].Facts.DNSName != name || all[0].Facts.LastIP != "127.0.0.1" || all[0].DeviceID != cordon.DeviceIDOfKey(all[0].Key) {
			t.Errorf("machines %+v, %v", all, err)
		}
	}
}

func TestEnrollRefused(t *testing.T) {
	server := lab.Start(t, lab.Options{})
	d, other := newDevice(t, server, 1), newDevice(t, server, 2)
	used := d.proof(http.MethodPost, wire.EnrollPath)
	good := d.enrolment()
	marshal := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for name, c := range map[string]struct {
		body          string
		authorization string
		status        int
		text          string
	}{
		"wrong token":           {marshal(d.enrolment(func(r *wire.EnrollRequest) { r.Token = "guess" })), d.proof("POST", wire.EnrollPath), 403, "The enrolment token is not valid. Use the one of this server's bootstrap.json"},
		"no token":              {marshal(d.enrolment(func(r *wire.EnrollRequest) { r.Token = "" })), d.proof("POST", wire.EnrollPath), 403, "The enrolment token is not valid. Use the one of this server's bootstrap.json"},
		"another token's hash":  {marshal(d.enrolment(func(r *wire.EnrollRequest) { r.Token = lab.Token + " " })), d.proof("POST", wire.EnrollPath), 403, "The enrolment token is not valid. Use the one of this server's bootstrap.json"},
		"no key":                {marshal(d.enrolment(func(r *wire.EnrollRequest) { r.Key = nil })), d.proof("POST", wire.EnrollPath), 400, "The machine's key cannot be read: it must be an Ed25519 public key as a JWK"},
		"RSA key":               {marshal(d.enrolment(func(r *wire.EnrollRequest) { r.Key = []byte(`{"kty":"RSA","n":"AQAB","e":"AQAB"}`) })), d.proof("POST", wire.EnrollPath), 400, "The machine's key cannot be read: it must be an Ed25519 public key as a JWK"},
		"a key too short":       {marshal(d.enrolment(func(r *wire.EnrollRequest) { r.Key = []byte(`{"kty":"OKP","crv":"Ed25519","x":"AAAA"}`) })), d.proof("POST", wire.EnrollPath), 400, "The machine's key cannot be read: it must be an Ed25519 public key as a JWK"},
		"somebody else's key":   {marshal(other.enrolment()), d.proof("POST", wire.EnrollPath), 401, "The signed statement is refused: the signature was not made with the expected key"},
		"proof names another":   {marshal(good), d.proof("POST", wire.EnrollPath, func(p *seal.Proof) { p.Machine = other.id }), 401, "The proof is not for the key that signed it"},
		"no proof":              {marshal(good), "", 401, "The signed statement is refused: it is not a compact JWS signed with EdDSA"},
		"proof for another way": {marshal(good), d.proof("POST", wire.SyncPath), 401, "The proof is for another request (POST /agent/v1/sync)"},
		"not JSON":              {"{", d.proof("POST", wire.EnrollPath), 400, "The request body is not a message of this protocol"},
		"empty":                 {"", d.proof("POST", wire.EnrollPath), 400, "The request body is not a message of this protocol"},
		"too large":             {marshal(d.enrolment(func(r *wire.EnrollRequest) { r.Facts.DNSName = strings.Repeat("x", wire.MaxMessage) })), d.proof("POST", wire.EnrollPath), 400, "The request body is not a message of this protocol"},
	} {
		t.Run(name, func(t *testing.T) {
			status, text := d.send("POST", wire.EnrollPath, c.authorization, strings.NewReader(c.body), new(wire.EnrollResponse))
			if status != c.status || text != c.text {
				t.Errorf("%d %q, want %d %q", status, text, c.status, c.text)
			}
		})
	}
	if all, _, err := server.Store.Machines(t.Context(), cordon.Query{}); err != nil || len(all) != 0 {
		t.Errorf("machines %+v, %v", all, err)
	}
	// A proof that came with a bad token was not used up: whoever has no token
	// cannot make the server remember anything.
	bad := marshal(d.enrolment(func(r *wire.EnrollRequest) { r.Token = "guess" }))
	if status, _ := d.send("POST", wire.EnrollPath, used, strings.NewReader(bad), nil); status != 403 {
		t.Errorf("%d", status)
	}
	if status, text := d.send("POST", wire.EnrollPath, used, strings.NewReader(marshal(good)), new(wire.EnrollResponse)); status != 200 {
		t.Errorf("%d %s", status, text)
	}
	if status, text := d.send("POST", wire.EnrollPath, used, strings.NewReader(marshal(good)), nil); status != 401 || text != "The proof was used before" {
		t.Errorf("replayed: %d %s", status, text)
	}
}

// inBubble runs a test on a network in memory, where time passes only when
// everybody waits.
func inBubble(t *testing.T, opts lab.Options, test func(*testing.T, *lab.Server)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		opts.Network = memnet.New()
		test(t, lab.Start(t, opts))
	})
}

func TestProofs(t *testing.T) { inBubble(t, lab.Options{}, testProofs) }

func testProofs(t *testing.T, server *lab.Server) {
	now := time.Now()
	d, stranger := enrolled(t, server, 1), newDevice(t, server, 2)
	at := func(off time.Duration) func(*seal.Proof) { return func(p *seal.Proof) { p.At = now.Add(off) } }
	id := func(id string) func(*seal.Proof) { return func(p *seal.Proof) { p.ID = id } }
	const used = "The proof was used before"
	for _, c := range []struct {
		name, authorization string
		status              int
		text                string
	}{
		{"good", d.proof("POST", wire.SyncPath), 200, ""},
		{"scheme in another case", strings.Replace(d.proof("POST", wire.SyncPath), "Cordon", "cordon", 1), 200, ""},
		{"none", "", 401, "The request carries no proof (Authorization: Cordon …)"},
		{"another scheme", strings.Replace(d.proof("POST", wire.SyncPath), "Cordon", "Bearer", 1), 401, "The request carries no proof (Authorization: Cordon …)"},
		{"noise", "Cordon x.y.z", 401, "The signed statement is refused: it is not a compact JWS signed with EdDSA"},
		{"a report", "Cordon " + d.report(cordon.Action{}, cordon.ReportSucceeded), 401, "The signed statement is refused: it is a cordon-report+jws, not a cordon-proof+jws"},
		{"not enrolled", stranger.proof("POST", wire.SyncPath), 401, "Machine " + string(stranger.id) + " is not enrolled here. Enrol it with a new --data-dir and a valid enrolment token"},
		{"signed by another key", stranger.proof("POST", wire.SyncPath, func(p *seal.Proof) { p.Machine = d.id }), 401, "The signed statement is refused: the signature was not made with the expected key"},
		{"another path", d.proof("POST", wire.EnrollPath), 401, "The proof is for another request (POST /agent/v1/enroll)"},
		{"another method", d.proof("GET", wire.SyncPath), 401, "The proof is for another request (GET /agent/v1/sync)"},
		{"just not too old", d.proof("POST", wire.SyncPath, at(-wire.ProofWindow)), 200, ""},
		{"too old", d.proof("POST", wire.SyncPath, at(-wire.ProofWindow-1)), 401, "The proof is dated 1999-12-31T23:57:59Z, the server's clock says 2000-01-01T00:00:00Z"},
		{"just not too early", d.proof("POST", wire.SyncPath, at(wire.ProofWindow)), 200, ""},
		{"too early", d.proof("POST", wire.SyncPath, at(wire.ProofWindow+1)), 401, "The proof is dated 2000-01-01T00:02:00Z, the server's clock says 2000-01-01T00:00:00Z"},
		{"first use", d.proof("POST", wire.SyncPath, id("once")), 200, ""},
		{"second use", d.proof("POST", wire.SyncPath, id("once")), 401, used},
		{"no id", d.proof("POST", wire.SyncPath, id("")), 401, used},
		{"id too long", d.proof("POST", wire.SyncPath, id(strings.Repeat("x", 65))), 401, used},
	} {
		status, text := d.send("POST", wire.SyncPath, c.authorization, strings.NewReader("{}"), new(wire.FromServer))
		if status != c.status || text != c.text {
			t.Errorf("%s: %d %q, want %d %q", c.name, status, text, c.status, c.text)
		}
	}
	// The same on the WebSocket's route.
	_, resp, err := websocket.Dial(t.Context(), server.URL+wire.ConnectPath, &websocket.DialOptions{
		HTTPClient: server.Client, HTTPHeader: http.Header{"Authorization": {d.proof("POST", wire.SyncPath)}},
	})
	if err == nil || resp.StatusCode != 401 {
		t.Errorf("WebSocket: %v", err)
	}
}

// A proof cannot be used again for as long as its date is accepted, whenever in
// the life of the server it was first used.
func TestReplayIsRememberedLongEnough(t *testing.T) {
	inBubble(t, lab.Options{}, func(t *testing.T, server *lab.Server) {
		d := enrolled(t, server, 1)
		for range 40 {
			time.Sleep(37 * time.Second)
			dated := time.Now().Add(wire.ProofWindow) // as early as is accepted
			proof := d.proof("POST", wire.SyncPath, func(p *seal.Proof) { p.At = dated })
			for first := true; !time.Now().After(dated.Add(wire.ProofWindow)); first = false {
				status, text := d.send("POST", wire.SyncPath, proof, strings.NewReader("{}"), new(wire.FromServer))
				if first != (status == 200) {
					t.Fatalf("use at %s of a proof dated %s: %d %s", time.Now(), dated, status, text)
				}
				time.Sleep(20 * time.Second)
			}
		}
	})
}

func TestSync(t *testing.T) {
	server := lab.Start(t, lab.Options{})
	d := enrolled(t, server, 1)
	if got := d.sync(wire.FromAgent{}); got.Time != "" || got.Orders != nil || got.Settled != nil {
		t.Errorf("an answer to nothing: %+v", got)
	}
	restrict := server.Request(d.id, cordon.RestrictCodeExecution)
	release := server.Request(d.id, cordon.UnrestrictCodeExecution)
	if got := d.sync(wire.FromAgent{}); got.Orders != nil || server.Action(restrict.ID).Delivered != nil {
		t.Errorf("orders that nobody asked for: %+v", got)
	}
	facts := cordon.Facts{DNSName: "new.example.com", OSPlatform: "Ubuntu", LastIP: "10.0.0.1"}
	observed := cordon.Observed{Generation: 5, Mode: cordon.ModeAudit, Enforcer: "fake"}
	got := d.sync(wire.FromAgent{Nonce: "n1", Facts: &facts, Observed: &observed})
	orders := d.orders(got.Orders)
	if len(orders) != 2 || orders[0].Action != restrict.ID || orders[1].Action != release.ID || server.Action(release.ID).Delivered == nil {
		t.Errorf("orders %+v", orders)
	}
	said, err := seal.OpenTime(got.Time, server.OrderKey.Public().(ed25519.PublicKey))
	if err != nil || said.Machine != d.id || said.Nonce != "n1" || !said.Now.Equal(got.Now) {
		t.Errorf("time %+v, %v", said, err)
	}
	m, err := server.Store.Machine(t.Context(), d.id)
	if err != nil || !cmp.Equal(m.Facts, facts) || !cmp.Equal(m.Observed, observed) || m.Generation != 5 {
		t.Errorf("machine %+v, %v", m, err)
	}
	// The machine's word on its generation counts for the next one.
	got = d.sync(wire.FromAgent{Reports: []string{d.report(restrict, cordon.ReportSucceeded), d.report(release, cordon.ReportSucceeded)}})
	if diff := cmp.Diff([]cordon.ActionID{restrict.ID, release.ID}, got.Settled); diff != "" {
		t.Errorf("settled (-want +got):\n%s", diff)
	}
	if a := server.Request(d.id, cordon.RestrictCodeExecution); a.Generation != 6 {
		t.Errorf("generation %d", a.Generation)
	}
}

// Only outcomes are settled: the machine keeps nothing else, and must not take
// the answer to another report for the answer to its outcome.
func TestSettled(t *testing.T) {
	server := lab.Start(t, lab.Options{})
	d, other := enrolled(t, server, 1), enrolled(t, server, 2)
	a := server.Request(d.id, cordon.RestrictCodeExecution)
	theirs := server.Request(other.id, cordon.RestrictCodeExecution)
	d.sync(wire.FromAgent{Nonce: "n"})
	unknown := cordon.Action{ID: "00000000-0000-4000-8000-999999999999", Generation: 1}
	in := func(machine cordon.MachineID) func(*cordon.Report) {
		return func(r *cordon.Report) { r.Machine = machine }
	}
	for _, c := range []struct {
		name, report string
		settled      []cordon.ActionID
		status       cordon.Status
	}{
		{"refused", d.report(a, cordon.ReportRefused), nil, cordon.Pending},
		{"noise", "x", nil, cordon.Pending},
		{"signed by another machine", other.report(a, cordon.ReportSucceeded, in(d.id)), nil, cordon.Pending},
		{"in another machine's name", d.report(theirs, cordon.ReportSucceeded, in(other.id)), []cordon.ActionID{theirs.ID}, cordon.Pending},
		{"about another machine's action", d.report(theirs, cordon.ReportSucceeded), []cordon.ActionID{theirs.ID}, cordon.Pending},
		{"about no action", d.report(unknown, cordon.ReportSucceeded), []cordon.ActionID{unknown.ID}, cordon.Pending},
		{"in progress", d.report(a, cordon.ReportInProgress), nil, cordon.InProgress},
		{"outcome", d.report(a, cordon.ReportSucceeded), []cordon.ActionID{a.ID}, cordon.Succeeded},
		{"outcome again", d.report(a, cordon.ReportSucceeded), []cordon.ActionID{a.ID}, cordon.Succeeded},
		{"another outcome", d.report(a, cordon.ReportFailed), []cordon.ActionID{a.ID}, cordon.Succeeded},
	} {
		got := d.sync(wire.FromAgent{Reports: []string{c.report}})
		if diff := cmp.Diff(c.settled, got.Settled); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
		if s := server.Action(a.ID).Status; s != c.status {
			t.Errorf("%s: the action is %s", c.name, s)
		}
	}
	if s := server.Action(theirs.ID).Status; s != cordon.Pending {
		t.Errorf("the other machine's action is %s", s)
	}
}

// What the store did not take in is not settled.
func TestNotSettledUnlessDurable(t *testing.T) {
	for _, done := range []bool{false, true} {
		broken := ""
		server := lab.Start(t, lab.Options{Fault: func(method string, after bool) error {
			if method == broken && after == done {
				return errors.New("disk on fire")
			}
			return nil
		}})
		d := enrolled(t, server, 1)
		a := server.Request(d.id, cordon.RestrictCodeExecution)
		d.sync(wire.FromAgent{Nonce: "n"})
		for _, method := range []string{"ChangeAction", "MachineSaid"} {
			broken = method
			status, text := d.post(wire.SyncPath, wire.FromAgent{Reports: []string{d.report(a, cordon.ReportSucceeded)}}, nil)
			if status != 500 || text != "The server could not do this. Try again later" {
				t.Errorf("%s: %d %s", method, status, text)
			}
		}
		broken = ""
		if got := d.sync(wire.FromAgent{Reports: []string{d.report(a, cordon.ReportSucceeded)}}); len(got.Settled) != 1 || server.Action(a.ID).Status != cordon.Succeeded {
			t.Errorf("then: %+v, %s", got, server.Action(a.ID).Status)
		}
	}
}

func TestBadMessages(t *testing.T) {
	server := lab.Start(t, lab.Options{})
	d := enrolled(t, server, 1)
	a := server.Request(d.id, cordon.RestrictCodeExecution)
	many := wire.FromAgent{}
	for range wire.MaxReports + 1 {
		many.Reports = append(many.Reports, d.report(a, cordon.ReportSucceeded))
	}
	body, err := json.Marshal(many)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ body, text string }{
		"too many reports": {string(body), "A message carries at most 64 reports, this one has 65"},
		"not JSON":         {`{"nonce":`, "The request body is not a message of this protocol"},
		"two messages":     {`{}{}`, "The request body is not a message of this protocol"},
		"a list":           {`[]`, "The request body is not a message of this protocol"},
		"wrong type":       {`{"reports":"x"}`, "The request body is not a message of this protocol"},
		"empty":            {``, "The request body is not a message of this protocol"},
		"too large":        {`{"nonce":"` + strings.Repeat("x", wire.MaxMessage) + `"}`, "The request body is not a message of this protocol"},
	} {
		if status, text := d.send("POST", wire.SyncPath, d.proof("POST", wire.SyncPath), strings.NewReader(c.body), nil); status != 400 || text != c.text {
			t.Errorf("%s: %d %s", name, status, text)
		}
		// On a WebSocket the same ends the connection.
		ws := d.dial()
		if err := ws.Write(t.Context(), websocket.MessageText, []byte(c.body)); err != nil && name != "too large" {
			t.Errorf("%s: %v", name, err)
		}
		if _, _, err := ws.Read(t.Context()); err == nil {
			t.Errorf("%s: answered on a WebSocket", name)
		}
	}
	if s := server.Action(a.ID); s.Status != cordon.Pending || s.Delivered != nil {
		t.Errorf("the action is %+v", s)
	}
	if got := d.sync(wire.FromAgent{Reports: many.Reports[:wire.MaxReports]}); len(got.Settled) != wire.MaxReports {
		t.Errorf("%d of the most reports settled", len(got.Settled))
	}
}

// A long poll ends with an order, or when its time is up.
func TestLongPoll(t *testing.T) { inBubble(t, lab.Options{}, testLongPoll) }

func testLongPoll(t *testing.T, server *lab.Server) {
	d := enrolled(t, server, 1)
	took := func(f func()) time.Duration {
		began := time.Now()
		f()
		return time.Since(began)
	}
	const forever = 1 << 30
	for ask, want := range map[int]time.Duration{0: 0, -5: 0, 1500: 1500 * time.Millisecond, forever: wire.MaxWait} {
		if got := took(func() { d.sync(wire.FromAgent{Nonce: "n", WaitMS: ask}) }); got != want {
			t.Errorf("a wait of %d ms took %s", ask, got)
		}
	}
	answers := make(chan wire.FromServer)
	poll := func() {
		var answer wire.FromServer
		if status, text := d.post(wire.SyncPath, wire.FromAgent{Nonce: "n", WaitMS: forever}, &answer); status != 200 {
			t.Errorf("%d %s", status, text)
		}
		answers <- answer
	}
	go poll()
	time.Sleep(10 * time.Second)
	var a cordon.Action
	if got := took(func() {
		a = server.Request(d.id, cordon.RestrictCodeExecution)
		if answer := <-answers; len(d.orders(answer.Orders)) != 1 || !answer.Now.Equal(time.Now()) {
			t.Errorf("answer %+v", answer)
		}
	}); got != 0 {
		t.Errorf("an order came after %s", got)
	}
	// With an order that waits the answer comes at once; so it does with reports,
	// which the machine wants to see settled.
	if got := took(func() {
		if orders := d.orders(d.sync(wire.FromAgent{Nonce: "n", WaitMS: forever}).Orders); len(orders) != 1 || orders[0].Action != a.ID {
			t.Errorf("orders %+v", orders)
		}
		if got := d.sync(wire.FromAgent{Reports: []string{d.report(a, cordon.ReportSucceeded)}, WaitMS: forever}); len(got.Settled) != 1 {
			t.Errorf("settled %v", got.Settled)
		}
	}); got != 0 {
		t.Errorf("what was there came after %s", got)
	}
	// A newer poll ends the older one, and so does the stop of the server.
	for _, end := range []func(){func() { go poll() }, server.Hub.Close} {
		if server.Hub.Len() == 0 {
			go poll()
		}
		synctest.Wait()
		if got := took(func() { end(); <-answers }); got != 0 {
			t.Errorf("it ended after %s", got)
		}
		synctest.Wait()
	}
	if status, text := d.post(wire.SyncPath, wire.FromAgent{Nonce: "n", WaitMS: 1000}, nil); status != 503 || text != "The server is stopping. Try again shortly" {
		t.Errorf("%d %s", status, text)
	}
	if got := d.sync(wire.FromAgent{Nonce: "n"}); got.Time == "" || server.Hub.Len() != 0 {
		t.Errorf("without waiting: %+v", got)
	}
}

// lateStore finds no open actions, and then there is one.
type lateStore struct {
	cordon.Store
	then func()
}

func (s lateStore) OpenActions(ctx context.Context, m cordon.MachineID) ([]cordon.Action, error) {
	open, err := s.Store.OpenActions(ctx, m)
	s.then()
	return open, err
}

// An order that comes between the look-up and the wait of a long poll is not missed.
func TestOrderWhileThePollBegins(t *testing.T) {
	inBubble(t, lab.Options{}, func(t *testing.T, server *lab.Server) {
		d := enrolled(t, server, 1)
		create := sync.OnceFunc(func() {
			server.Request(d.id, cordon.RestrictCodeExecution)
			synctest.Wait() // until its nudge has run
		})
		server.Service.Store = lateStore{server.Store, create}
		began := time.Now()
		got := d.sync(wire.FromAgent{Nonce: "n", WaitMS: 50_000})
		if took := time.Since(began); len(got.Orders) != 1 || took != 0 {
			t.Errorf("%d orders after %s", len(got.Orders), took)
		}
	})
}

func TestWebSocket(t *testing.T) {
	server := lab.Start(t, lab.Options{})
	d := enrolled(t, server, 1)
	ws := d.dial()
	d.write(ws, wire.FromAgent{Nonce: "n1"})
	if got := d.read(ws); got.Time == "" || got.Orders != nil {
		t.Errorf("answer %+v", got)
	}
	a := server.Request(d.id, cordon.RestrictCodeExecution) // and its nudge
	if orders := d.orders(d.read(ws).Orders); len(orders) != 1 || orders[0].Action != a.ID {
		t.Errorf("orders %+v", orders)
	}
	if _, err := server.Service.Cancel(t.Context(), lab.Admin, a.ID, "false alarm"); err != nil {
		t.Fatal(err)
	}
	if orders := d.orders(d.read(ws).Orders); len(orders) != 1 || orders[0].Type != cordon.CancelOrder {
		t.Errorf("orders %+v", orders)
	}
	many := wire.FromAgent{Reports: []string{d.report(a, cordon.ReportCancelled)}}
	long := strings.Repeat("x", 10_000)
	for len(many.Reports) < wire.MaxReports {
		many.Reports = append(many.Reports, d.report(a, cordon.ReportInProgress, func(r *cordon.Report) { r.Error = long }))
	}
	d.write(ws, many)
	if got := d.read(ws); !cmp.Equal(got.Settled, []cordon.ActionID{a.ID}) {
		t.Errorf("answer %+v", got)
	}
	// A newer connection ends this one, and gets what comes from then on.
	newer := d.dial()
	if _, _, err := ws.Read(t.Context()); err == nil {
		t.Error("the older connection goes on")
	}
	d.write(newer, wire.FromAgent{Nonce: "n2"})
	d.read(newer)
	b := server.Request(d.id, cordon.RestrictCodeExecution)
	if orders := d.orders(d.read(newer).Orders); len(orders) != 1 || orders[0].Action != b.ID {
		t.Errorf("orders %+v", orders)
	}
	server.Hub.Close()
	if _, _, err := newer.Read(t.Context()); err == nil {
		t.Error("the connection outlives the hub")
	}
	late := d.dial()
	if _, _, err := late.Read(t.Context()); websocket.CloseStatus(err) != websocket.StatusTryAgainLater {
		t.Errorf("a server that stops: %v", err)
	}
}

// No orders come before the answer to the first message, without which the
// machine does not know by which time to judge them.
func TestOrdersComeAfterTheTime(t *testing.T) {
	inBubble(t, lab.Options{}, func(t *testing.T, server *lab.Server) {
		d := enrolled(t, server, 1)
		ws := d.dial()
		synctest.Wait()
		a := server.Request(d.id, cordon.RestrictCodeExecution) // and its nudge
		synctest.Wait()
		if server.Hub.Len() != 1 || server.Action(a.ID).Delivered != nil {
			t.Errorf("delivered before the machine has spoken: %+v", server.Action(a.ID))
		}
		d.write(ws, wire.FromAgent{Nonce: "n"})
		if got := d.read(ws); got.Time == "" || len(got.Orders) != 1 {
			t.Errorf("the first message is %+v", got)
		}
		if got := d.read(ws); got.Time != "" || len(got.Orders) != 1 { // what was nudged
			t.Errorf("the second message is %+v", got)
		}
	})
}

// A machine that connects and says nothing costs no more than its connection.
func TestSilentConnection(t *testing.T) {
	inBubble(t, lab.Options{}, func(t *testing.T, server *lab.Server) {
		d := enrolled(t, server, 1)
		ws := d.dial()
		synctest.Wait()
		server.Request(d.id, cordon.RestrictCodeExecution)
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go server.API.Sweep(ctx, wire.PingEvery)
		began := time.Now()
		if _, _, err := ws.Read(t.Context()); err == nil {
			t.Error("it was told something")
		}
		if took := time.Since(began); took > 4*wire.PingEvery {
			t.Errorf("ended after %s", took)
		}
		synctest.Wait() // and the bubble holds that all its goroutines end
		if server.Hub.Len() != 0 {
			t.Error("it is still on the hub")
		}
	})
}

// An order that could not be looked up when it was nudged is not forgotten: the
// connection ends, and the next one gets it.
func TestNudgeThatFails(t *testing.T) {
	fail := make(chan error, 1)
	server := lab.Start(t, lab.Options{Fault: func(method string, _ bool) error {
		if method != "ChangeAction" {
			return nil
		}
		select {
		case err := <-fail:
			return err
		default:
			return nil
		}
	}})
	d := enrolled(t, server, 1)
	ws := d.dial()
	d.write(ws, wire.FromAgent{Nonce: "n"})
	d.read(ws)
	fail <- errors.New("disk on fire")
	a := server.Request(d.id, cordon.RestrictCodeExecution)
	if _, _, err := ws.Read(t.Context()); err == nil {
		t.Error("the connection goes on")
	}
	if orders := d.orders(d.sync(wire.FromAgent{Nonce: "n"}).Orders); len(orders) != 1 || orders[0].Action != a.ID {
		t.Errorf("orders %+v", orders)
	}
}

// Sweep stores when connected machines were last heard of, and ends the
// connections that have fallen silent. A ping is a sign of life too.
func TestSweep(t *testing.T) { inBubble(t, lab.Options{}, testSweep) }

func testSweep(t *testing.T, server *lab.Server) {
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	talks, pings, silent := enrolled(t, server, 1), enrolled(t, server, 2), enrolled(t, server, 3)
	began := time.Now()
	gone := make(chan time.Duration)
	wsTalks, wsPings := talks.dial(), pings.dial()
	go func() {
		_, _, _ = silent.dial().Read(ctx) // its end is what counts
		gone <- time.Since(began)
	}()
	wsPings.CloseRead(ctx) // takes the pongs
	go server.API.Sweep(ctx, wire.PingEvery)
	for range 10 {
		time.Sleep(wire.PingEvery - time.Second)
		talks.write(wsTalks, wire.FromAgent{})
		talks.read(wsTalks)
		if err := wsPings.Ping(ctx); err != nil {
			t.Fatal(err)
		}
		select {
		case after := <-gone:
			if after < 3*wire.PingEvery || after > 5*wire.PingEvery {
				t.Errorf("the silent connection ended after %s", after)
			}
		default:
		}
	}
	time.Sleep(2 * time.Second)
	if n := server.Hub.Len(); n != 2 {
		t.Errorf("%d connections", n)
	}
	time.Sleep(wire.PingEvery)
	for _, d := range []*device{talks, pings} {
		if m, err := server.Store.Machine(t.Context(), d.id); err != nil || time.Since(m.LastSeen) > 2*wire.PingEvery {
			t.Errorf("last seen %s, %v", m.LastSeen, err)
		}
	}
	if m, err := server.Store.Machine(t.Context(), silent.id); err != nil || m.LastSeen.After(began.Add(wire.PingEvery)) {
		t.Errorf("the silent one: last seen %s, %v", m.LastSeen, err)
	}
}

func TestRoutes(t *testing.T) {
	server := lab.Start(t, lab.Options{})
	d := enrolled(t, server, 1)
	for _, c := range []struct {
		method, path string
		status       int
	}{
		{"GET", wire.SyncPath, 405}, {"GET", wire.EnrollPath, 405}, {"POST", wire.ConnectPath, 405}, {"GET", "/agent/v1/other", 404},
		{"GET", wire.ConnectPath, 426}, // no upgrade was asked for
	} {
		if status, _ := d.send(c.method, c.path, d.proof(c.method, c.path), nil, nil); status != c.status {
			t.Errorf("%s %s: %d, want %d", c.method, c.path, status, c.status)
		}
	}
}

// Whatever an enrolled machine sends, the server takes it or says why not, and
// no action moves without a signed report.
func FuzzSync(f *testing.F) {
	server := lab.Start(f, lab.Options{})
	d, stranger := enrolled(f, server, 1), newDevice(f, server, 2)
	a := server.Request(d.id, cordon.RestrictCodeExecution)
	forged := stranger.report(a, cordon.ReportSucceeded, func(r *cordon.Report) { r.Machine = d.id })
	f.Add(`{}`)
	f.Add(`{"capability":1,"nonce":"n","facts":{"dnsName":"x","interfaces":[{"ip":"::1"}]},"observed":{"generation":3,"limits":["x"]},"reports":["x.y.z"],"waitMs":-1}`)
	f.Add(`{"reports":["` + forged + `"]}`)
	f.Add(`{"observed":{"generation":18446744073709551615},"nonce":"` + strings.Repeat("n", 1000) + `"}`)
	mux := http.NewServeMux()
	server.API.Register(mux)
	f.Fuzz(func(t *testing.T, body string) {
		if strings.Contains(strings.ToLower(body), "wait") {
			return // a long poll would take its time
		}
		d.t = t
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, wire.SyncPath, strings.NewReader(body))
		r.Header.Set("Authorization", d.proof(http.MethodPost, wire.SyncPath))
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		if w.Code != http.StatusOK && w.Code != http.StatusBadRequest {
			t.Errorf("%d %s", w.Code, w.Body)
		}
		if got, err := server.Store.Action(t.Context(), a.ID); err != nil || got.Status != cordon.Pending {
			t.Errorf("the action is %s, %v", got.Status, err)
		}
	})
}
