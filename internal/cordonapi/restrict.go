package cordonapi

import (
	"net/http"
	"time"

	"github.com/cordon-project/cordon"
)

// RestrictRequest asks for a restriction with a lease of its own.
type RestrictRequest struct {
	Comment string `json:"comment"`
	// LeaseSeconds is its lease; 0: none; left out: the server's default.
	LeaseSeconds *int64 `json:"leaseSeconds"`
}

// Action is a machine action with what Defender's resource has no members for.
// Those that it has are named as there.
type Action struct {
	ID           cordon.ActionID   `json:"id"`
	Type         cordon.ActionType `json:"type"`
	Requestor    string            `json:"requestor"`
	Comment      string            `json:"requestorComment"`
	Status       cordon.Status     `json:"status"`
	Machine      cordon.MachineID  `json:"machineId"`
	DNSName      *string           `json:"computerDnsName"`
	Created      time.Time         `json:"creationDateTimeUtc"`
	Updated      time.Time         `json:"lastUpdateDateTimeUtc"`
	ErrorHResult int32             `json:"errorHResult"`
	Source       string            `json:"requestSource"`
	Generation   uint64            `json:"generation"`
	LeaseSeconds int64             `json:"leaseSeconds"` // 0: it has none
	Reason       string            `json:"reason"`       // why it ended as it did; empty when it succeeded
}

func describe(a cordon.Action) Action {
	d := Action{
		ID: a.ID, Type: a.Type, Requestor: a.Requestor, Comment: a.Comment, Status: a.Status, Machine: a.Machine, Created: a.Created, Updated: a.Updated,
		ErrorHResult: a.ErrorHResult, Source: a.Source, Generation: a.Generation, LeaseSeconds: int64(a.Lease / time.Second), Reason: a.Reason,
	}
	if a.DNSName != "" {
		d.DNSName = &a.DNSName
	}
	return d
}

func (a *API) restrict(w http.ResponseWriter, r *http.Request, c cordon.Caller) error {
	m, err := a.Service.Find(r.Context(), c, cordon.RestrictAction, r.PathValue("machine"))
	if err != nil {
		return err
	}
	var req RestrictRequest
	if err := readJSON(r, &req); err != nil {
		return err
	}
	c.Source = source
	var action cordon.Action
	if req.LeaseSeconds == nil {
		action, err = a.Service.Request(r.Context(), c, m, cordon.RestrictCodeExecution, req.Comment)
	} else {
		// Compared before it is multiplied, which could overflow.
		seconds := min(max(*req.LeaseSeconds, -1), int64(2*cordon.MaxLease/time.Second))
		action, err = a.Service.Restrict(r.Context(), c, m, req.Comment, time.Duration(seconds)*time.Second)
	}
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusCreated, describe(action))
	return nil
}

// source is what actions of this edge carry as requestSource: Defender's word for
// what did not come from its portal.
const source = "PublicApi"

func (a *API) action(w http.ResponseWriter, r *http.Request, c cordon.Caller) error {
	action, err := a.Service.Action(r.Context(), c, actionID(r))
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, describe(action))
	return nil
}
