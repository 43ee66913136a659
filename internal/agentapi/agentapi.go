// Package agentapi is the edge that agents talk to: it enrols machines, checks
// that each request comes from the machine that it says, hands out signed
// orders, and takes in signed reports.
//
// # What it promises
//
// Before anything is kept for a caller its proof is verified, or its enrolment
// token. A report is passed on only with a valid signature of the machine that
// the connection belongs to. It answers "settled" for a report only after the
// store has made its effect durable. A connection gets its lists of orders one
// after the other, none before the answer to its first message. Each connection
// costs one goroutine; all others that the package starts end with the server's
// context.
package agentapi

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/hub"
	"github.com/cordon-project/cordon/internal/seal"
	"github.com/cordon-project/cordon/internal/wire"
)

// Config is what the edge needs. All fields are required.
type Config struct {
	Service  *cordon.Service
	Hub      *hub.Hub
	Tenant   string
	OrderJWK json.RawMessage // public half of the order key
	// SignTime signs the server's time with the order key.
	SignTime func(seal.Time) (string, error)
	Log      *slog.Logger
}

// API serves the agents' routes. Make one with [New].
type API struct {
	Config
	proofs *replayGuard
	live   sync.WaitGroup // WebSockets that are being served
}

// New returns the edge. It starts nothing.
func New(c Config) *API {
	return &API{Config: c, proofs: newReplayGuard(2 * wire.ProofWindow)}
}

// Register adds the routes to mux.
func (a *API) Register(mux *http.ServeMux) {
	mux.HandleFunc("POST "+wire.EnrollPath, a.enroll)
	mux.HandleFunc("GET "+wire.ConnectPath, a.connect)
	mux.HandleFunc("POST "+wire.SyncPath, a.sync)
}

// Wait returns when the last WebSocket is not served any more. Closing the hub
// ends them all.
func (a *API) Wait() { a.live.Wait() }

// Sweep ends connections that have fallen silent and stores when the others
// were last heard of, every interval until ctx ends.
func (a *API) Sweep(ctx context.Context, interval time.Duration) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			seen := a.Hub.Sweep(a.Service.Now().Add(-3 * wire.PingEvery))
			if err := a.Service.Store.TouchMachines(ctx, seen); err != nil && ctx.Err() == nil {
				a.Log.ErrorContext(ctx, "could not store when machines were last seen", "err", err)
			}
		}
	}
}

