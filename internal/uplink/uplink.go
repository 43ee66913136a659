// Package uplink is a machine's way to its server: requests and a WebSocket, each
// with a proof that the machine's key has signed. What travels on it is package
// wire's, and what is said the caller's.
//
// # What it promises
//
// Every wait has an end. A machine whose clock is wrong gets in all the same: a
// server that does not accept a proof names its own time, which dates the next
// one and is believed for nothing else. Where only the WebSocket does not get
// through, the error is [ErrNoUpgrade]; what the server itself answers is told
// apart from what something in between makes of it.
package uplink

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/seal"
	"github.com/cordon-project/cordon/internal/wire"
)

// answerWithin is how long the server may take for an answer, beyond the time
// that a long poll asks it to wait.
const answerWithin = 20 * time.Second

// idle is how many connections are kept for the next request: a fleet of
// machines may enrol through one Server.
const idle = 16

// Roots reads the certificates (PEM) that a server's has to be signed with.
// Without a file the result is nil, which is the system's.
func Roots(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, cordon.Errorf(cordon.Invalid, cordon.CodeInvalidInput, "cannot read the CA file: %v", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, cordon.Errorf(cordon.Invalid, cordon.CodeInvalidInput, "the CA file %s holds no certificate in PEM form", file)
	}
	return roots, nil
}

// Server is where machines go. It is safe for concurrent use.
type Server struct {
	base string
	http *http.Client
	now  func() time.Time
}

// New returns the server at a base URL, https://host[:port], whose certificate
// roots vouch for. now is the machines' clock.
func New(base string, roots *x509.CertPool, now func() time.Time) (*Server, error) {
	u, err := url.Parse(base)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, cordon.Errorf(cordon.Invalid, cordon.CodeInvalidInput, "the server's URL %q must be of the form https://host[:port]", base)
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}
	t.ForceAttemptHTTP2 = false // a WebSocket upgrade is HTTP/1.1, and one connection serves both
	t.MaxIdleConnsPerHost = idle
	return &Server{base: strings.TrimRight(base, "/"), http: &http.Client{Transport: t}, now: now}, nil
}

// Close closes the connections that no request uses.
func (s *Server) Close() { s.http.CloseIdleConnections() }

// Machine returns the way of the machine with this key.
func (s *Server) Machine(key ed25519.PrivateKey) *Machine { return &Machine{server: s, key: key} }

// Machine is one machine's way to its server. One goroutine may use it at a time.
type Machine struct {
	server *Server
	key    ed25519.PrivateKey
	skew   time.Duration // server's clock minus ours, unverified: dates proofs and nothing else
}

// Enrol introduces the machine, and returns the server's answer with the order
// key that it names, checked to be about this machine. It is an error with
// [cordon.CodeEnrollmentRefused] if trying again will not help.
func (m *Machine) Enrol(ctx context.Context, token string, facts cordon.Facts) (wire.EnrollResponse, ed25519.PublicKey, error) {
	public := m.key.Public().(ed25519.PublicKey)
	jwk, err := seal.MarshalKey(public)
	if err != nil {
		return wire.EnrollResponse{}, nil, err
	}
	var answer wire.EnrollResponse
	err = m.do(ctx, wire.EnrollPath, wire.EnrollRequest{Capability: wire.Capability, Token: token, Key: jwk, Facts: facts}, &answer)
	var no *refusal
	if errors.As(err, &no) && no.own && (no.status == http.StatusForbidden || no.status == http.StatusBadRequest) {
		return answer, nil, EnrolmentRefused(no.text)
	}
	if err != nil {
		return answer, nil, fmt.Errorf("enrol: %w", err)
	}
	if id := cordon.IDOfKey(public); answer.Machine != id {
		return answer, nil, EnrolmentRefused(fmt.Sprintf("the server named this machine %s, its key makes it %s", answer.Machine, id))
	}
	orderKey, err := seal.PublicKey(answer.OrderKey)
	if err != nil {
		return answer, nil, EnrolmentRefused("the server's order key cannot be read: " + err.Error())
	}
	return answer, orderKey, nil
}

// EnrolmentRefused is the error of an enrolment that there is no use in trying again.
func EnrolmentRefused(why string) error {
	return &cordon.Error{Kind: cordon.Forbidden, Code: cordon.CodeEnrollmentRefused, Message: why}
}

// Sync says something in a request of its own, and returns the answer. It may
// take as long as msg asks the server to wait.
func (m *Machine) Sync(ctx context.Context, msg wire.FromAgent) (answer wire.FromServer, err error) {
	return answer, m.do(ctx, wire.SyncPath, msg, &answer)
}

// refusal is an answer that says no.
type refusal struct {
	status int
	text   string
	own    bool // the server itself gave it, and not something in between
}

// Error is what the server said.
func (r *refusal) Error() string { return r.text }

// proof is the Authorization header of a request.
func (m *Machine) proof(method, path string) (string, error) {
	p, err := seal.SignProof(seal.Proof{
		Machine: cordon.IDOfKey(m.key.Public().(ed25519.PublicKey)), Method: method, Path: path,
		At: m.server.now().Add(m.skew).UTC(), ID: rand.Text(),
	}, m.key)
	return wire.Scheme + " " + p, err
}

// again tries once more, with the clock that the answer named, if the server
// does not accept the proof.
func again(try func() error) error {
	err := try()
	var no *refusal
	if errors.As(err, &no) && no.status == http.StatusUnauthorized {
		err = try()
	}
	return err
}

// do sends a request.
func (m *Machine) do(ctx context.Context, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	return again(func() error { return m.once(ctx, path, body, out) })
}

func (m *Machine) once(ctx context.Context, path string, body []byte, out any) error {
	ctx, cancel := context.WithTimeout(ctx, wire.MaxWait+answerWithin)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, m.server.base+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	proof, err := m.proof(http.MethodPost, path)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", proof)
	resp, err := m.server.http.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // read to its end or given up
	if resp.StatusCode != http.StatusOK {
		return m.problem(resp)
	}
	return json.NewDecoder(io.LimitReader(resp.Body, wire.MaxMessage)).Decode(out)
}

// problem reads an answer that says no, and learns the server's clock from it.
func (m *Machine) problem(resp *http.Response) *refusal {
	var p wire.Problem
	data, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil || json.Unmarshal(data, &p) != nil || p.Error == "" || p.Now.IsZero() {
		return &refusal{status: resp.StatusCode, text: "the server answered " + resp.Status}
	}
	m.skew = p.Now.Sub(m.server.now())
	return &refusal{status: resp.StatusCode, text: p.Error, own: true}
}
