package cli

import (
	"context"
	"iter"
	"strconv"
	"strings"
	"time"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/mde"
)

// MachinesCmd groups the verbs about machines.
type MachinesCmd struct {
	List MachinesListCmd `cmd:"" help:"List the machines that are enrolled."`
	Show MachinesShowCmd `cmd:"" help:"Show one machine: whether it is restricted, by what, and its facts."`
	Find MachinesFindCmd `cmd:"" help:"Find machines by IP address or tag."`

	Tag      MachinesTagCmd      `cmd:"" help:"Add and remove tags."`
	SetValue MachinesSetValueCmd `cmd:"" help:"Say how much a machine matters."`
	Blocked  MachinesBlockedCmd  `cmd:"" help:"Show what was refused on a machine: how often, which files, and whose they are."`
	Preview  MachinesPreviewCmd  `cmd:"" help:"Show what a restriction would refuse on a machine: what runs there, or ran in mode audit."`
}

// MachinesListCmd is "cordon machines list".
type MachinesListCmd struct {
	common
	Group string `placeholder:"GROUP" help:"Only those that are in this device group."`
}

// Run lists the machines.
func (c *MachinesListCmd) Run(ctx context.Context, env *Env) error {
	client, err := c.connect(env)
	if err != nil {
		return err
	}
	if c.Group == "" {
		machines, err := collect(client.ListMachines(ctx, mde.ListOptions{}))
		if err != nil {
			return err
		}
		return env.printMachines(machines, c.JSON, "no machine is enrolled")
	}
	g, err := client.GetGroup(ctx, c.Group)
	if err != nil {
		return withHint(ctx, err, ExitNotFound, groupHint)
	}
	machines, err := machinesOf(ctx, client, g)
	if err != nil {
		return err
	}
	return env.printMachines(machines, c.JSON, "no machine is in this group")
}

// printMachines prints a list; none is what to say if it is empty.
func (env *Env) printMachines(machines []mde.Machine, asJSON bool, none string) error {
	return printList(env, asJSON, machines, none, []string{"ID", "NAME", "OS", "HEALTH", "GROUP", "LAST SEEN"}, func(m mde.Machine) []string {
		return []string{m.ID, or(m.ComputerDNSName, "-"), system(m), or(m.HealthStatus, "-"), or(m.RBACGroupName, "-"), clock(m.LastSeen)}
	})
}

// MachinesShowCmd is "cordon machines show".
type MachinesShowCmd struct {
	common
	Machine string `arg:"" help:"Id, device id or DNS name of the machine."`
}

// Help is shown below the one-line help.
func (MachinesShowCmd) Help() string {
	return `With --json the answer is one object: "machine" as the Defender-compatible API gives it, and "restriction" with what was ordered ("generation") and what the machine said of itself ("observed").`
}

// shownMachine is what --json prints.
type shownMachine struct {
	Machine     mde.Machine      `json:"machine"`
	Restriction mde.MachineState `json:"restriction"`
}

// Run shows the machine.
func (c *MachinesShowCmd) Run(ctx context.Context, env *Env) error {
	client, err := c.connect(env)
	if err != nil {
		return err
	}
	m, err := client.GetMachine(ctx, c.Machine)
	if err != nil {
		return withHint(ctx, err, ExitNotFound, machineHint)
	}
	state, err := client.MachineState(ctx, m.ID)
	if err != nil {
		return err
	}
	if c.JSON {
		return env.PrintJSON(shownMachine{m, state})
	}
	return env.Table(describeMachine(m, state, env.now())...)
}

const machineHint = "cordon machines list shows the machines there are"

