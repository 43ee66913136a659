package cli

import (
	"context"
	"strings"
	"time"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/mde"
)

// MachinesFindCmd is "cordon machines find".
type MachinesFindCmd struct {
	common
	IP     string    `name:"ip" placeholder:"ADDRESS" help:"Machines that have this IP address; first who was seen with it last."`
	At     time.Time `placeholder:"TIME" help:"With --ip: that had it within 15 minutes of this time, for example 2026-01-24T22:17:02Z, at most 30 days ago."`
	Tag    string    `placeholder:"TAG" help:"Machines that have this tag, in any case."`
	Prefix bool      `help:"With --tag: that have a tag which begins so."`
}

// Run finds machines.
func (c *MachinesFindCmd) Run(ctx context.Context, env *Env) error {
	switch {
	case (c.IP == "") == (c.Tag == ""):
		return usage("for example --ip 192.0.2.7, or --tag web", "say either --ip or --tag")
	case c.IP == "" && !c.At.IsZero():
		return usage("", "--at has no meaning without --ip")
	case c.Tag == "" && c.Prefix:
		return usage("", "--prefix has no meaning without --tag")
	}
	if _, ok := cordon.ParseAddress(c.IP); c.IP != "" && !ok {
		return usage("give an address such as 192.0.2.7 or 2001:db8::7; names are for cordon machines show", "%s is not an IP address", c.IP)
	}
	client, err := c.connect(env)
	if err != nil {
		return err
	}
	var machines []mde.Machine
	if c.Tag != "" {
		machines, err = collect(client.FindMachinesByTag(ctx, c.Tag, c.Prefix))
	} else {
		if c.At.IsZero() {
			c.At = time.Now()
			if env.Now != nil {
				c.At = env.Now()
			}
		}
		machines, err = client.FindMachinesByIP(ctx, c.IP, c.At)
	}
	if err != nil {
		return err
	}
	return env.printMachines(machines, c.JSON, "there is no such machine")
}

// MachinesTagCmd groups the verbs about tags.
type MachinesTagCmd struct {
	Add    MachinesTagAddCmd    `cmd:"" help:"Add tags to a machine."`
	Remove MachinesTagRemoveCmd `cmd:"" help:"Remove tags from a machine."`
}

// MachinesTagAddCmd is "cordon machines tag add".
type MachinesTagAddCmd struct{ tags }

// Run adds the tags.
func (c *MachinesTagAddCmd) Run(ctx context.Context, env *Env) error {
	return c.run(ctx, env, (*mde.Client).AddTag)
}

// MachinesTagRemoveCmd is "cordon machines tag remove".
type MachinesTagRemoveCmd struct{ tags }

// Run removes the tags.
func (c *MachinesTagRemoveCmd) Run(ctx context.Context, env *Env) error {
	return c.run(ctx, env, (*mde.Client).RemoveTag)
}

// tags is what both verbs take.
type tags struct {
	common
	Machine string   `arg:"" help:"Id, device id or DNS name of the machine."`
	Tags    []string `arg:"" name:"tag" help:"The tags. Upper and lower case are the same."`
}

func (t *tags) run(ctx context.Context, env *Env, change func(*mde.Client, context.Context, string, string) (mde.Machine, error)) error {
	// All are looked at first, so that a slip does not leave half of them changed.
	if _, err := cordon.NormalizeTags(t.Tags); err != nil {
		return err
	}
	client, err := t.connect(env)
	if err != nil {
		return err
	}
	var m mde.Machine
	for i, tag := range t.Tags {
		if m, err = change(client, ctx, t.Machine, tag); err != nil {
			if i > 0 {
				env.note("done before the next one failed: %s", strings.Join(t.Tags[:i], ", "))
			}
			return withHint(ctx, err, ExitNotFound, machineHint)
		}
	}
	return env.printLabels(m, t.JSON)
}

// MachinesSetValueCmd is "cordon machines set-value".
type MachinesSetValueCmd struct {
	common
	Machine string `arg:"" help:"Id, device id or DNS name of the machine."`
	Value   string `arg:"" help:"How much it matters: low, normal or high."`
}

// Run sets the value.
func (c *MachinesSetValueCmd) Run(ctx context.Context, env *Env) error {
	value, ok := cordon.ParseDeviceValue(c.Value)
	if !ok {
		return usage("a value is low, normal or high", "there is no value %s", c.Value)
	}
	client, err := c.connect(env)
	if err != nil {
		return err
	}
	m, err := client.SetDeviceValue(ctx, c.Machine, string(value))
	if err != nil {
		return withHint(ctx, err, ExitNotFound, machineHint)
	}
	return env.printLabels(m, c.JSON)
}

func (env *Env) printLabels(m mde.Machine, asJSON bool) error {
	if asJSON {
		return env.PrintJSON(m)
	}
	return env.Table(append([][]string{{"Machine", or(m.ComputerDNSName, m.ID)}}, labels(m)...)...)
}

// labels are the rows about what people say of a machine.
func labels(m mde.Machine) [][]string {
	tags := "-"
	if len(m.MachineTags) > 0 {
		tags = strings.Join(m.MachineTags, ", ")
	}
	return [][]string{{"Value", or(m.DeviceValue, "-")}, {"Tags", tags}}
}