func (a *API) enroll(w http.ResponseWriter, r *http.Request) {
	var req wire.EnrollRequest
	if err := readJSON(w, r, &req); err != nil {
		a.fail(w, r, err)
		return
	}
	key, err := seal.PublicKey(req.Key)
	if err != nil {
		a.fail(w, r, cordon.Errorf(cordon.Invalid, cordon.CodeInvalidBody, "The machine's key cannot be read: it must be an Ed25519 public key as a JWK"))
		return
	}
	now := a.Service.Now()
	proof, err := seal.OpenProof(proofOf(r), key)
	if err == nil {
		err = a.checkToken(r.Context(), req.Token) // first: anybody can make a key and prove it
	}
	if err == nil {
		err = a.checkProof(r, proof, cordon.IDOfKey(key), now)
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	m := cordon.Machine{ID: cordon.IDOfKey(key), DeviceID: cordon.DeviceIDOfKey(key), Key: key, Facts: req.Facts, FirstSeen: now, LastSeen: now}
	if m.Facts.LastIP == "" {
		m.Facts.LastIP = remoteIP(r)
	}
	created, err := a.Service.Store.EnrolMachine(r.Context(), m)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	a.Log.InfoContext(r.Context(), "machine enrolled", "machine", m.ID, "dnsName", m.Facts.DNSName, "new", created)
	writeJSON(w, http.StatusOK, wire.EnrollResponse{Capability: wire.Capability, Machine: m.ID, Tenant: a.Tenant, OrderKey: a.OrderJWK})
}

func (a *API) checkToken(ctx context.Context, token string) error {
	want, err := a.Service.Store.Setting(ctx, cordon.EnrollmentTokenSetting)
	if err != nil {
		return err
	}
	got := sha256.Sum256([]byte(token))
	if subtle.ConstantTimeCompare(got[:], want) != 1 {
		return cordon.Errorf(cordon.Forbidden, cordon.CodeEnrollmentRefused, "The enrolment token is not valid. Use the one of this server's bootstrap.json")
	}
	return nil
}

// connect serves a machine's WebSocket until either side ends it.
func (a *API) connect(w http.ResponseWriter, r *http.Request) {
	m, err := a.authenticate(r)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	c := &connection{API: a, machine: m, ip: remoteIP(r)}
	c.ws, err = websocket.Accept(w, r, &websocket.AcceptOptions{
		CompressionMode: websocket.CompressionDisabled,
		OnPingReceived: func(context.Context, []byte) bool {
			a.Hub.Seen(c.member, a.Service.Now())
			return true
		},
	})
	if err != nil {
		a.Log.InfoContext(r.Context(), "connection not upgraded", "machine", m, "err", err)
		return
	}
	c.ws.SetReadLimit(wire.MaxMessage)
	// On a goroutine of its own: this one has the request with all that belongs to
	// it, and a stack that the TLS handshake has made large, for as long as it lives.
	a.live.Go(c.serve)
}

// connection is a machine's WebSocket.
type connection struct {
	*API
	machine cordon.MachineID
	ip      string
	ws      *websocket.Conn
	member  *hub.Member // set before the first read
}

// serve converses until either side ends it; on graceful stop the hub does.
func (c *connection) serve() {
	a, m, ws := c.API, c.machine, c.ws
	defer func() { _ = ws.CloseNow() }() // it may be closed already
	ctx, end := context.WithCancel(context.Background())
	defer end()
	send := func(msg wire.FromServer) error {
		data, err := json.Marshal(msg)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, writeTimeout)
		defer cancel()
		return ws.Write(ctx, websocket.MessageText, data)
	}
	// One list of orders at a time, so that none overtakes a newer one; and none
	// before the first answer, which tells the machine the time to judge them by.
	turn := make(chan struct{}, 1)
	offer := func() {
		select {
		case turn <- struct{}{}:
		case <-ctx.Done():
			return
		}
		defer func() { <-turn }()
		orders, err := a.Service.Orders(ctx, m)
		if err == nil && len(orders) > 0 {
			err = send(wire.FromServer{Capability: wire.Capability, Orders: orders, Now: a.Service.Now()})
		}
		var policy string
		if err == nil {
			policy, err = a.policy(ctx, m, nil)
		}
		if err == nil && policy != "" {
			err = send(wire.FromServer{Capability: wire.Capability, Policy: policy, Now: a.Service.Now()})
		}
		if err != nil {
			if ctx.Err() == nil {
				a.Log.ErrorContext(ctx, "orders not offered, connection ended", "machine", m, "err", err)
			}
			end() // they are offered again at the next connect
		}
	}
	turn <- struct{}{}
	if c.member = a.Hub.Join(m, offer, end, a.Service.Now()); c.member == nil {
		_ = ws.Close(websocket.StatusTryAgainLater, "the server is stopping") // a farewell; the connection ends in any case
		return
	}
	defer a.Hub.Leave(c.member)
	for first := true; ; first = false {
		_, data, err := ws.Read(ctx)
		if err != nil {
			return
		}
		a.Hub.Seen(c.member, a.Service.Now())
		var msg wire.FromAgent
		if err := json.Unmarshal(data, &msg); err != nil {
			_ = ws.Close(websocket.StatusInvalidFramePayloadData, "not a message of this protocol") // a farewell; the connection ends in any case
			return
		}
		if !first {
			turn <- struct{}{}
		}
		answer, err := a.handle(ctx, m, c.ip, msg)
		if err == nil {
			err = send(answer)
		}
		<-turn
		if err != nil {
			if ctx.Err() == nil {
				a.Log.ErrorContext(ctx, "message not handled, connection ended", "machine", m, "err", err)
			}
			_ = ws.Close(websocket.StatusInternalError, "try again later") // a farewell; the connection ends in any case
			return
		}
	}
}

