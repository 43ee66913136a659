package agentcmd

import (
	"context"
	"fmt"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/cli"
	"github.com/cordon-project/cordon/internal/local"
)

// question is what the verbs take that ask an agent that runs.
type question struct {
	agentDir
	JSON bool `name:"json" help:"Print JSON instead of text."`
}

type agentStatus struct{ question }

// Run prints how things stand.
func (c agentStatus) Run(ctx context.Context, env *cli.Env) error {
	s, err := local.Dial(c.DataDir).Status(ctx)
	if err != nil {
		return noAgent(err)
	}
	if c.JSON {
		return env.PrintJSON(s)
	}
	o := s.Observed
	restricted := "no"
	switch {
	case s.Applying:
		restricted = "changing"
	case o.Restricted():
		restricted = "yes"
	case o.Mode == cordon.ModeEnforce:
		restricted = "NO, although it should be"
	}
	var rows [][]string
	row := func(name, format string, args ...any) {
		rows = append(rows, []string{name, fmt.Sprintf(format, args...)})
	}
	row("Machine", "%s", orNone(string(s.Machine), "not enrolled"))
	row("Server", "%s (%s)", s.Server, connection(s))
	row("Order key", "SHA-256 %s", orNone(s.OrderKey, "(none pinned)"))
	row("Restricted", "%s", restricted)
	row("Enforcer", "%s, scope %s", o.Enforcer, o.Scope)
	row("Interpreters", "%s", interpreters(o))
	row("Generation", "%d (action %s, %s)", s.Standing.Generation, orNone(string(s.Standing.Action), "none"), orNone(string(s.Standing.Outcome), "not applied"))
	row("Trust set", "%d programs %s", o.Trusted, orNone(o.TrustSet, "(not built yet)"))
	row("Refused", "%d programs since the agent started", o.Refused)
	if l := o.Lease; l.Seconds > 0 {
		row("Lease", "%s", cli.LeaseText(l))
	}
	if s.Standing.Error != "" {
		row("Last error", "%s", s.Standing.Error)
	}
	if o.Problem != "" {
		row("Problem", "%s", o.Problem)
	}
	for i, l := range o.Limits {
		row([]string{"Limits", ""}[min(i, 1)], "%s", l)
	}
	rows = append(rows, cli.CoverageRows(o.Coverage)...)
	return env.Table(rows...)
}

func interpreters(o cordon.Observed) string {
	switch {
	case o.Interpreters == cordon.TrustedScripts:
		return "trusted-scripts: while restricted, they run program text of the trust set only"
	case o.Enforcer == "bpf":
		return "open: they run any text"
	}
	return "open: they run any text (only BPF LSM sees what they read)"
}

func connection(s local.Status) string {
	if s.Transport != "" {
		return "connected by " + s.Transport
	}
	if s.LastError != "" {
		return "not connected: " + s.LastError
	}
	return "not connected"
}

func orNone(s, none string) string {
	if s == "" {
		return none
	}
	return s
}

func noAgent(err error) error {
	return &cli.Error{Code: cli.ExitUnavailable, Message: err.Error(), Hint: "run this as root on the machine, with the --data-dir of an agent that runs"}
}
