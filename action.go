package cordon

import (
	"fmt"
	"time"
)

// ActionID is the GUID of a machine action, lower case.
type ActionID string

// ActionType is what was asked of a machine (Defender contract 4, member 2).
type ActionType string

// The action types that Cordon performs.
const (
	RestrictCodeExecution   ActionType = "RestrictCodeExecution"
	UnrestrictCodeExecution ActionType = "UnrestrictCodeExecution"
)

// The action types that Cordon knows but does not perform: [Facts.Supports]
// refuses them. The last one is no machine action at Defender, but is asked for
// like one.
const (
	Isolate                     ActionType = "Isolate"
	Unisolate                   ActionType = "Unisolate"
	RunAntiVirusScan            ActionType = "RunAntiVirusScan"
	CollectInvestigationPackage ActionType = "CollectInvestigationPackage"
	StopAndQuarantineFile       ActionType = "StopAndQuarantineFile"
	Offboard                    ActionType = "Offboard"
	LiveResponse                ActionType = "LiveResponse"
	StartInvestigation          ActionType = "StartInvestigation"
)

// Status is where a machine action stands (Defender contract 4, member 6).
type Status string

// The statuses. The last four are terminal: an action that has one never changes.
const (
	Pending    Status = "Pending"
	InProgress Status = "InProgress"
	Succeeded  Status = "Succeeded"
	Failed     Status = "Failed"
	TimeOut    Status = "TimeOut"
	Cancelled  Status = "Cancelled"
)

// Terminal reports whether nothing can follow the status.
func (s Status) Terminal() bool { return s != Pending && s != InProgress }

// The values of errorHResult, HRESULTs as signed 32-bit integers. The first
// two were observed on Defender's wire (contract 4, member 14); what it sends on Failed
// is not known, E_FAIL is ours.
const (
	HResultTimeOut   int32 = -2145844840 // 0x80190198, HTTP facility, status 408
	HResultCancelled int32 = -2147467260 // 0x80004004, E_ABORT
	HResultFailed    int32 = -2147467259 // 0x80004005, E_FAIL
)

// DeliveredGrace is how long after its expiry a delivered action still waits
// for the machine's report before it ends TimeOut. The machine does not begin
// an expired order, so a report that is late by more is a lost machine.
const DeliveredGrace = time.Minute

// Tick is the resolution of every time on the wire (Defender contract 1).
const Tick = 100 * time.Nanosecond

// Action is a machine action: what somebody asked of one machine, what became
// of it, and the unit of audit.
type Action struct {
	ID           ActionID
	Type         ActionType
	Machine      MachineID
	DNSName      string // of the machine when the action was created
	Generation   uint64 // of the machine's restriction that it makes
	Requestor    string // display name of the application or user
	RequestorID  string // its client id or object id
	Comment      string
	Source       string        // PublicApi, Portal (Defender contract 4, member 17)
	Lease        time.Duration // of the restriction that it makes, see [Lease]; zero: none
	Status       Status
	Created      time.Time
	Updated      time.Time
	Expires      time.Time  // not delivered at or after this time
	Delivered    *time.Time // when the order was first handed out; nil: it never left the server
	Cancel       *Cancellation
	ErrorHResult int32
	Reason       string // why it ended as it did, a sentence for people; empty when it succeeded
}

// Cancellation is somebody's wish that an action does not happen. Whether it
// came in time is the action's status.
type Cancellation struct {
	RequestorID string
	Comment     string
	At          time.Time
}

// end puts a into a terminal status.
func (a Action) end(s Status, hresult int32, reason string, now time.Time) Action {
	a.Status, a.ErrorHResult, a.Reason, a.Updated = s, hresult, reason, now
	return a
}

// ActionDraft is an action before a [Store] has given it its generation.
type ActionDraft struct {
	ID          ActionID
	Type        ActionType
	Machine     MachineID
	Requestor   string
	RequestorID string
	Comment     string
	Source      string
	Lease       time.Duration
	Created     time.Time
	Expires     time.Time
}

// Open makes the Pending action of a draft, given the generation that it was
// assigned and the machine's DNS name.
func (d ActionDraft) Open(generation uint64, dnsName string) Action {
	return Action{
		ID: d.ID, Type: d.Type, Machine: d.Machine, DNSName: dnsName, Generation: generation,
		Requestor: d.Requestor, RequestorID: d.RequestorID, Comment: d.Comment, Source: d.Source, Lease: d.Lease,
		Status: Pending, Created: d.Created, Updated: d.Created, Expires: d.Expires,
	}
}

