package cli

import (
	"context"

	"github.com/cordon-project/cordon/internal/evidence"
	"github.com/cordon-project/cordon/mde"
)

// ActionsVerifyCmd is "cordon actions verify".
type ActionsVerifyCmd struct{ actionArg }

// Help is shown below the one-line help.
func (ActionsVerifyCmd) Help() string {
	return `Checks that the machine's id is the digest of its key, that the order is signed with the server's order key and the report with the machine's key, that both are about this machine and this action, and that the report says what the server says. The order key is the one that the server shows; that the machine obeys the same one is what its report proves.`
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
	v := evidence.Verify(a, e)
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

func describeVerdict(a mde.MachineAction, v evidence.Verdict) [][]string {
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
		if f.Statement == evidence.Report {
			label, text = "Report", "signed with the machine's key: "+f.Says
		}
		text += ", generation " + number(f.Generation)
		if o := f.Observed; o != nil {
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
