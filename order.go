package cordon

import (
	"fmt"
	"time"
)

// OrderType is what an order tells a machine to do.
type OrderType string

// The types of order. The first two carry a machine action of the same name;
// CancelOrder asks the machine not to begin an action that was already sent.
const (
	RestrictOrder   OrderType = "RestrictCodeExecution"
	UnrestrictOrder OrderType = "UnrestrictCodeExecution"
	CancelOrder     OrderType = "Cancel"
	// BreakGlass is no order that is sent: a machine that somebody freed by hand
	// with a [Release] stands by it.
	BreakGlass OrderType = "BreakGlass"
	// LeaseLapsed and LeaseRenewed are no orders either: a machine reports so that
	// it fell back to mode audit, or is restricted again; see [Lease].
	LeaseLapsed  OrderType = "LeaseLapsed"
	LeaseRenewed OrderType = "LeaseRenewed"
)

// Order is what the server tells one machine, signed with the server's order
// key (JWS, EdDSA, typ cordon-order+jws). A machine obeys nothing else.
type Order struct {
	Machine    MachineID `json:"machine"`
	Action     ActionID  `json:"action"`
	Generation uint64    `json:"generation"`
	Type       OrderType `json:"type"`
	Comment    string    `json:"comment"`
	Policy     Policy    `json:"policy"`
	Issued     time.Time `json:"issued"`  // server's clock
	Expires    time.Time `json:"expires"` // not to be begun at or after this time
}

// Policy is how strictly a restriction is to be enforced. The zero value is
// the default of every field. A machine that does not know a member enforces
// without it, which is never less strict.
type Policy struct {
	// LeaseSeconds is the time of the restriction's [Lease]; 0: it has none.
	LeaseSeconds int64 `json:"leaseSeconds,omitempty"`
}

// ReportState is what a machine says of one order.
type ReportState string

// The states of a report. Refused says that a statement which claimed to be an
// order did not verify; it is evidence and never moves an action.
const (
	ReportInProgress ReportState = "InProgress"
	ReportSucceeded  ReportState = "Succeeded"
	ReportFailed     ReportState = "Failed"
	ReportCancelled  ReportState = "Cancelled"
	ReportRefused    ReportState = "Refused"
)

// Report is what a machine answers, signed with the machine's own key (JWS,
// EdDSA, typ cordon-report+jws).
type Report struct {
	Machine    MachineID `json:"machine"`
	Action     ActionID  `json:"action"`
	Generation uint64    `json:"generation"`
	// Type is [BreakGlass] where Action is the id of a [Release], [LeaseLapsed] or
	// [LeaseRenewed] where it is a [LeaseReportID] and Observed names the action;
	// empty in the report on an order.
	Type     OrderType   `json:"type,omitempty"`
	State    ReportState `json:"state"`
	Error    string      `json:"error,omitempty"` // a sentence for people; empty when it went well
	Observed Observed    `json:"observed"`
}

// Standing is what a machine persists about itself: the last order that it
// took up. The zero value is a machine that was never told anything.
type Standing struct {
	Generation uint64    `json:"generation"`
	Action     ActionID  `json:"action"`
	Type       OrderType `json:"type"`
	Mode       Mode      `json:"mode"` // desired, from this generation on
	// Outcome is empty while the order is being applied, so that a crash in the
	// middle is seen at the next start.
	Outcome  ReportState `json:"outcome"`
	Error    string      `json:"error,omitempty"`
	Previous Mode        `json:"previous"` // the mode to fall back to while Outcome is empty
	// Lease is the one under which Mode holds, PreviousLease that of Previous.
	Lease         Lease `json:"lease,omitzero"`
	PreviousLease Lease `json:"previousLease,omitzero"`
}

// Verdict is what a machine is to do with an order.
type Verdict uint8

// The verdicts of [Judge].
const (
	Refuse    Verdict = iota // stay as it is, and say why
	Begin                    // persist and apply it
	Repeat                   // it was taken up before: say its outcome again
	Supersede                // a newer generation is in force: it ends Cancelled
	Forgo                    // a cancellation that came in time: advance the generation, keep the mode, end Cancelled
)

// Judge decides what the machine id, which stands as s, does at time now (the
// server's, as the machine knows it) with an order whose signature has already
// been verified. The text says why in a sentence for people; it is empty for
// Begin and Repeat. Judge is pure.
func Judge(id MachineID, s Standing, o Order, now time.Time) (Verdict, string) {
	switch {
	case o.Machine != id:
		return Refuse, fmt.Sprintf("the order is for machine %s, this is %s", o.Machine, id)
	case o.Generation == 0 || o.Action == "":
		return Refuse, "the order names no generation or no action"
	case o.Type != RestrictOrder && o.Type != UnrestrictOrder && o.Type != CancelOrder:
		return Refuse, fmt.Sprintf("the order type %q is not known to this agent", o.Type)
	case o.Generation == s.Generation && o.Action == s.Action:
		return Repeat, ""
	case o.Generation == s.Generation:
		return Supersede, fmt.Sprintf("generation %d was already taken up by action %s", s.Generation, s.Action)
	case o.Generation < s.Generation:
		return Supersede, fmt.Sprintf("generation %d is in force, which is newer than the order's %d", s.Generation, o.Generation)
	case !now.Before(o.Expires):
		return Refuse, fmt.Sprintf("the order expired at %s, it is %s", o.Expires.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	case o.Type == CancelOrder:
		return Forgo, fmt.Sprintf("cancelled before the machine began: %s", o.Comment)
	default:
		return Begin, ""
	}
}

// ModeFor returns the mode that an order of type t puts a machine into.
func (t OrderType) ModeFor() Mode {
	if t == RestrictOrder {
		return ModeEnforce
	}
	return ModeOff
}
