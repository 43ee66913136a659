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
	return fmt.Sprintf("The machine counts every refusal exactly, and tells, within 15 seconds, of the %d files that were tried most. Names are chosen by whoever made the files; whatever a terminal could obey in them is escaped.", cordon.MaxFindings)
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
		env.note("nothing was refused on this machine, as far as it has told; a connected machine tells within 15 seconds")
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

// MachinesPreviewCmd is "cordon machines preview".
type MachinesPreviewCmd struct {
	common
	Machine string `arg:"" help:"Id, device id or DNS name of the machine."`
}

// Help is shown below the one-line help.
func (MachinesPreviewCmd) Help() string {
	return `What runs goes on running under a restriction; it is refused when it is started again. The machine looks every ten minutes; "cordon agent preview" on the machine looks at once. What was started is counted by agents that run with --audit.`
}

// Run shows the preview.
func (c *MachinesPreviewCmd) Run(ctx context.Context, env *Env) error {
	client, err := c.connect(env)
	if err != nil {
		return err
	}
	p, err := client.Preview(ctx, c.Machine)
	if err != nil {
		return withHint(ctx, err, ExitNotFound, machineHint)
	}
	if c.JSON {
		return env.PrintJSON(p)
	}
	if p.Running.Sequence == 0 {
		env.note("the machine has not told what runs on it")
	}
	return env.PrintPreview(cordon.Preview{Running: p.Running.Findings, Audited: p.Audited.Findings})
}

// PrintPreview prints what a restriction would refuse.
func (env *Env) PrintPreview(p cordon.Preview) error {
	rows := [][]string{{"WHAT", "COUNT", "SHA256", "OWNER", "PATH", "REASON"}}
	for _, part := range []struct {
		what string
		told cordon.Findings
	}{{"runs", p.Running}, {"was started", p.Audited}} {
		for _, f := range part.told.Files {
			rows = append(rows, []string{part.what, number(f.Count), or(&f.SHA256, "-"), or(&f.Owner, "none"), f.Path, f.Reason})
		}
		if n := part.told.Others(); n > 0 {
			rows = append(rows, []string{part.what, number(n), "", "", "(other files)"})
		}
	}
	if len(rows) == 1 {
		env.note("nothing is known that would be refused")
		return nil
	}
	return env.Table(rows...)
}
