package cli

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/mde"
)

// BreakGlassCmd is "cordon break-glass".
type BreakGlassCmd struct {
	common
	Machine string        `arg:"" help:"Id, device id or DNS name of the machine."`
	Comment string        `required:"" placeholder:"TEXT" help:"Why; it is kept in the audit log."`
	For     time.Duration `default:"24h" placeholder:"DURATION" help:"How long it is valid, 1m to 720h (default ${default})."`
	Output  string        `short:"o" placeholder:"FILE" help:"Write the release to this file instead of showing the code to be typed."`
}

// Help is shown below the one-line help.
func (BreakGlassCmd) Help() string {
	return `The release frees this one machine, from every order given so far and from none that comes later. Root uses it there, without a network: "cordon agent apply FILE", or "cordon agent apply --code" and six lines of 24 characters (144 in all), of which the last one of each line checks the line.

Whoever has it can free the machine: keep it like a key. It needs the permission Cordon.Administer, and is in the audit log when it is signed and when it was used.`
}

// Run signs a release.
func (c *BreakGlassCmd) Run(ctx context.Context, env *Env) error {
	switch {
	case strings.TrimSpace(c.Comment) == "":
		return usage("say why, for those who read the log later", "--comment is empty")
	case c.For < cordon.MinRelease || c.For > cordon.MaxRelease:
		return usage("give a time such as 24h", "--for must be from 1m to 720h")
	}
	client, err := c.connect(env)
	if err != nil {
		return err
	}
	r, err := client.BreakGlass(ctx, c.Machine, c.For, c.Comment)
	if err != nil {
		return withHint(ctx, err, ExitNotFound, machineHint)
	}
	if c.Output != "" {
		if err := os.WriteFile(c.Output, []byte(r.Release+"\n"), 0o600); err != nil {
			return usage("give --output a file that can be written", "the release was signed and cannot be written: %v", err)
		}
	}
	if c.JSON {
		return env.PrintJSON(r)
	}
	if err := env.Table(describeRelease(r, c.Output == "")...); err != nil {
		return err
	}
	where := `type the lines after "cordon agent apply --code"`
	if c.Output != "" {
		where = "cordon agent apply " + c.Output
	}
	env.hint("as root on the machine: " + where)
	return nil
}

func describeRelease(r mde.Release, code bool) [][]string {
	rows := [][]string{
		{"Release", r.ID},
		{"Machine", r.Machine},
		{"Frees from", "orders up to generation " + number(r.Generation)},
		{"Valid until", clock(r.Expires)},
	}
	if code {
		for i, line := range r.Code {
			rows = append(rows, []string{fmt.Sprintf("Line %d", i+1), line})
		}
	}
	return rows
}
