package mde

import (
	"context"
	"encoding/json"
	"errors"
	"iter"
	"time"
)

// Machine is Defender's machine resource with its members in wire order. A
// pointer is nil where the wire has null.
type Machine struct {
	ID                     string          `json:"id"` // 40 hex digits
	MergedIntoMachineID    *string         `json:"mergedIntoMachineId"`
	IsPotentialDuplication bool            `json:"isPotentialDuplication"`
	IsExcluded             bool            `json:"isExcluded"`
	ExclusionReason        *string         `json:"exclusionReason"`
	ComputerDNSName        *string         `json:"computerDnsName"`
	FirstSeen              time.Time       `json:"firstSeen"`
	LastSeen               time.Time       `json:"lastSeen"`
	OSPlatform             *string         `json:"osPlatform"`
	OSVersion              *string         `json:"osVersion"`
	OSProcessor            *string         `json:"osProcessor"`
	Version                *string         `json:"version"`
	LastIPAddress          *string         `json:"lastIpAddress"`
	LastExternalIPAddress  *string         `json:"lastExternalIpAddress"`
	AgentVersion           *string         `json:"agentVersion"`
	OSBuild                *int64          `json:"osBuild"`
	HealthStatus           *string         `json:"healthStatus"` // Active, Inactive, …
	DeviceValue            *string         `json:"deviceValue"`
	RBACGroupID            *int64          `json:"rbacGroupId"`
	RBACGroupName          *string         `json:"rbacGroupName"`
	RiskScore              *string         `json:"riskScore"`
	ExposureLevel          *string         `json:"exposureLevel"`
	IsAADJoined            *bool           `json:"isAadJoined"`
	AADDeviceID            *string         `json:"aadDeviceId"` // GUID; names the machine in a path as well as ID does
	MachineTags            []string        `json:"machineTags"`
	OnboardingStatus       *string         `json:"onboardingStatus"`
	OSArchitecture         *string         `json:"osArchitecture"`
	ManagedBy              *string         `json:"managedBy"`
	ManagedByStatus        *string         `json:"managedByStatus"`
	IPAddresses            []IPAddress     `json:"ipAddresses"`
	VMMetadata             json.RawMessage `json:"vmMetadata"`
}

// IPAddress is one address of a machine.
type IPAddress struct {
	IPAddress         string  `json:"ipAddress"`
	MACAddress        *string `json:"macAddress"` // 12 hex digits, upper case; nil for loopback
	Type              string  `json:"type"`
	OperationalStatus string  `json:"operationalStatus"`
}

// ListMachines lists machines; see [ListOptions]. The loop ends with the first
// error.
func (c *Client) ListMachines(ctx context.Context, o ListOptions) iter.Seq2[Machine, error] {
	return list[Machine](ctx, c, "/api/machines", o)
}

// GetMachine returns the machine that ref names: its id, its aadDeviceId, or
// its DNS name in any case.
func (c *Client) GetMachine(ctx context.Context, ref string) (Machine, error) {
	path, err := machinePath(ref)
	if err != nil {
		return Machine{}, err
	}
	var m Machine
	return m, c.get(ctx, c.address(path, nil), &m)
}

func machinePath(ref string) (string, error) {
	s, err := segment("machine", ref)
	return "/api/machines/" + s, err
}

// Restrict asks that on the machine which ref names (see [Client.GetMachine])
// only trusted programs run, and returns the new action. An [*Error] with
// CodeActiveRequestAlreadyExists says that one is still open.
func (c *Client) Restrict(ctx context.Context, ref, comment string) (MachineAction, error) {
	return c.act(ctx, ref, "restrictCodeExecution", comment)
}

// Unrestrict asks that any program runs again; see [Client.Restrict].
func (c *Client) Unrestrict(ctx context.Context, ref, comment string) (MachineAction, error) {
	return c.act(ctx, ref, "unrestrictCodeExecution", comment)
}

func (c *Client) act(ctx context.Context, ref, verb, comment string) (MachineAction, error) {
	path, err := machinePath(ref)
	if err != nil {
		return MachineAction{}, err
	}
	var a MachineAction
	if err := c.post(ctx, c.address(path+"/"+verb, nil), requestBody{comment}, &a); err != nil {
		return MachineAction{}, err
	}
	if a.ID == "" {
		return MachineAction{}, errors.New("read the server's answer: it is not a machine action")
	}
	return a, nil
}

// requestBody is what every action and the cancellation take.
type requestBody struct {
	Comment string `json:"Comment,omitempty"`
}
