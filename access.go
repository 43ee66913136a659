package cordon

import (
	"slices"
	"strings"
)

// Permission is what a caller may do, in Microsoft's names (Defender contract 2.3).
type Permission string

// The permissions that Cordon checks.
const (
	MachineReadAll          Permission = "Machine.Read.All"
	MachineReadWriteAll     Permission = "Machine.ReadWrite.All"
	MachineIsolate          Permission = "Machine.Isolate"
	MachineRestrict         Permission = "Machine.RestrictExecution"
	MachineScan             Permission = "Machine.Scan"
	MachineOffboard         Permission = "Machine.Offboard"
	MachineStopQuarantine   Permission = "Machine.StopAndQuarantine"
	MachineLiveResponse     Permission = "Machine.LiveResponse"
	MachineCollectForensics Permission = "Machine.CollectForensics"
	AlertReadAll            Permission = "Alert.Read.All"
	AlertReadWriteAll       Permission = "Alert.ReadWrite.All"
	// Administer is Cordon's own, for what Defender has no words for and what
	// weakens every later restriction: releases by hand, and what is trusted where.
	Administer Permission = "Cordon.Administer"
)

// The permissions of Cordon's own API, named as Microsoft Graph's.
const (
	ApplicationReadAll      Permission = "Application.Read.All"
	ApplicationReadWriteAll Permission = "Application.ReadWrite.All"
	AuditLogReadAll         Permission = "AuditLog.Read.All"
)

// AllPermissions is what the first application of a new server gets.
func AllPermissions() []Permission {
	return []Permission{MachineReadAll, MachineReadWriteAll, MachineIsolate, MachineRestrict, MachineScan, MachineOffboard,
		MachineStopQuarantine, MachineLiveResponse, MachineCollectForensics, AlertReadAll, AlertReadWriteAll,
		ApplicationReadAll, ApplicationReadWriteAll, AuditLogReadAll, Administer}
}

// Operation is something a caller asks of the domain; its value lists the
// permissions of which any one allows it, in the order in which an error names them.
type Operation []Permission

// The operations (Defender contract 2.3). Those on actions that Cordon does not
// perform are here too: who may ask is the same whatever the answer is. Where
// editions of the documentation name different permissions each of them allows
// it, and so does what a user's token needs where that differs from an application's.
var (
	ReadMachines       = Operation{MachineReadAll, MachineReadWriteAll}
	LabelMachines      = Operation{MachineReadWriteAll}
	RestrictAction     = Operation{MachineRestrict}
	IsolateAction      = Operation{MachineIsolate}
	ScanAction         = Operation{MachineScan}
	CollectAction      = Operation{MachineCollectForensics}
	QuarantineAction   = Operation{MachineStopQuarantine, MachineReadWriteAll}
	OffboardAction     = Operation{MachineOffboard}
	LiveResponseAction = Operation{MachineLiveResponse}
	InvestigateAction  = Operation{AlertReadWriteAll}
	CancelAction       = Operation{MachineCollectForensics, MachineIsolate, MachineRestrict, MachineScan, MachineOffboard, MachineStopQuarantine, MachineLiveResponse}
	ReadPackage        = Operation{MachineCollectForensics, MachineReadWriteAll}
	ReadLiveResponse   = Operation{MachineReadAll, MachineReadWriteAll, MachineLiveResponse}
	ReadAlerts         = Operation{AlertReadAll, AlertReadWriteAll}
	SignRelease        = Operation{Administer}
	ChangeTrust        = Operation{Administer}
	ManageGroups       = Operation{Administer}
	ReadAudit          = Operation{AuditLogReadAll}
)

// operations says what it takes to ask for an action.
var operations = map[ActionType]Operation{
	RestrictCodeExecution:       RestrictAction,
	UnrestrictCodeExecution:     RestrictAction,
	Isolate:                     IsolateAction,
	Unisolate:                   IsolateAction,
	RunAntiVirusScan:            ScanAction,
	CollectInvestigationPackage: CollectAction,
	StopAndQuarantineFile:       QuarantineAction,
	Offboard:                    OffboardAction,
	LiveResponse:                LiveResponseAction,
	StartInvestigation:          InvestigateAction,
}

// Operation returns what it takes to ask for an action of type t. Nobody may
// ask for a type that is not known.
func (t ActionType) Operation() Operation { return operations[t] }

// Caller is who asks, as an edge has established it.
type Caller struct {
	// ID is the same at every call and means nobody else: the client id of an
	// application of this server; of another issuer an application's or a user's
	// id behind the issuer's address.
	ID string
	// Application is the ID of the application that a user calls through. It is
	// empty if the caller is an application itself.
	Application string
	DisplayName string
	Permissions []Permission
	Source      string // PublicApi, Portal
}

// Program returns the ID of the application that calls, for itself or for a user.
func (c Caller) Program() string {
	if c.Application != "" {
		return c.Application
	}
	return c.ID
}

// Authorize returns nil if the caller has one of the operation's permissions,
// else an error of kind Forbidden in Defender's words (contract 3.3).
func (c Caller) Authorize(op Operation) error {
	if slices.ContainsFunc(op, func(p Permission) bool { return slices.Contains(c.Permissions, p) }) {
		return nil
	}
	return Errorf(Forbidden, CodeMissingPermission, "Missing application roles. API required roles: %s, application roles: %s.",
		joinPermissions(op), joinPermissions(c.Permissions))
}

func joinPermissions(ps []Permission) string {
	words := make([]string, len(ps))
	for i, p := range ps {
		words[i] = string(p)
	}
	return strings.Join(words, ",")
}
