package agent

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/seal"
)

// SocketName is the agent's unix socket within its data directory. The
// directory and the socket are accessible to root only.
const SocketName = "agent.sock"

// Status is what the agent says of itself to root on its own machine.
type Status struct {
	Machine   cordon.MachineID `json:"machineId"` // empty: not enrolled
	Tenant    string           `json:"tenantId"`
	Server    string           `json:"server"`
	OrderKey  string           `json:"orderKey"`  // SHA-256 of the pinned key, hex: "cordon actions verify" shows the same
	Transport string           `json:"transport"` // websocket, sync; empty: not connected
	Since     time.Time        `json:"since"`     // of the transport, or of its loss
	LastError string           `json:"lastError,omitempty"`
	Standing  cordon.Standing  `json:"standing"`
	Applying  bool             `json:"applying"` // an order is being applied now
	Unsettled int              `json:"unsettled"`
	Observed  cordon.Observed  `json:"observed"`
}

// Applied is the answer to a carried order.
type Applied struct {
	State  cordon.ReportState `json:"state"`
	Error  string             `json:"error,omitempty"`
	Report string             `json:"report"` // signed; unless it is Refused the server gets it at the next contact
}

// view is the part of the state that Status shows, kept apart so that nobody
// has to wait for an order that is being applied.
type view struct {
	machine   cordon.MachineID
	tenant    string
	orderKey  string
	standing  cordon.Standing
	unsettled int
	clock     clock
	policy    cordon.PolicyState
	silence   cordon.Silence
}

// publish is called with mu held, after every change.
func (a *Agent) publish() {
	v := &view{standing: a.st.Standing, unsettled: len(a.st.Outbox), clock: a.clock, policy: a.policy.State(), silence: a.st.Silence}
	if a.id != nil {
		sum := sha256.Sum256(a.orderKey)
		v.machine, v.tenant, v.orderKey = a.id.Machine, a.id.Tenant, hex.EncodeToString(sum[:])
	}
	a.public.Store(v)
}

// Status returns how things stand. It never waits.
func (a *Agent) Status() Status {
	v, now := a.public.Load(), a.cfg.Now()
	s := Status{
		Machine: v.machine, Tenant: v.tenant, Server: a.cfg.Server, OrderKey: v.orderKey, Standing: v.standing, Unsettled: v.unsettled,
		Applying: unfinished(v.standing), Observed: a.enforcement.Observe(),
	}
	stand(&s.Observed, v.standing, v.silence.Until(a.cfg.Boot()))
	s.Observed.Policy = v.policy
	s.Observed.At, s.Observed.ClockOffset = now.UTC(), v.clock.offset(now).Milliseconds()
	a.linkMu.Lock()
	defer a.linkMu.Unlock()
	s.Transport, s.Since, s.LastError = a.link.Transport, a.link.Since, a.link.LastError
	return s
}

// ServeLocal answers on the unix socket until ctx ends.
func (a *Agent) ServeLocal(ctx context.Context) error {
	path := filepath.Join(a.dir.path, SocketName)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove stale socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return fmt.Errorf("listen on agent socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return errors.Join(fmt.Errorf("protect agent socket: %w", err), l.Close())
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) { reply(w, http.StatusOK, a.Status()) })
	mux.HandleFunc("GET /preview", a.showPreview)
	mux.HandleFunc("POST /apply", a.applyCarried)
	mux.HandleFunc("POST /admit", a.admit)
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() }) // Serve below returns its error
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve agent socket: %w", err)
	}
	return nil
}

// Previewed is the answer to a question for a preview.
type Previewed struct {
	cordon.Preview
	Error string `json:"error,omitempty"` // why there is none
}

func (a *Agent) showPreview(w http.ResponseWriter, r *http.Request) {
	if a.preview == nil {
		reply(w, http.StatusServiceUnavailable, Previewed{Error: "this agent has no trust set to compare with"})
		return
	}
	p, err := a.preview(r.Context())
	if err != nil {
		reply(w, http.StatusServiceUnavailable, Previewed{Error: err.Error()})
		return
	}
	reply(w, http.StatusOK, Previewed{Preview: p})
}

