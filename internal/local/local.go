// Package local is what a running agent and the commands of its own machine say
// to each other, over a unix socket in the agent's data directory.
//
// It promises that only root gets through: the directory and the socket are
// root's. What an agent answers, a refusal included, is in the results of
// [Client]; their errors are for an agent that cannot be reached.
package local

import (
	"bytes"
	"context"
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

// SocketName is the socket within the data directory.
const SocketName = "agent.sock"

// maxAdmission bounds a list of archives, in bytes. A release upgrade has some
// thousands of them.
const maxAdmission = 4 << 20

// Agent is who answers.
type Agent interface {
	// Status never waits.
	Status() Status
	// Preview looks what a restriction would hit. The error is for people.
	Preview(ctx context.Context) (cordon.Preview, error)
	// Apply takes up what was carried to the machine. ctx does not end with the
	// caller: it is taken up whether or not somebody waits for the answer.
	Apply(ctx context.Context, carried string) Applied
	// Admit lets run what the package archives at paths (absolute) bring, all or
	// none. The error, a sentence or several, is for people.
	Admit(ctx context.Context, paths []string) error
}

// Status is what an agent says of itself.
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

// Applied is the answer to what was carried.
type Applied struct {
	State  cordon.ReportState `json:"state"`
	Error  string             `json:"error,omitempty"`
	Report string             `json:"report"` // signed; unless it is Refused the server gets it at the next contact
}

// Previewed is the answer to a question for a preview.
type Previewed struct {
	cordon.Preview
	Error string `json:"error,omitempty"` // why there is none
}

// Admitted is the answer to who wants archives admitted.
type Admitted struct {
	Error string `json:"error,omitempty"` // why they are not
}

// admission asks to let run what archives bring.
type admission struct {
	Paths []string `json:"paths"`
}

// Serve answers for the agent with this data directory until ctx ends.
func Serve(ctx context.Context, dataDir string, a Agent) error {
	path := filepath.Join(dataDir, SocketName)
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
	s := server{a}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) { reply(w, a.Status()) })
	mux.HandleFunc("GET /preview", s.preview)
	mux.HandleFunc("POST /apply", s.apply)
	mux.HandleFunc("POST /admit", s.admit)
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() }) // Serve below returns its error
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve agent socket: %w", err)
	}
	return nil
}

type server struct{ Agent }

func (s server) preview(w http.ResponseWriter, r *http.Request) {
	p, err := s.Preview(r.Context())
	answer := Previewed{Preview: p}
	if err != nil {
		answer.Error = err.Error()
	}
	reply(w, answer)
}

func (s server) apply(w http.ResponseWriter, r *http.Request) {
	carried, err := io.ReadAll(http.MaxBytesReader(w, r.Body, seal.MaxSize))
	if err != nil {
		reply(w, Applied{State: cordon.ReportRefused, Error: fmt.Sprintf("an order has at most %d bytes", seal.MaxSize)})
		return
	}
	reply(w, s.Apply(context.WithoutCancel(r.Context()), string(carried)))
}

func (s server) admit(w http.ResponseWriter, r *http.Request) {
	var ask admission
	var answer Admitted
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxAdmission)).Decode(&ask); err != nil {
		answer.Error = "the list of archives cannot be read: " + err.Error()
	} else if err := s.Admit(r.Context(), ask.Paths); err != nil {
		answer.Error = err.Error()
	}
	reply(w, answer)
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the caller has gone; there is nobody left to tell
}

// Client asks a running agent.
type Client struct{ http *http.Client }

// Dial returns a client for the agent with this data directory. It does not
// connect yet.
func Dial(dataDir string) *Client {
	path := filepath.Join(dataDir, SocketName)
	return &Client{&http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}}}
}

// Status asks how things stand.
func (c *Client) Status(ctx context.Context) (s Status, err error) {
	return s, c.do(ctx, http.MethodGet, "/status", nil, &s)
}

// Preview asks what a restriction would hit.
func (c *Client) Preview(ctx context.Context) (p Previewed, err error) {
	return p, c.do(ctx, http.MethodGet, "/preview", nil, &p)
}

// Apply hands over a carried order or release.
func (c *Client) Apply(ctx context.Context, order io.Reader) (r Applied, err error) {
	return r, c.do(ctx, http.MethodPost, "/apply", order, &r)
}

// Admit asks to let run what the archives at paths (absolute) bring.
func (c *Client) Admit(ctx context.Context, paths []string) (r Admitted, err error) {
	body, err := json.Marshal(admission{paths})
	if err != nil {
		return r, err
	}
	return r, c.do(ctx, http.MethodPost, "/admit", bytes.NewReader(body), &r)
}

func (c *Client) do(ctx context.Context, method, path string, body io.Reader, out any) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, body)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("reach agent: %w", err)
	}
	defer func() { _ = resp.Body.Close() }() // read to its end or given up
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fmt.Errorf("read the agent's answer: %w", err)
	}
	return nil
}