const writeTimeout = 10 * time.Second

// sync is one exchange without a WebSocket; with a wait it holds the answer
// until there is an order.
func (a *API) sync(w http.ResponseWriter, r *http.Request) {
	m, err := a.authenticate(r)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	var msg wire.FromAgent
	if err := readJSON(w, r, &msg); err != nil {
		a.fail(w, r, err)
		return
	}
	wait := min(time.Duration(msg.WaitMS)*time.Millisecond, wire.MaxWait)
	woken := make(chan struct{}, 1)
	if wait > 0 {
		// Joined before the orders are looked up, so that none falls in between.
		wake := func() {
			select {
			case woken <- struct{}{}:
			default:
			}
		}
		member := a.Hub.Join(m, wake, wake, a.Service.Now())
		if member == nil {
			a.fail(w, r, &cordon.Error{Kind: cordon.Unavailable, Message: "The server is stopping. Try again shortly"})
			return
		}
		defer a.Hub.Leave(member)
	}
	answer, err := a.handle(r.Context(), m, remoteIP(r), msg)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	if wait > 0 && len(answer.Orders) == 0 && answer.Policy == "" && len(msg.Reports) == 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-woken:
			if answer.Orders, err = a.Service.Orders(r.Context(), m); err != nil {
				a.fail(w, r, err)
				return
			}
			if answer.Policy, err = a.policy(r.Context(), m, msg.Observed); err != nil {
				a.fail(w, r, err)
				return
			}
		case <-timer.C:
		case <-r.Context().Done():
			return
		}
		answer.Now = a.Service.Now()
	}
	writeJSON(w, http.StatusOK, answer)
}

// handle takes in what a machine says and returns the answer. A message with a
// nonce asks for everything that waits for the machine; one without only tells.
func (a *API) handle(ctx context.Context, m cordon.MachineID, ip string, msg wire.FromAgent) (wire.FromServer, error) {
	now := a.Service.Now()
	answer := wire.FromServer{Capability: wire.Capability, Now: now}
	if len(msg.Reports) > wire.MaxReports {
		return answer, cordon.Errorf(cordon.Invalid, cordon.CodeInvalidBody, "A message carries at most %d reports, this one has %d", wire.MaxReports, len(msg.Reports))
	}
	if len(msg.Reports) > 0 {
		machine, err := a.Service.Store.Machine(ctx, m)
		if err != nil {
			return answer, err
		}
		for _, jws := range msg.Reports {
			id, err := a.report(ctx, machine, jws)
			if err != nil {
				return answer, err
			}
			if id != "" {
				answer.Settled = append(answer.Settled, id)
			}
		}
	}
	if msg.Observed != nil && (msg.Facts != nil || len(msg.Reports) == 0) {
		if msg.Facts != nil && msg.Facts.LastIP == "" {
			msg.Facts.LastIP = ip
		}
		if err := a.Service.Store.MachineSaid(ctx, m, msg.Facts, *msg.Observed, now); err != nil {
			return answer, err
		}
	}
	if len(msg.Findings) > wire.MaxKinds {
		return answer, cordon.Errorf(cordon.Invalid, cordon.CodeInvalidBody, "A message carries at most %d kinds of findings, this one has %d", wire.MaxKinds, len(msg.Findings))
	}
	for _, s := range msg.Findings {
		// What can never be taken in is settled too, or it would come forever.
		if err := a.Service.Seen(ctx, m, s); cordon.KindOf(err) == cordon.Invalid {
			a.Log.WarnContext(ctx, "findings refused", "machine", m, "err", err)
		} else if err != nil {
			return answer, err
		}
		answer.Told = append(answer.Told, wire.Told{Kind: s.Kind, Series: s.Series, Sequence: s.Sequence})
	}
	if msg.Nonce == "" {
		return answer, nil
	}
	var err error
	if answer.Time, err = a.SignTime(seal.Time{Machine: m, Nonce: msg.Nonce, Now: now}); err != nil {
		return answer, err
	}
	if answer.Policy, err = a.policy(ctx, m, msg.Observed); err != nil {
		return answer, err
	}
	answer.Orders, err = a.Service.Orders(ctx, m)
	return answer, err
}