func (a *Agent) applyCarried(w http.ResponseWriter, r *http.Request) {
	jws, err := io.ReadAll(http.MaxBytesReader(w, r.Body, seal.MaxSize))
	if err != nil {
		reply(w, http.StatusBadRequest, Applied{State: cordon.ReportRefused, Error: fmt.Sprintf("an order has at most %d bytes", seal.MaxSize)})
		return
	}
	// The order is taken up whether or not the caller waits for the answer.
	report, err := a.TakeCarried(context.WithoutCancel(r.Context()), string(jws))
	if report == "" {
		reply(w, http.StatusConflict, Applied{State: cordon.ReportRefused, Error: err.Error()})
		return
	}
	a.wake()
	own, err := seal.OpenReport(report, a.key.Public().(ed25519.PublicKey))
	if err != nil {
		reply(w, http.StatusInternalServerError, Applied{State: cordon.ReportFailed, Error: err.Error(), Report: report})
		return
	}
	reply(w, http.StatusOK, Applied{State: own.State, Error: own.Error, Report: report})
}

// maxAdmission bounds a list of archives, in bytes. A release upgrade has some
// thousands of them.
const maxAdmission = 4 << 20

// Admission asks to let run what archives bring.
type Admission struct {
	Paths []string `json:"paths"` // absolute
}

// Admitted is the answer: an error, a sentence or several for people, or none.
type Admitted struct {
	Error string `json:"error,omitempty"`
}

func (a *Agent) admit(w http.ResponseWriter, r *http.Request) {
	var ask Admission
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxAdmission)).Decode(&ask); err != nil {
		reply(w, http.StatusBadRequest, Admitted{Error: "the list of archives cannot be read: " + err.Error()})
		return
	}
	if a.cfg.Admit == nil {
		reply(w, http.StatusOK, Admitted{})
		return
	}
	if err := a.cfg.Admit(r.Context(), ask.Paths); err != nil {
		reply(w, http.StatusForbidden, Admitted{Error: err.Error()})
		return
	}
	reply(w, http.StatusOK, Admitted{})
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the caller has gone; there is nobody left to tell
}

// Local is a client of a running agent's socket.
type Local struct{ http *http.Client }

// DialLocal returns a client for the agent with this data directory. It does
// not connect yet.
func DialLocal(dataDir string) *Local {
	path := filepath.Join(dataDir, SocketName)
	return &Local{&http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}}}
}

// Status asks the agent how things stand.
func (l *Local) Status(ctx context.Context) (s Status, err error) {
	return s, l.do(ctx, http.MethodGet, "/status", nil, &s)
}

// Preview asks the agent what a restriction would hit.
func (l *Local) Preview(ctx context.Context) (p Previewed, err error) {
	return p, l.do(ctx, http.MethodGet, "/preview", nil, &p)
}

// Apply hands the agent a carried order or release. What the agent decided, a refusal
// included, is in the result; the error is for an agent that cannot be reached.
func (l *Local) Apply(ctx context.Context, order io.Reader) (r Applied, err error) {
	return r, l.do(ctx, http.MethodPost, "/apply", order, &r)
}

// Admit asks the agent to let run what the archives at paths bring. What the
// agent decided is in the result; the error is for an agent that cannot be reached.
func (l *Local) Admit(ctx context.Context, paths []string) (r Admitted, err error) {
	body, err := json.Marshal(Admission{Paths: paths})
	if err != nil {
		return r, err
	}
	return r, l.do(ctx, http.MethodPost, "/admit", bytes.NewReader(body), &r)
}

func (l *Local) do(ctx context.Context, method, path string, body io.Reader, out any) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, body)
	if err != nil {
		return err
	}
	resp, err := l.http.Do(req)
	if err != nil {
		return fmt.Errorf("reach agent: %w", err)
	}
	defer func() { _ = resp.Body.Close() }() // read to its end or given up
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fmt.Errorf("read the agent's answer: %w", err)
	}
	return nil
}
