package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/seal"
	"github.com/cordon-project/cordon/mde"
)

// ActionsCmd groups the verbs about machine actions.
type ActionsCmd struct {
	List   ActionsListCmd   `cmd:"" help:"List machine actions, newest first."`
	Show   ActionsShowCmd   `cmd:"" help:"Show one machine action."`
	Cancel ActionsCancelCmd `cmd:"" help:"Ask that a machine action does not happen."`
	Watch  ActionsWatchCmd  `cmd:"" help:"Follow machine actions as they change."`
	Order  ActionsOrderCmd  `cmd:"" help:"Save the signed order of an open action, to carry it to its machine by hand."`
	Verify ActionsVerifyCmd `cmd:"" help:"Check the signatures of what was ordered and what the machine answered."`
}

// actionArg is the argument of the verbs about one action.
type actionArg struct {
	common
	ID string `arg:"" help:"Id of the machine action."`
}

const actionHint = "cordon actions list shows the newest actions"

// ActionsListCmd is "cordon actions list".
type ActionsListCmd struct {
	common
	Machine string `placeholder:"MACHINE" help:"Only those on this machine (id, device id or DNS name)."`
	Status  string `placeholder:"STATUS" help:"Only those that are Pending, InProgress, Succeeded, Failed, TimeOut or Cancelled."`
	Type    string `placeholder:"TYPE" help:"Only those of this type: RestrictCodeExecution (restrict) or UnrestrictCodeExecution (unrestrict)."`
	Top     int    `default:"50" placeholder:"N" help:"No more than this many."`
}

// Run lists the actions.
func (c *ActionsListCmd) Run(ctx context.Context, env *Env) error {
	status, ok := word(c.Status, map[string]string{}, mde.Pending, mde.InProgress, mde.Succeeded, mde.Failed, mde.TimeOut, mde.Cancelled)
	if !ok {
		return usage("a status is Pending, InProgress, Succeeded, Failed, TimeOut or Cancelled", "there is no status %s", c.Status)
	}
	kind, ok := word(c.Type, map[string]string{"restrict": mde.RestrictCodeExecution, "unrestrict": mde.UnrestrictCodeExecution},
		mde.RestrictCodeExecution, mde.UnrestrictCodeExecution)
	if !ok {
		return usage("a type is RestrictCodeExecution (or restrict) or UnrestrictCodeExecution (or unrestrict)", "there is no type %s", c.Type)
	}
	if c.Top < 1 {
		return usage("give a number such as 10", "--top has to be 1 or more")
	}
	client, err := c.connect(env)
	if err != nil {
		return err
	}
	machine := strings.ToLower(c.Machine)
	if _, isID := cordon.ParseMachineID(machine); !isID && machine != "" {
		m, err := client.GetMachine(ctx, c.Machine)
		if err != nil {
			return withHint(ctx, err, ExitNotFound, machineHint)
		}
		machine = m.ID
	}
	actions, err := collect(client.ListActions(ctx, mde.ListOptions{
		Filter: mde.Equal([2]string{"machineId", machine}, [2]string{"status", status}, [2]string{"type", kind}),
		Top:    c.Top,
	}))
	if err != nil {
		return err
	}
	return printList(env, c.JSON, actions, "there are no such actions", []string{"ID", "TYPE", "MACHINE", "STATUS", "CREATED", "REQUESTOR", "COMMENT"}, func(a mde.MachineAction) []string {
		return []string{a.ID, a.Type, machineOf(a), a.Status, clock(a.CreationDateTimeUTC), a.Requestor, shorten(a.RequestorComment)}
	})
}

// word finds s, in any case, among words and short forms of them. The empty
// string is left as it is.
func word(s string, short map[string]string, words ...string) (string, bool) {
	if full, ok := short[strings.ToLower(s)]; ok || s == "" {
		return full, true
	}
	for _, w := range words {
		if strings.EqualFold(w, s) {
			return w, true
		}
	}
	return "", false
}

// ActionsShowCmd is "cordon actions show".
type ActionsShowCmd struct{ actionArg }

// Run shows the action.
func (c *ActionsShowCmd) Run(ctx context.Context, env *Env) error {
	client, err := c.connect(env)
	if err != nil {
		return err
	}
	a, err := client.GetAction(ctx, c.ID)
	if err != nil {
		return withHint(ctx, err, ExitNotFound, actionHint)
	}
	return c.printAction(ctx, env, client, a)
}

// printAction prints an action as the verbs do that answer with one.
func (c common) printAction(ctx context.Context, env *Env, client *mde.Client, a mde.MachineAction) error {
	lease := leaseOf(ctx, client, a)
	if c.JSON {
		return env.PrintJSON(shownAction{a, int64(lease / time.Second)})
	}
	rows := [][]string{
		{"Action", a.ID},
		{"Type", a.Type},
		{"Machine", machineOf(a)},
		{"Machine id", a.MachineID},
		{"Status", a.Status},
	}
	if why := reason(ctx, client, a); why != "" {
		rows = append(rows, []string{"Reason", why})
	}
	if lease > 0 {
		rows = append(rows, []string{"Lease", lease.String() + ": the machine falls back to counting when it has not heard the server for so long"})
	}
	rows = append(rows,
		[]string{"Requestor", a.Requestor},
		[]string{"Comment", a.RequestorComment},
		[]string{"Created", clock(a.CreationDateTimeUTC)},
		[]string{"Updated", clock(a.LastUpdateDateTimeUTC)})
	if a.CancellationDateTimeUTC != nil {
		rows = append(rows,
			[]string{"Cancel asked", clock(*a.CancellationDateTimeUTC)},
			[]string{"Cancelled by", or(a.CancellationRequestor, "-")},
			[]string{"Cancel comment", or(a.CancellationComment, "-")})
	}
	return env.Table(rows...)
}

