package agentapi

import (
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/seal"
	"github.com/cordon-project/cordon/internal/wire"
)

func proofOf(r *http.Request) string {
	scheme, proof, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, wire.Scheme) {
		return ""
	}
	return strings.TrimSpace(proof)
}

// authenticate returns the machine whose key signed the request's proof. Every
// failure reads the same to the caller, except a clock that is off: the agent
// can mend that with the time in the answer.
func (a *API) authenticate(r *http.Request) (cordon.MachineID, error) {
	jws := proofOf(r)
	if jws == "" {
		return "", cordon.Errorf(cordon.Unauthenticated, "", "The request carries no proof (Authorization: %s …)", wire.Scheme)
	}
	id, err := seal.ProofSubject(jws)
	if err != nil {
		return "", err
	}
	m, err := a.Service.Store.Machine(r.Context(), id)
	if cordon.KindOf(err) == cordon.NotFound {
		return "", cordon.Errorf(cordon.Unauthenticated, cordon.CodeUnverifiedEvidence, "Machine %s is not enrolled here. Enrol it with a new --data-dir and a valid enrolment token", id)
	}
	if err != nil {
		return "", err
	}
	proof, err := seal.OpenProof(jws, m.Key)
	if err != nil {
		return "", err
	}
	return m.ID, a.checkProof(r, proof, m.ID, a.Service.Now())
}

func (a *API) checkProof(r *http.Request, p seal.Proof, m cordon.MachineID, now time.Time) error {
	switch off := p.At.Sub(now); {
	case p.Machine != m:
		return cordon.Errorf(cordon.Unauthenticated, cordon.CodeUnverifiedEvidence, "The proof is not for the key that signed it")
	case p.Method != r.Method || p.Path != r.URL.Path:
		return cordon.Errorf(cordon.Unauthenticated, cordon.CodeUnverifiedEvidence, "The proof is for another request (%s %s)", p.Method, p.Path)
	case off > wire.ProofWindow || off < -wire.ProofWindow:
		return cordon.Errorf(cordon.Unauthenticated, cordon.CodeUnverifiedEvidence, "The proof is dated %s, the server's clock says %s", p.At.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	case p.ID == "" || len(p.ID) > 64 || !a.proofs.first(p.ID, now):
		return cordon.Errorf(cordon.Unauthenticated, cordon.CodeUnverifiedEvidence, "The proof was used before")
	}
	return nil
}

// replayGuard remembers the proofs of the last window, in two generations, so
// that forgetting costs no work for each. Only verified proofs get here: its
// size is bounded by what enrolled machines send.
type replayGuard struct {
	window time.Duration
	mu     sync.Mutex
	turned time.Time
	now    map[string]struct{}
	before map[string]struct{}
}

func newReplayGuard(window time.Duration) *replayGuard {
	return &replayGuard{window: window, now: make(map[string]struct{})}
}

// first reports whether id was not seen within the window, and remembers it.
func (g *replayGuard) first(id string, now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if now.Sub(g.turned) > g.window {
		g.before, g.now, g.turned = g.now, make(map[string]struct{}), now
	}
	if _, ok := g.now[id]; ok {
		return false
	}
	if _, ok := g.before[id]; ok {
		return false
	}
	g.now[id] = struct{}{}
	return true
}
