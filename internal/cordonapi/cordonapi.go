// Package cordonapi is the edge for what Cordon has and Defender's API has no
// words for: a machine's restriction as the machine itself reports it, the
// signed order of an action, the signed evidence of what became of it, and the
// applications that may call.
//
//	GET /cordon/v1/machines/{machine}        [Machine]
//	POST /cordon/v1/machines/{machine}/restrict  [RestrictRequest] → 201 [Action]
//	GET /cordon/v1/actions/{action}          [Action]
//	POST /cordon/v1/actions/{action}/order   the order, a compact JWS, text/plain; counts as delivered
//	GET /cordon/v1/actions/{action}/evidence [Evidence]
//	GET, POST /cordon/v1/apps                {"value":[[App],…]}; [NewApp] to [App] with its secret
//	GET, DELETE /cordon/v1/apps/{app}        [App], by client id or name
//	POST /cordon/v1/apps/{app}/grant, revoke [Permissions] to [App]
//	POST /cordon/v1/apps/{app}/secrets       [NewSecret] to [App] with its secret; DELETE …/secrets/{id}
//	POST /cordon/v1/apps/{app}/certificates  [NewCertificate] to [App]; DELETE …/certificates/{thumbprint}
//	POST /cordon/v1/machines/{machine}/break-glass  [ReleaseRequest] → 201 [Release]
//	GET /cordon/v1/machines/{machine}/blocked  [Findings]: what was refused there
//	GET /cordon/v1/machines/{machine}/preview  [Preview]: what a restriction would refuse there
//	GET /cordon/v1/trust                     [TrustList]: what is trusted by SHA-256
//	POST /cordon/v1/trust                    [TrustRequest] → [TrustAnswer]
//	DELETE /cordon/v1/trust                  [TrustRequest] → [TrustAnswer]
//	GET, POST /cordon/v1/groups              [GroupList]; [NewGroup] to [Group]
//	GET, DELETE /cordon/v1/groups/{group}    [Group], by name
//	PATCH /cordon/v1/groups/{group}          [NewGroup] to [Group]: another name
//	POST, DELETE /cordon/v1/groups/{group}/machines  [GroupMachines] → [GroupAnswer]: into it, out of it
//	GET /cordon/v1/audit                     [Log]: who changed what, but for machine actions; since, kind, before, top
//	GET /cordon/v1/releases/{release}             [Evidence] of a release: when it was signed and used
//
// It uses the same tokens and permissions as the Defender-compatible API.
// Errors are JSON: {"error":{"code","message"}}; a 405 says in Allow what there is.
// All of it is in the document [OpenAPI].
package cordonapi

import (
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/seal"
)

// Machine is the restriction of a machine.
type Machine struct {
	ID         cordon.MachineID `json:"id"`
	Generation uint64           `json:"generation"` // highest ever issued
	Observed   cordon.Observed  `json:"observed"`
}

// Evidence is what anybody needs to check what happened to an action: the keys,
// and the audit entries with the signed statements.
type Evidence struct {
	OrderKey   json.RawMessage `json:"orderKey"`   // JWK
	MachineKey json.RawMessage `json:"machineKey"` // JWK
	Entries    []Entry         `json:"entries"`
}

// Entry is a [cordon.AuditEntry] on the wire.
type Entry struct {
	Seq      int64            `json:"seq"`
	At       time.Time        `json:"at"`
	Kind     cordon.AuditKind `json:"kind"`
	Machine  cordon.MachineID `json:"machine"`
	Action   cordon.ActionID  `json:"action"`
	Actor    string           `json:"actor"`
	Status   cordon.Status    `json:"status"`
	Detail   string           `json:"detail"`
	Evidence string           `json:"evidence"`
}

// API serves the routes. All fields are required.
type API struct {
	Service      *cordon.Service
	Authenticate func(*http.Request) (cordon.Caller, error)
	OrderJWK     json.RawMessage
	Log          *slog.Logger
}

func (a *API) machine(w http.ResponseWriter, r *http.Request, c cordon.Caller) error {
	m, err := a.Service.Find(r.Context(), c, cordon.ReadMachines, r.PathValue("machine"))
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, Machine{ID: m.ID, Generation: m.Generation, Observed: m.Observed})
	return nil
}

func (a *API) order(w http.ResponseWriter, r *http.Request, c cordon.Caller) error {
	order, err := a.Service.CarriedOrder(r.Context(), c, actionID(r))
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = io.WriteString(w, order+"\n") // the client has gone; it can ask again
	return nil
}

func (a *API) evidence(w http.ResponseWriter, r *http.Request, c cordon.Caller) error {
	action, err := a.Service.Action(r.Context(), c, actionID(r))
	if err != nil {
		return err
	}
	entries, err := a.Service.Evidence(r.Context(), c, action.ID)
	if err != nil {
		return err
	}
	return a.proof(w, r, c, action.Machine, entries)
}

// proof answers with audit entries about machine id and the keys to check them with.
func (a *API) proof(w http.ResponseWriter, r *http.Request, c cordon.Caller, id cordon.MachineID, entries []cordon.AuditEntry) error {
	m, err := a.Service.Find(r.Context(), c, cordon.ReadMachines, string(id))
	if err != nil {
		return err
	}
	e := Evidence{OrderKey: a.OrderJWK, Entries: make([]Entry, len(entries))}
	if e.MachineKey, err = seal.MarshalKey(m.Key); err != nil {
		return err
	}
	for i, entry := range entries {
		e.Entries[i] = Entry(entry)
	}
	writeJSON(w, http.StatusOK, e)
	return nil
}

func actionID(r *http.Request) cordon.ActionID {
	return cordon.ActionID(strings.ToLower(r.PathValue("action")))
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client has gone; it can ask again
}

var statusOf = map[cordon.Kind]int{
	cordon.Invalid: http.StatusBadRequest, cordon.Unauthenticated: http.StatusUnauthorized, cordon.Forbidden: http.StatusForbidden,
	cordon.NotFound: http.StatusNotFound, cordon.Conflict: http.StatusConflict, cordon.Limited: http.StatusTooManyRequests,
	cordon.Unavailable: http.StatusServiceUnavailable,
}

// fail writes err. What the domain did not classify is logged and not shown.
func (a *API) fail(w http.ResponseWriter, r *http.Request, err error) {
	status, code, message := http.StatusInternalServerError, "InternalServerError", "The server could not do this. Try again later"
	var known *cordon.Error
	if errors.As(err, &known) && statusOf[known.Kind] != 0 {
		status, code, message = statusOf[known.Kind], string(known.Code), known.Message
		if code == "" {
			code = strings.ReplaceAll(http.StatusText(status), " ", "")
		}
	} else {
		a.Log.ErrorContext(r.Context(), "request failed", "path", r.URL.Path, "err", err)
	}
	switch status {
	case http.StatusTooManyRequests:
		w.Header().Set("Retry-After", strconv.Itoa(int(max(known.RetryAfter, time.Second)/time.Second)))
	case http.StatusUnauthorized:
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	writeError(w, status, code, message)
}

func writeError(w http.ResponseWriter, status int, code, message string) {
	type body struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	writeJSON(w, status, map[string]body{"error": {code, message}})
}