// describeMachine says first what matters: whether the machine is restricted.
func describeMachine(m mde.Machine, state mde.MachineState, now time.Time) [][]string {
	o := state.Observed
	rows := [][]string{
		{"Machine", or(m.ComputerDNSName, "-")},
		{"Restricted", restricted(o)},
	}
	if o.Order == cordon.BreakGlass {
		rows = append(rows, []string{"Break-glass", "freed at the machine itself, with release " + string(o.Action) + " (generation " + number(o.Generation) + ")"})
	}
	if o.Lease.Seconds > 0 {
		rows = append(rows, []string{"Lease", LeaseText(o.Lease)})
		if silent := now.Sub(m.LastSeen); !o.Lease.Lapsed && o.Mode == cordon.ModeEnforce && silent >= o.Lease.Time() {
			rows = append(rows, []string{"", "it may have lapsed: the machine was not heard for " + silent.Round(time.Second).String()})
		}
	}
	if state.Generation > o.Generation {
		rows = append(rows, []string{"Not confirmed", "order " + number(state.Generation) + " was issued, the machine is at " + number(o.Generation)})
	}
	if o.Mode != "" {
		rows = append(rows,
			[]string{"Enforced by", or(&o.Enforcer, "-")},
			[]string{"In force", inForce(o)})
		if o.Problem != "" && o.Restricted() { // else it is said above
			rows = append(rows, []string{"Problem", o.Problem})
		}
		rows = append(rows, []string{"Scope", or(&o.Scope, "-")})
		for i, limit := range o.Limits {
			label := ""
			if i == 0 {
				label = "Limits"
			}
			rows = append(rows, []string{label, limit})
		}
		rows = append(rows, CoverageRows(o.Coverage)...)
		rows = append(rows,
			[]string{"Trusted files", strconv.Itoa(o.Trusted)},
			[]string{"Refused", number(o.Refused) + " since the agent started"},
			[]string{"Said at", clock(o.At)})
		if offset := time.Duration(o.ClockOffset) * time.Millisecond; offset.Abs() > wrongClock {
			rows = append(rows, []string{"Clock", "plainly wrong: the server's differs by " + offset.Round(time.Second).String()})
		}
	}
	return append(append(rows, labels(m)...),
		[]string{"Group", or(m.RBACGroupName, "-")},
		[]string{"Last seen", clock(m.LastSeen)},
		[]string{"First seen", clock(m.FirstSeen)},
		[]string{"Health", or(m.HealthStatus, "-")},
		[]string{"System", strings.TrimSpace(system(m) + " " + or(m.OSProcessor, ""))},
		[]string{"Agent", or(m.AgentVersion, "-")},
		[]string{"Address", or(m.LastIPAddress, "-")},
		[]string{"Id", m.ID},
		[]string{"Device id", or(m.AADDeviceID, "-")})
}

// CoverageRows are what a machine covers, as rows of a table: what is not covered first.
func CoverageRows(all []cordon.Coverage) [][]string {
	var rows [][]string
	for _, answer := range []cordon.Answer{cordon.No, cordon.Unknown, cordon.Yes} {
		for _, c := range all {
			if c.Answer != answer {
				continue
			}
			label := ""
			if len(rows) == 0 {
				label = "Covered"
			}
			text := string(c.Answer) + ": " + c.What
			if c.Answer != cordon.Yes {
				text += ": " + c.Reason
			}
			rows = append(rows, []string{label, text})
		}
	}
	return rows
}

// wrongClock is a difference between the clocks that no delay explains.
const wrongClock = 5 * time.Minute

// restricted answers yes only where the machine saw the restriction hold.
func restricted(o cordon.Observed) string {
	switch {
	case o.Restricted():
		return "yes"
	case o.Mode == cordon.ModeEnforce:
		return "NO, although it was ordered: " + or(&o.Problem, "the machine did not see it hold")
	case o.Lease.Lapsed:
		return "NO, its lease lapsed: what would be refused runs and is counted"
	case o.Mode == cordon.ModeAudit && o.Lease.Seconds > 0:
		return "NO, although it was ordered: " + or(&o.Problem, "the machine is in mode audit")
	case o.Mode == cordon.ModeAudit:
		return "no, what would be refused runs and is counted"
	case o.Mode == cordon.ModeOff:
		return "no"
	case o.Mode == "":
		return "not known, the machine has not said"
	}
	return "not known, the machine is in mode " + string(o.Mode)
}

func inForce(o cordon.Observed) string {
	switch {
	case o.Mode == cordon.ModeOff:
		return "nothing is to be enforced"
	case o.InForce:
		return "yes, tested by the machine"
	}
	return "no"
}

func system(m mde.Machine) string {
	return strings.TrimSpace(or(m.OSPlatform, "-") + " " + or(m.Version, ""))
}

func number(n uint64) string { return strconv.FormatUint(n, 10) }

// collect returns the whole list (never nil, so that JSON has an array), or none of it.
func collect[T any](seq iter.Seq2[T, error]) ([]T, error) {
	all := []T{}
	for item, err := range seq {
		if err != nil {
			return nil, err
		}
		all = append(all, item)
	}
	return all, nil
}
