// Package evidence judges whether what a server keeps about a machine action
// proves what it says of it: that the order was signed with its order key, that
// the machine itself reported the outcome, and that both are about this action.
//
// It promises to believe nothing that is not signed, and that nothing is proven
// as long as anything is wrong. It is pure; what it cannot know is whose the order
// key is: that the machine obeys the same one is what its report proves.
package evidence

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/seal"
	"github.com/cordon-project/cordon/mde"
)

// Verdict is what the evidence of an action comes to.
type Verdict struct {
	Action     string    `json:"action"`
	Machine    string    `json:"machine"`
	Type       string    `json:"type"`
	Status     string    `json:"status"`
	Proven     bool      `json:"proven"`
	OrderKey   string    `json:"orderKey"`   // SHA-256 of the public key, hex
	MachineKey string    `json:"machineKey"` // likewise
	Findings   []Finding `json:"findings"`
	Problems   []string  `json:"problems"` // why it is not proven
}

// Finding is what became of one signed statement.
type Finding struct {
	Seq        int64            `json:"seq"`
	Statement  string           `json:"statement"` // Order, Report
	Says       string           `json:"says"`      // the type of an order, the state of a report, LeaseLapsed and the like; empty if it was not signed as it should be
	Generation uint64           `json:"generation"`
	Problem    string           `json:"problem,omitempty"` // empty: it holds
	Observed   *cordon.Observed `json:"-"`                 // of a report that was signed as it should be
}

// What a [Finding] may be about.
const (
	Order  = "order"
	Report = "report"
)

// Verify checks the evidence of an action.
func Verify(a mde.MachineAction, e mde.Evidence) Verdict {
	v := Verdict{Action: a.ID, Machine: a.MachineID, Type: a.Type, Status: a.Status, Findings: []Finding{}, Problems: []string{}}
	problem := func(format string, args ...any) { v.Problems = append(v.Problems, fmt.Sprintf(format, args...)) }

	orderKey, err := seal.PublicKey(e.OrderKey)
	if err != nil {
		problem("the server's order key: %v", err)
	}
	machineKey, err := seal.PublicKey(e.MachineKey)
	switch {
	case err != nil:
		problem("the machine's key: %v", err)
	case string(cordon.IDOfKey(machineKey)) != strings.ToLower(a.MachineID):
		problem("the machine's id is not the digest of its key: that key belongs to machine %s", cordon.IDOfKey(machineKey))
	}
	if len(v.Problems) > 0 {
		return v
	}
	v.OrderKey, v.MachineKey = fingerprint(orderKey), fingerprint(machineKey)

	var ordered, answered *Finding
	for _, entry := range e.Entries {
		if entry.Evidence == "" {
			continue
		}
		f := Finding{Seq: entry.Seq}
		if entry.Kind == cordon.AuditDelivered {
			f.order(a, entry.Evidence, orderKey)
			if f.Problem == "" && f.Says == a.Type {
				ordered = &f
			}
		} else {
			f.report(a, entry.Evidence, machineKey, entry.Kind == cordon.AuditLease)
			if f.Problem == "" && f.Says == a.Status {
				answered = &f
			}
		}
		v.Findings = append(v.Findings, f)
		if f.Problem != "" {
			problem("the %s in entry %d: %s", f.Statement, f.Seq, f.Problem)
		}
	}
	switch {
	case ordered == nil:
		problem("there is no signed order for it")
	case !a.Ended():
		problem("the action is still %s", a.Status)
	case answered == nil:
		problem("there is no signed report of the machine that says %s", a.Status)
	case answered.Generation != ordered.Generation && a.Status == mde.Succeeded:
		problem("the report is about generation %d, the order about %d", answered.Generation, ordered.Generation)
	}
	v.Proven = len(v.Problems) == 0
	return v
}

func (f *Finding) order(a mde.MachineAction, jws string, key ed25519.PublicKey) {
	f.Statement = Order
	o, err := seal.OpenOrder(jws, key)
	if err != nil {
		f.Problem = err.Error()
		return
	}
	f.Says, f.Generation = string(o.Type), o.Generation
	f.Problem = names(a, o.Machine, o.Action)
}

// report checks a report; that of a lease has an id of its own, and names the
// action whose lease it is.
func (f *Finding) report(a mde.MachineAction, jws string, key ed25519.PublicKey, lease bool) {
	f.Statement = Report
	r, err := seal.OpenReport(jws, key)
	if err != nil {
		f.Problem = err.Error()
		return
	}
	says, action := string(r.State), r.Action
	if lease {
		says, action = string(r.Type), r.Observed.Lease.Action
	}
	f.Says, f.Generation, f.Observed = says, r.Generation, &r.Observed
	f.Problem = names(a, r.Machine, action)
}

// names says what is wrong where a statement is not about this machine and
// this action.
func names(a mde.MachineAction, machine cordon.MachineID, action cordon.ActionID) string {
	switch {
	case !strings.EqualFold(string(machine), a.MachineID):
		return fmt.Sprintf("it is about machine %s", machine)
	case !strings.EqualFold(string(action), a.ID):
		return fmt.Sprintf("it is about action %s", action)
	}
	return ""
}

func fingerprint(key ed25519.PublicKey) string {
	sum := sha256.Sum256(key)
	return hex.EncodeToString(sum[:])
}
