package cli

import (
	"context"
	"fmt"

	"github.com/cordon-project/cordon"
)

// MachinesBlockedCmd is "cordon machines blocked".
type MachinesBlockedCmd struct {
	common
	Machine string `arg:"" help:"Id, device id or DNS name of the machine."`
}

// Help is shown below the one-line help.
func (MachinesBlockedCmd) Help() string {
	return fmt.Sprintf("The machine counts every refusal exactly, and tells of the %d files that were tried most. Names are chosen by whoever made the files; whatever a terminal could obey in them is escaped.", cordon.MaxFindings)
}

// Run shows what was refused.
func (c *MachinesBlockedCmd) Run(ctx context.Context, env *Env) error {
	client, err := c.connect(env)
	if err != nil {
		return err
	}
	told, err := client.Blocked(ctx, c.Machine)
	if err != nil {
		return withHint(ctx, err, ExitNotFound, machineHint)
	}
	if c.JSON {
		return env.PrintJSON(told)
	}
	if told.Total == 0 {
		env.note("nothing was refused on this machine, as far as it has told")
		return nil
	}
	return env.PrintFindings(told.Findings)
}

// PrintFindings prints a table of files that are not trusted.
func (env *Env) PrintFindings(told cordon.Findings) error {
	rows := [][]string{{"COUNT", "LAST", "SHA256", "OWNER", "PATH", "REASON"}}
	for _, f := range told.Files {
		rows = append(rows, []string{number(f.Count), clock(f.Last), or(&f.SHA256, "-"), or(&f.Owner, "none"), f.Path, f.Reason})
	}
	if n := told.Others(); n > 0 {
		rows = append(rows, []string{number(n), "", "", "", "(other files)"})
	}
	if err := env.Table(rows...); err != nil {
		return err
	}
	env.note("%d in all since %s", told.Total, clock(told.Since))
	return nil
}
