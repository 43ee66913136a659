package agentapi_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/seal"
	"github.com/cordon-project/cordon/internal/wire"
	"github.com/cordon-project/cordon/test/lab"
)

// device speaks the protocol by hand, so that it can also speak it wrongly.
type device struct {
	t      testing.TB
	server *lab.Server
	key    ed25519.PrivateKey
	id     cordon.MachineID
}

func newDevice(t testing.TB, server *lab.Server, n byte) *device {
	seed := make([]byte, ed25519.SeedSize)
	seed[0] = n
	key := ed25519.NewKeyFromSeed(seed)
	return &device{t: t, server: server, key: key, id: cordon.IDOfKey(key.Public().(ed25519.PublicKey))}
}

// enrolled makes a device that is enrolled.
func enrolled(t testing.TB, server *lab.Server, n byte) *device {
	t.Helper()
	d := newDevice(t, server, n)
	var resp wire.EnrollResponse
	if status, text := d.post(wire.EnrollPath, d.enrolment(), &resp); status != http.StatusOK {
		t.Fatalf("enrol: %d %s", status, text)
	}
	return d
}

func (d *device) enrolment(with ...func(*wire.EnrollRequest)) wire.EnrollRequest {
	d.t.Helper()
	jwk, err := seal.MarshalKey(d.key.Public().(ed25519.PublicKey))
	if err != nil {
		d.t.Fatal(err)
	}
	req := wire.EnrollRequest{Capability: wire.Capability, Token: lab.Token, Key: jwk, Facts: cordon.Facts{DNSName: "web.example.com", OSPlatform: "Debian"}}
	for _, w := range with {
		w(&req)
	}
	return req
}

// proof makes an Authorization header.
func (d *device) proof(method, path string, with ...func(*seal.Proof)) string {
	d.t.Helper()
	p := seal.Proof{Machine: d.id, Method: method, Path: path, At: d.server.Service.Now(), ID: rand.Text()}
	for _, w := range with {
		w(&p)
	}
	jws, err := seal.SignProof(p, d.key)
	if err != nil {
		d.t.Fatal(err)
	}
	return "Cordon " + jws
}

// post sends a message with a good proof. It returns the status and, if that is
// not OK, what the server says.
func (d *device) post(path string, in, out any) (int, string) {
	d.t.Helper()
	body, err := json.Marshal(in)
	if err != nil {
		d.t.Fatal(err)
	}
	return d.send(http.MethodPost, path, d.proof(http.MethodPost, path), bytes.NewReader(body), out)
}

func (d *device) send(method, path, authorization string, body io.Reader, out any) (int, string) {
	d.t.Helper()
	req, err := http.NewRequestWithContext(d.t.Context(), method, d.server.URL+path, body)
	if err != nil {
		d.t.Fatal(err)
	}
	req.Header.Set("Authorization", authorization)
	resp, err := d.server.Client.Do(req)
	if err != nil {
		d.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }() // read to its end below
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	if resp.StatusCode == http.StatusOK {
		if err := json.Unmarshal(data, out); err != nil {
			d.t.Fatalf("%s: %v", data, err)
		}
		return resp.StatusCode, ""
	}
	var p wire.Problem
	if err := json.Unmarshal(data, &p); err == nil && p.Now.IsZero() {
		d.t.Errorf("%d without the server's time: %s", resp.StatusCode, data)
	}
	return resp.StatusCode, p.Error
}

// sync sends a message that must be taken in.
func (d *device) sync(m wire.FromAgent) wire.FromServer {
	d.t.Helper()
	var answer wire.FromServer
	if status, text := d.post(wire.SyncPath, m, &answer); status != http.StatusOK {
		d.t.Fatalf("sync: %d %s", status, text)
	}
	if answer.Capability != wire.Capability || answer.Now.IsZero() {
		d.t.Errorf("answer %+v", answer)
	}
	return answer
}

func (d *device) dial() *websocket.Conn {
	d.t.Helper()
	ws, _, err := websocket.Dial(d.t.Context(), d.server.URL+wire.ConnectPath, &websocket.DialOptions{
		HTTPClient: d.server.Client, HTTPHeader: http.Header{"Authorization": {d.proof(http.MethodGet, wire.ConnectPath)}},
	})
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { _ = ws.CloseNow() }) // it may be closed already
	return ws
}

func (d *device) write(ws *websocket.Conn, m any) {
	d.t.Helper()
	data, err := json.Marshal(m)
	if err == nil {
		err = ws.Write(d.t.Context(), websocket.MessageText, data)
	}
	if err != nil {
		d.t.Fatal(err)
	}
}

func (d *device) read(ws *websocket.Conn) wire.FromServer {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), time.Minute)
	defer cancel()
	_, data, err := ws.Read(ctx)
	var m wire.FromServer
	if err == nil {
		err = json.Unmarshal(data, &m)
	}
	if err != nil {
		d.t.Fatal(err)
	}
	return m
}

// report signs a report of this device.
func (d *device) report(a cordon.Action, state cordon.ReportState, with ...func(*cordon.Report)) string {
	d.t.Helper()
	r := cordon.Report{Machine: d.id, Action: a.ID, Generation: a.Generation, State: state, Observed: cordon.Observed{Generation: a.Generation, Enforcer: "fake"}}
	for _, w := range with {
		w(&r)
	}
	jws, err := seal.Report(r, d.key)
	if err != nil {
		d.t.Fatal(err)
	}
	return jws
}

func (d *device) orders(jws []string) []cordon.Order {
	d.t.Helper()
	var orders []cordon.Order
	for _, o := range jws {
		order, err := seal.OpenOrder(o, d.server.OrderKey.Public().(ed25519.PublicKey))
		if err != nil {
			d.t.Fatal(err)
		}
		orders = append(orders, order)
	}
	return orders
}
