// Package wire is the protocol between agent and server: the types that travel
// and the numbers that bound them. It holds no behaviour.
//
// # Routes
//
//	POST /agent/v1/enroll   [EnrollRequest] → [EnrollResponse]
//	GET  /agent/v1/connect  WebSocket; each text message is one [FromAgent] or [FromServer]
//	POST /agent/v1/sync     [FromAgent] → [FromServer]; with Wait it is the long-poll fallback
//
// Every request carries "Authorization: Cordon PROOF", a proof signed with the
// machine's key (package seal). The channel itself is trusted with nothing:
// what counts are the signed orders and reports in it, and both sides may lose
// or repeat any message without harm.
//
// # Versions
//
// [Capability] is one number that only grows; each side sends its own and
// copes with the other's.
package wire

import (
	"encoding/json"
	"time"

	"github.com/cordon-project/cordon"
)

// Capability is the version of the protocol that this build speaks.
//
//   - 1 (2026-11): enrol, connect, sync; restrict, unrestrict, cancel.
const Capability = 1

// The paths of the routes.
const (
	EnrollPath  = "/agent/v1/enroll"
	ConnectPath = "/agent/v1/connect"
	SyncPath    = "/agent/v1/sync"
)

// Scheme is the scheme of the Authorization header that carries a proof.
const Scheme = "Cordon"

// Limits of the channel.
const (
	MaxMessage  = 1 << 20          // bytes of one message in either direction
	MaxReports  = 64               // reports in one message
	MaxKinds    = 8                // kinds of findings in one message
	TellEvery   = 10 * time.Second // how often an agent tells new findings, which it gathers for up to 5 s
	PingEvery   = 30 * time.Second // the agent pings; proxies cut idle connections at about 60 s
	MaxWait     = 55 * time.Second // longest long poll
	ProofWindow = 2 * time.Minute  // how far a proof's time may be from the server's
	SyncEvery   = 10 * time.Minute // a connected agent asks for what a lost nudge would have told it
)

// EnrollRequest introduces a machine. The proof of the request is signed with Key.
type EnrollRequest struct {
	Capability int             `json:"capability"`
	Token      string          `json:"token"`
	Key        json.RawMessage `json:"key"` // JWK
	Facts      cordon.Facts    `json:"facts"`
}

// EnrollResponse tells the machine who it is and whom it obeys from now on.
type EnrollResponse struct {
	Capability int              `json:"capability"`
	Machine    cordon.MachineID `json:"machineId"`
	Tenant     string           `json:"tenantId"`
	OrderKey   json.RawMessage  `json:"orderKey"` // JWK; the agent pins it
}

// FromAgent is what a machine says. All members are optional but Observed.
type FromAgent struct {
	Capability int               `json:"capability"`
	Nonce      string            `json:"nonce,omitempty"` // asks for the server's signed time
	Facts      *cordon.Facts     `json:"facts,omitempty"` // at the start of a connection and when they change
	Observed   *cordon.Observed  `json:"observed,omitempty"`
	Reports    []string          `json:"reports,omitempty"`  // signed, oldest first
	Findings   []cordon.Findings `json:"findings,omitempty"` // what is new of files that are not trusted, each kind at most once
	WaitMS     int               `json:"waitMs,omitempty"`   // sync only: hold the answer until there is an order, at most this long
}

// FromServer is what the server says.
type FromServer struct {
	Capability int               `json:"capability"`
	Time       string            `json:"time,omitempty"`    // signed, in answer to a nonce
	Orders     []string          `json:"orders,omitempty"`  // signed, in the order of their generations
	Settled    []cordon.ActionID `json:"settled,omitempty"` // reports on these were taken in; need not be sent again
	Policy     string            `json:"policy,omitempty"`  // signed, if the machine is to have another one than it said
	Told       []Told            `json:"told,omitempty"`    // these findings were taken in
	Now        time.Time         `json:"now"`               // unsigned: good enough to date a proof, for nothing else
}

// Told names findings; see [cordon.Findings].
type Told struct {
	Kind     cordon.FindingKind `json:"kind"`
	Series   string             `json:"series"`
	Sequence uint64             `json:"sequence"`
}

// Problem is the body of every error answer.
type Problem struct {
	Error string    `json:"error"`
	Now   time.Time `json:"now"` // see [FromServer.Now]
}
