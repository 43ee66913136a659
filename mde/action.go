package mde

import (
	"context"
	"encoding/json"
	"iter"
	"time"
)

// The types of machine action that this package starts.
const (
	RestrictCodeExecution   = "RestrictCodeExecution"
	UnrestrictCodeExecution = "UnrestrictCodeExecution"
)

// The statuses of a machine action.
const (
	Pending    = "Pending"
	InProgress = "InProgress"
	Succeeded  = "Succeeded"
	Failed     = "Failed"
	TimeOut    = "TimeOut"
	Cancelled  = "Cancelled"
)

// MachineAction is Defender's machine action resource with its 20 members in
// wire order. A pointer is nil where the wire has null.
type MachineAction struct {
	ID                      string          `json:"id"` // GUID
	Type                    string          `json:"type"`
	Title                   *string         `json:"title"`
	Requestor               string          `json:"requestor"`
	RequestorComment        string          `json:"requestorComment"`
	Status                  string          `json:"status"`
	MachineID               string          `json:"machineId"`
	ComputerDNSName         *string         `json:"computerDnsName"`
	CreationDateTimeUTC     time.Time       `json:"creationDateTimeUtc"`
	LastUpdateDateTimeUTC   time.Time       `json:"lastUpdateDateTimeUtc"`
	CancellationRequestor   *string         `json:"cancellationRequestor"`
	CancellationComment     *string         `json:"cancellationComment"`
	CancellationDateTimeUTC *time.Time      `json:"cancellationDateTimeUtc"`
	ErrorHResult            int64           `json:"errorHResult"` // HRESULT as a signed 32-bit number; 0: none
	Scope                   *string         `json:"scope"`
	ExternalID              *string         `json:"externalId"`
	RequestSource           string          `json:"requestSource"`
	RelatedFileInfo         json.RawMessage `json:"relatedFileInfo"`
	Commands                json.RawMessage `json:"commands"`
	TroubleshootInfo        json.RawMessage `json:"troubleshootInfo"`
}

// Ended reports whether the action's status is one that nothing follows. A
// status that this package does not know is taken for an open one.
func (a MachineAction) Ended() bool {
	switch a.Status {
	case Succeeded, Failed, TimeOut, Cancelled:
		return true
	}
	return false
}

// ListActions lists machine actions, newest first; see [ListOptions]. The loop
// ends with the first error.
func (c *Client) ListActions(ctx context.Context, o ListOptions) iter.Seq2[MachineAction, error] {
	return list[MachineAction](ctx, c, "/api/machineactions", o)
}

// GetAction returns one machine action.
func (c *Client) GetAction(ctx context.Context, id string) (MachineAction, error) {
	path, err := actionPath(id)
	if err != nil {
		return MachineAction{}, err
	}
	var a MachineAction
	return a, c.get(ctx, c.address(path, nil), &a)
}

// CancelAction asks that an action does not happen. An action that never
// reached its machine is Cancelled when CancelAction returns; any other may
// still end otherwise. The comment may be empty.
func (c *Client) CancelAction(ctx context.Context, id, comment string) (MachineAction, error) {
	path, err := actionPath(id)
	if err != nil {
		return MachineAction{}, err
	}
	var a MachineAction
	return a, c.post(ctx, c.address(path+"/cancel", nil), requestBody{comment}, &a)
}

func actionPath(id string) (string, error) {
	s, err := segment("machine action id", id)
	return "/api/machineactions/" + s, err
}
