package cli

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/mde"
)

// RestrictCmd is "cordon restrict".
type RestrictCmd struct {
	request
	Lease string `placeholder:"DURATION" help:"Let the machine fall back to counting when it has not heard the server for so long, or none."`
}

// Help is shown below the one-line help.
func (RestrictCmd) Help() string {
	return `A lease (10s to 8760h) is for machines that must not stay restricted when the server is lost: whoever can keep the machine from reaching the server ends the restriction by it. Programs then run and are counted (mode audit), and when the server is heard again the restriction is in force again. Without --lease it is the server's default_lease, which is none if it is not configured.`
}

// Run restricts the machine.
func (c *RestrictCmd) Run(ctx context.Context, env *Env) error {
	act := (*mde.Client).Restrict
	if c.Lease != "" {
		lease, err := time.ParseDuration(c.Lease)
		if c.Lease == "none" {
			lease, err = 0, nil
		} else if err == nil && lease == 0 {
			err = cordon.CheckLease(-1)
		}
		if err == nil {
			err = cordon.CheckLease(lease)
		}
		if err != nil {
			return usage("give a time such as 24h, or none", "--lease must be from 10s to 8760h in whole seconds, or none")
		}
		act = func(client *mde.Client, ctx context.Context, machine, comment string) (mde.MachineAction, error) {
			return client.RestrictWithLease(ctx, machine, comment, lease)
		}
	}
	return c.run(ctx, env, act)
}

// UnrestrictCmd is "cordon unrestrict".
type UnrestrictCmd struct{ request }

// Run takes the restriction back.
func (c *UnrestrictCmd) Run(ctx context.Context, env *Env) error {
	return c.run(ctx, env, (*mde.Client).Unrestrict)
}

// request is what both verbs take.
type request struct {
	common
	Machine string        `arg:"" help:"Id, device id or DNS name of the machine."`
	Comment string        `required:"" placeholder:"TEXT" help:"Why; it is kept with the action, for those who read the log, and not shown at the machine."`
	Wait    bool          `help:"Wait until the machine has answered."`
	Timeout time.Duration `placeholder:"DURATION" help:"Wait no longer than this, for example 90s or 10m."`
}

func (r *request) run(ctx context.Context, env *Env, act func(*mde.Client, context.Context, string, string) (mde.MachineAction, error)) error {
	switch {
	case strings.TrimSpace(r.Comment) == "":
		return usage("say why, for those who read the log later", "--comment is empty")
	case r.Timeout < 0:
		return usage("give a time such as 90s or 10m", "--timeout is negative")
	case r.Timeout > 0 && !r.Wait:
		return usage("add --wait", "--timeout has no meaning without --wait")
	}
	client, err := r.connect(env)
	if err != nil {
		return err
	}
	a, err := act(client, ctx, r.Machine, r.Comment)
	if err != nil {
		return r.explain(ctx, err)
	}
	var ended error
	if r.Wait {
		a, ended = follow(ctx, env, client, a, r.Timeout, func(mde.MachineAction) {})
	}
	if err := r.printAction(ctx, env, client, a); err != nil {
		return err
	}
	if !r.Wait && !r.JSON {
		env.hint("the machine has yet to answer; follow it with cordon actions watch " + a.ID)
	}
	return ended
}

// explain adds to an error what the person should know before trying again.
func (r *request) explain(ctx context.Context, err error) error {
	e := describe(ctx, err)
	look := "cordon actions list --machine " + r.Machine
	var lost *mde.UnreachableError
	switch {
	case errors.As(err, &lost) && lost.Sent:
		e.Message += "; the action may have been created"
		e.Hint = "before you try again, look with " + look
	case e.Code == ExitConflict:
		e.Hint = "see it with " + look
	case e.Code == ExitNotFound:
		e.Hint = machineHint
	}
	return e
}

// follow waits for an action to end and returns it as last seen. Changes are
// told as they are seen. The error is nil only if the action Succeeded.
func follow(ctx context.Context, env *Env, client *mde.Client, a mde.MachineAction, timeout time.Duration, changed func(mde.MachineAction)) (mde.MachineAction, error) {
	defer env.erase()
	last := a
	end, err := client.WaitAction(ctx, a.ID, mde.WaitOptions{Timeout: timeout, Each: func(now mde.MachineAction, err error) {
		if err != nil {
			env.progress("%s; trying again", err)
			return
		}
		if now.Status != last.Status {
			env.erase()
			changed(now)
		}
		last = now
		env.progress("waiting for %s: %s", machineOf(now), now.Status)
	}})
	goesOn := "the action goes on; follow it with cordon actions watch " + a.ID + ", or stop it with cordon actions cancel " + a.ID
	switch {
	case err == nil:
		return end, outcome(ctx, client, end)
	case errors.Is(err, mde.ErrStillOpen):
		return last, &Error{Code: ExitStillOpen, Message: "the action is still " + last.Status + " after " + timeout.String(), Hint: goesOn}
	}
	e := describe(ctx, err)
	if ctx.Err() != nil {
		e.Message = "interrupted while the action was " + last.Status
	}
	e.Hint = goesOn
	if e.Code == ExitDenied {
		e.Hint = "the action goes on; to follow it the application needs the role Machine.Read.All"
	}
	return last, e
}

// outcome is the error of an action that ended otherwise than it should.
func outcome(ctx context.Context, client *mde.Client, a mde.MachineAction) error {
	if a.Status == mde.Succeeded {
		return nil
	}
	message := "the action ended " + a.Status
	if why := reason(ctx, client, a); why != "" {
		message += ": " + why
	}
	return &Error{Code: ExitActionFailed, Message: message, Hint: "see cordon machines show " + a.MachineID}
}

// reason returns why an action ended as it did, from the server's log; ""
// if the log does not say or cannot be read, for the action's end is known without.
func reason(ctx context.Context, client *mde.Client, a mde.MachineAction) string {
	if !a.Ended() || a.Status == mde.Succeeded {
		return ""
	}
	e, err := client.Evidence(ctx, a.ID)
	if err != nil {
		return ""
	}
	for _, entry := range e.Entries {
		if entry.Status == a.Status && entry.Detail != "" {
			return entry.Detail
		}
	}
	return ""
}

func machineOf(a mde.MachineAction) string { return or(a.ComputerDNSName, a.MachineID) }