// policy returns the signed trust policy that a machine is to get, given what it
// says of itself, or nil for what it said last; "" if it has what it should have.
func (a *API) policy(ctx context.Context, m cordon.MachineID, o *cordon.Observed) (string, error) {
	if o == nil {
		machine, err := a.Service.Store.Machine(ctx, m)
		if err != nil {
			return "", err
		}
		o = &machine.Observed
	}
	jws, err := a.Service.Policy(ctx, m, o.Policy)
	if cordon.KindOf(err) == cordon.Invalid {
		a.Log.WarnContext(ctx, "no trust policy for this machine", "machine", m, "err", err)
		return "", nil
	}
	return jws, err
}

// report takes in one signed report and returns the action that is settled by
// it, if it is an outcome: the machine keeps those until then, and nothing else.
// An outcome that can never be taken in, because it is about no known action or
// another machine's, is logged and settled too, or it would come forever.
func (a *API) report(ctx context.Context, m cordon.Machine, jws string) (cordon.ActionID, error) {
	r, err := seal.OpenReport(jws, m.Key)
	if err != nil {
		a.Log.WarnContext(ctx, "report refused", "machine", m.ID, "err", err)
		return "", nil
	}
	action, err := a.Service.Report(ctx, m.ID, r, jws)
	switch kind := cordon.KindOf(err); {
	case err == nil:
		a.Log.InfoContext(ctx, "report", "machine", m.ID, "action", r.Action, "generation", r.Generation, "state", r.State, "error", r.Error, "status", action.Status)
	case kind == cordon.NotFound || kind == cordon.Forbidden:
		a.Log.WarnContext(ctx, "report refused", "machine", m.ID, "action", r.Action, "err", err)
	default:
		return "", err
	}
	if r.State == cordon.ReportInProgress || r.State == cordon.ReportRefused {
		return "", nil
	}
	return r.Action, nil
}

// readJSON decodes the request's body.
func readJSON(w http.ResponseWriter, r *http.Request, v any) error {
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, wire.MaxMessage))
	if err == nil {
		err = json.Unmarshal(data, v)
	}
	if err != nil {
		return &cordon.Error{Kind: cordon.Invalid, Code: cordon.CodeInvalidBody, Message: "The request body is not a message of this protocol", Err: err}
	}
	return nil
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client has gone; there is nobody left to tell
}

var statusOf = map[cordon.Kind]int{
	cordon.Invalid: http.StatusBadRequest, cordon.Unauthenticated: http.StatusUnauthorized, cordon.Forbidden: http.StatusForbidden,
	cordon.NotFound: http.StatusNotFound, cordon.Conflict: http.StatusConflict, cordon.Limited: http.StatusTooManyRequests,
	cordon.Unavailable: http.StatusServiceUnavailable,
}

// fail writes err as a [wire.Problem]. What the domain did not classify is
// logged and not shown.
func (a *API) fail(w http.ResponseWriter, r *http.Request, err error) {
	status, text := http.StatusInternalServerError, "The server could not do this. Try again later"
	var known *cordon.Error
	if errors.As(err, &known) && statusOf[known.Kind] != 0 {
		status, text = statusOf[known.Kind], known.Message
	}
	level := slog.LevelInfo
	if status == http.StatusInternalServerError {
		level = slog.LevelError
	}
	a.Log.Log(r.Context(), level, "agent request refused", "path", r.URL.Path, "status", status, "err", err)
	writeJSON(w, status, wire.Problem{Error: text, Now: a.Service.Now()})
}

func remoteIP(r *http.Request) string {
	host := r.RemoteAddr
	if i := strings.LastIndexByte(host, ':'); i >= 0 {
		host = host[:i]
	}
	return strings.Trim(host, "[]")
}
