package cli

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/seal"
	"github.com/cordon-project/cordon/mde"
)

// ActionsVerifyCmd is "cordon actions verify".
type ActionsVerifyCmd struct{ actionArg }

// Help is shown below the one-line help.
func (ActionsVerifyCmd) Help() string {
	return `Checks that the machine's id is the digest of its key, that the order is signed with the server's order key and the report with the machine's key, that both are about this machine and this action, and that the report says what the server says. The order key is the one that the server shows; that the machine obeys the same one is what its report proves.`
}

// finding is what became of one signed statement.
type finding struct {
	Seq        int64            `json:"seq"`
	Statement  string           `json:"statement"` // order, report
	Says       string           `json:"says"`      // the type of an order, the state of a report; empty if it was not signed as it should be
	Generation uint64           `json:"generation"`
	Problem    string           `json:"problem,omitempty"` // empty: it holds
	observed   *cordon.Observed // of a report that holds
}

// verdict is what --json prints.
type verdict struct {
	Action     string    `json:"action"`
	Machine    string    `json:"machine"`
	Type       string    `json:"type"`
	Status     string    `json:"status"`
	Proven     bool      `json:"proven"`
	OrderKey   string    `json:"orderKey"`   // SHA-256 of the public key, hex
	MachineKey string    `json:"machineKey"` // likewise
	Findings   []finding `json:"findings"`
	Problems   []string  `json:"problems"` // why it is not proven
}

// Run verifies the action.
func (c *ActionsVerifyCmd) Run(ctx context.Context, env *Env) error {
	client, err := c.connect(env)
	if err != nil {
		return err
	}
	a, err := client.GetAction(ctx, c.ID)
	if err != nil {
		return withHint(ctx, err, ExitNotFound, actionHint)
	}
	e, err := client.Evidence(ctx, a.ID)
	if err != nil {
		return err
	}
	v := verify(a, e)
	if c.JSON {
		err = env.PrintJSON(v)
	} else {
		err = env.Table(describeVerdict(a, v)...)
	}
	if err != nil || v.Proven {
		return err
	}
	problem := &Error{Code: ExitNotProven, Message: "not proven: " + v.Problems[0]}
	if !a.Ended() {
		problem.Hint = "the action is still open; try again when it has ended"
	}
	return problem
}

// verify checks the evidence of an action. It is pure.
func verify(a mde.MachineAction, e mde.Evidence) verdict {
	v := verdict{Action: a.ID, Machine: a.MachineID, Type: a.Type, Status: a.Status, Findings: []finding{}, Problems: []string{}}
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

	var ordered, answered *finding
	for _, entry := range e.Entries {
		f := finding{Seq: entry.Seq}
		switch {
		case entry.Evidence == "":
			continue
		case entry.Kind == cordon.AuditLease:
			f.checkLease(a, entry.Evidence, machineKey)
		case entry.Kind == cordon.AuditDelivered:
			f.checkOrder(a, entry.Evidence, orderKey)
			if f.Problem == "" && f.Says == a.Type {
				ordered = &f
			}
		default:
			f.checkReport(a, entry.Evidence, machineKey)
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

func (f *finding) checkOrder(a mde.MachineAction, jws string, key ed25519.PublicKey) {
	f.Statement = "order"
	o, err := seal.OpenOrder(jws, key)
	if err != nil {
		f.Problem = err.Error()
		return
	}
	f.Says, f.Generation = string(o.Type), o.Generation
	f.Problem = names(a, o.Machine, o.Action)
}

func (f *finding) checkReport(a mde.MachineAction, jws string, key ed25519.PublicKey) {
	f.Statement = "report"
	r, err := seal.OpenReport(jws, key)
	if err != nil {
		f.Problem = err.Error()
		return
	}
	f.Says, f.Generation, f.observed = string(r.State), r.Generation, &r.Observed
	f.Problem = names(a, r.Machine, r.Action)
}

func (f *finding) checkLease(a mde.MachineAction, jws string, key ed25519.PublicKey) {
	f.Statement = "report"
	r, err := seal.OpenReport(jws, key)
	if err != nil {
		f.Problem = err.Error()
		return
	}
	f.Says, f.Generation, f.observed = string(r.Type), r.Generation, &r.Observed
	f.Problem = names(a, r.Machine, r.Observed.Lease.Action)
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

func describeVerdict(a mde.MachineAction, v verdict) [][]string {
	rows := [][]string{
		{"Action", v.Action + " (" + v.Type + ", " + v.Status + ")"},
		{"Machine", machineOf(a) + " (" + v.Machine + ")"},
	}
	if v.MachineKey != "" {
		rows = append(rows,
			[]string{"Machine key", "SHA-256 " + v.MachineKey + ", of which the machine's id is the beginning"},
			[]string{"Order key", "SHA-256 " + v.OrderKey})
	}
	for _, f := range v.Findings {
		label, text := "Order", "signed with the order key: "+f.Says
		if f.Statement == "report" {
			label, text = "Report", "signed with the machine's key: "+f.Says
		}
		text += ", generation " + number(f.Generation)
		if o := f.observed; o != nil {
			text += "; mode " + string(o.Mode) + ", in force: " + inForce(*o) + ", by " + or(&o.Enforcer, "-") + " on " + or(&o.Scope, "-")
		}
		if f.Problem != "" {
			text = "DOES NOT HOLD: " + f.Problem
		}
		rows = append(rows, []string{label, text})
	}
	return append(rows, []string{"Proven", yesNo(v.Proven)})
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