// Asked is what the audit log says of the action's creation: the comment, and
// the lease if there is one.
func (a Action) Asked() string {
	if a.Lease == 0 {
		return a.Comment
	}
	return fmt.Sprintf("%s (with a lease of %s)", a.Comment, a.Lease)
}

// Deliver is the decision, before an order leaves the server, whether it may.
// The result has to be durable before the first byte is sent, so that an action
// without a Delivered time is known never to have reached its machine. An order
// that was delivered before is delivered again without a change. An ended or
// expired action is an error of kind Conflict.
func (a Action) Deliver(now time.Time) (Action, error) {
	switch {
	case a.Status.Terminal():
		return a, Errorf(Conflict, CodeActionFinal, "Machine action %s has already ended (%s)", a.ID, a.Status)
	case !now.Before(a.Expires):
		return a, Errorf(Conflict, CodeActionExpired, "Machine action %s expired at %s", a.ID, a.Expires.UTC().Format(time.RFC3339))
	case a.Delivered == nil:
		a.Delivered = &now
	}
	return a, nil
}

// Apply is what a verified report of the action's machine does to the action.
// A report that says nothing new, comes after the end, or is evidence only
// ([ReportRefused]) leaves it unchanged.
func (a Action) Apply(r Report, now time.Time) Action {
	if a.Status.Terminal() {
		return a
	}
	if a.Delivered == nil && r.State != ReportRefused {
		a.Delivered = &now // it proves that the machine has the order
	}
	switch r.State {
	case ReportInProgress:
		if a.Status == Pending {
			a.Status, a.Updated = InProgress, now
		}
	case ReportSucceeded:
		return a.end(Succeeded, 0, "", now)
	case ReportFailed:
		return a.end(Failed, HResultFailed, r.Error, now)
	case ReportCancelled:
		return a.end(Cancelled, HResultCancelled, r.Error, now)
	}
	return a
}

// RequestCancel is what somebody's wish to cancel does. An action that never
// left the server ends Cancelled at once. One that did stays open with the wish
// noted: only the machine knows whether it came in time, and its report decides.
// Cancelling a cancelled action changes nothing; one that ended otherwise is an
// error of kind Conflict.
func (a Action) RequestCancel(c Cancellation, now time.Time) (Action, error) {
	switch {
	case a.Status == Cancelled:
		return a, nil
	case a.Status.Terminal():
		return a, Errorf(Conflict, CodeActionFinal, "Machine action %s has already ended (%s) and cannot be cancelled", a.ID, a.Status)
	case a.Cancel == nil:
		a.Cancel, a.Updated = &c, now
	}
	if a.Delivered == nil {
		return a.end(Cancelled, HResultCancelled, "cancelled before it was delivered", now), nil
	}
	return a, nil
}

// Expire is what the passing of time does: an action that was not delivered
// before its expiry, or was and never answered within grace after it, ends
// TimeOut.
func (a Action) Expire(now time.Time, grace time.Duration) Action {
	switch {
	case a.Status.Terminal():
	case a.Delivered == nil && !now.Before(a.Expires):
		return a.end(TimeOut, HResultTimeOut, "the machine did not fetch it before it expired", now)
	case a.Delivered != nil && !now.Before(a.Expires.Add(grace)):
		return a.end(TimeOut, HResultTimeOut, fmt.Sprintf("delivered at %s, the machine has not answered", a.Delivered.UTC().Format(time.RFC3339)), now)
	}
	return a
}

// Order returns the order to send for an open action at time now: the action's
// own, or a cancellation if one was asked for.
func (a Action) Order(now time.Time) Order {
	o := Order{
		Machine: a.Machine, Action: a.ID, Generation: a.Generation, Type: OrderType(a.Type), // by the same name
		Comment: a.Comment, Policy: Policy{LeaseSeconds: int64(a.Lease / time.Second)}, Issued: now, Expires: a.Expires,
	}
	if a.Cancel != nil {
		o.Type, o.Comment, o.Policy = CancelOrder, a.Cancel.Comment, Policy{}
	}
	return o
}
