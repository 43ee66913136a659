package cli

import (
	"context"
	"fmt"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/mde"
)

// ActionsWatchCmd is "cordon actions watch".
type ActionsWatchCmd struct {
	common
	ID string `arg:"" optional:"" help:"Id of the machine action; without it, all that are open and all that come."`
}

// Help is shown below the one-line help.
func (ActionsWatchCmd) Help() string {
	return `With an id it ends with the action; without one it goes on until it is interrupted, and then exits with 0. A line (with --json an object on one line) is printed for what is seen first and for each change.`
}

// Run follows one action, or all.
func (c *ActionsWatchCmd) Run(ctx context.Context, env *Env) error {
	client, err := c.connect(env)
	if err != nil {
		return err
	}
	if c.ID == "" {
		return c.watchAll(ctx, env, client)
	}
	a, err := client.GetAction(ctx, c.ID)
	if err != nil {
		return withHint(ctx, err, ExitNotFound, actionHint)
	}
	if err := c.tell(env, a); err != nil {
		return err
	}
	if a.Ended() {
		return outcome(ctx, client, a)
	}
	var unsaid error
	_, err = follow(ctx, env, client, a, 0, func(a mde.MachineAction) {
		if unsaid == nil {
			unsaid = c.tell(env, a)
		}
	})
	if unsaid != nil {
		return unsaid
	}
	return err
}

func (c *ActionsWatchCmd) watchAll(ctx context.Context, env *Env, client *mde.Client) error {
	for a, err := range client.WatchActions(ctx) {
		switch {
		case err != nil && ctx.Err() != nil:
			return nil // this is how it is meant to end
		case err != nil:
			return err
		}
		if err := c.tell(env, a); err != nil {
			return err
		}
	}
	return nil
}

// tell prints an action on one line.
func (c *ActionsWatchCmd) tell(env *Env, a mde.MachineAction) error {
	if c.JSON {
		return env.PrintJSON(a)
	}
	_, err := fmt.Fprintf(env.Stdout, "%s  %s  %-23s  %-10s  %s  %s\n", clock(a.LastUpdateDateTimeUTC), cordon.Plain(a.ID),
		cordon.Plain(a.Type), cordon.Plain(a.Status), cordon.Plain(machineOf(a)), cordon.Plain(shorten(a.RequestorComment)))
	return err
}