// shownAction is what --json prints: the action as the Defender-compatible API
// gives it, and its lease if it has one.
type shownAction struct {
	mde.MachineAction
	LeaseSeconds int64 `json:"leaseSeconds,omitempty"`
}

// leaseOf returns the lease of an action; zero also where it cannot be had, for
// the action is known without.
func leaseOf(ctx context.Context, client *mde.Client, a mde.MachineAction) time.Duration {
	if a.Type != mde.RestrictCodeExecution {
		return 0
	}
	lease, err := client.Lease(ctx, a.ID)
	if err != nil {
		return 0
	}
	return lease
}

// LeaseText says how a machine's lease stands.
func LeaseText(l cordon.LeaseState) string {
	silent := (time.Duration(l.Silent) * time.Second).String()
	if l.Lapsed {
		return l.Time().String() + ", LAPSED: the server was not heard for so long; the restriction is in force again when it is"
	}
	return l.Time().String() + ", after which the machine falls back to counting; the server was silent for " + silent
}

// ActionsCancelCmd is "cordon actions cancel".
type ActionsCancelCmd struct {
	actionArg
	Comment string `placeholder:"TEXT" help:"Why; it is kept with the action."`
}

// Help is shown below the one-line help.
func (ActionsCancelCmd) Help() string {
	return `An action that has not left the server is cancelled at once. One that has may come too late to be stopped: the machine decides, and the action ends Cancelled or as it would have.`
}

// Run cancels the action.
func (c *ActionsCancelCmd) Run(ctx context.Context, env *Env) error {
	client, err := c.connect(env)
	if err != nil {
		return err
	}
	a, err := client.CancelAction(ctx, c.ID, c.Comment)
	if err != nil {
		return c.explain(ctx, client, err)
	}
	if err := c.printAction(ctx, env, client, a); err != nil {
		return err
	}
	if !a.Ended() && !c.JSON {
		env.hint("the machine may have begun already; follow the action with cordon actions watch " + a.ID)
	}
	return nil
}

// explain finds out whether a cancellation was refused because the action had
// ended: the API documents no error of its own for that.
func (c *ActionsCancelCmd) explain(ctx context.Context, client *mde.Client, err error) error {
	e := describe(ctx, err)
	var refused *mde.Error
	if errors.As(err, &refused) && refused.StatusCode == http.StatusBadRequest {
		if a, err := client.GetAction(ctx, c.ID); err == nil && a.Ended() {
			e.Code = ExitConflict
		}
	}
	return c.hinted(e)
}

// hinted says what to do where the action has ended, or is none.
func (c *actionArg) hinted(e *Error) error {
	switch e.Code {
	case ExitConflict:
		e.Hint = "see how it ended with cordon actions show " + c.ID
	case ExitNotFound:
		e.Hint = actionHint
	}
	return e
}

// ActionsOrderCmd is "cordon actions order".
type ActionsOrderCmd struct {
	actionArg
	Output string `short:"o" placeholder:"FILE" help:"Write the order to this file instead of standard output."`
}

// Help is shown below the one-line help.
func (ActionsOrderCmd) Help() string {
	return `For a machine that cannot reach the server. On the machine, cordon agent apply FILE takes the order. To the server the action counts as delivered from now on.`
}

// Run saves the order.
func (c *ActionsOrderCmd) Run(ctx context.Context, env *Env) error {
	if c.JSON && c.Output != "" {
		return usage("leave one of them out", "--json and --output do not go together")
	}
	client, err := c.connect(env)
	if err != nil {
		return err
	}
	order, err := client.SignedOrder(ctx, c.ID)
	if err != nil {
		return c.hinted(describe(ctx, err))
	}
	switch {
	case c.JSON:
		return env.PrintJSON(map[string]string{"action": c.ID, "order": order})
	case c.Output == "":
		_, err := fmt.Fprintln(env.Stdout, order)
		return err
	}
	if err := os.WriteFile(c.Output, []byte(order+"\n"), 0o600); err != nil {
		return usage("the action counts as delivered; save its order elsewhere by calling this again", "cannot save the order: %v", err)
	}
	// What the order says of itself is only shown here; the agent verifies it.
	if o, ok := seal.ClaimedOrder(order); ok {
		env.note("saved %s for machine %s, to be applied before %s", o.Type, o.Machine, clock(o.Expires))
	}
	env.hint("carry " + c.Output + " to the machine and run there: cordon agent apply " + c.Output)
	return nil
}
