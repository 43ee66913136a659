package cli

import (
	"context"
	"fmt"
	"strconv"

	"github.com/cordon-project/cordon/mde"
)

// GroupsCmd groups the verbs about device groups.
type GroupsCmd struct {
	List     GroupsListCmd     `cmd:"" help:"List the device groups."`
	Show     GroupsShowCmd     `cmd:"" help:"Show one device group and the machines in it."`
	Create   GroupsCreateCmd   `cmd:"" help:"Make a device group."`
	Assign   GroupsAssignCmd   `cmd:"" help:"Put machines into a device group."`
	Unassign GroupsUnassignCmd `cmd:"" help:"Take machines out of a device group."`
	Rename   GroupsRenameCmd   `cmd:"" help:"Give a device group another name."`
	Delete   GroupsDeleteCmd   `cmd:"" help:"Delete a device group for which nothing is trusted."`
}

// Help is shown below the one-line help.
func (GroupsCmd) Help() string {
	return `A machine is in one group or in none, and only these verbs change that: no tag, and nothing that a machine says of itself. What "cordon trust add --group" says holds for the machines that are in the group at the moment. Programs see the group of a machine as rbacGroupName and rbacGroupId, and can filter by the latter.`
}

type groupArg struct {
	common
	Group string `arg:"" help:"Name of the device group, in any case."`
}

const groupHint = "cordon groups list shows the groups there are, cordon machines list the machines"

func describeGroup(g mde.Group) [][]string {
	return [][]string{
		{"Group", g.Name},
		{"Id", strconv.FormatInt(g.ID, 10)},
		{"Created", clock(g.Created)},
		{"Trusted files", strconv.Itoa(g.Trusted)},
	}
}

// machinesOf lists the machines of a group.
func machinesOf(ctx context.Context, client *mde.Client, g mde.Group) ([]mde.Machine, error) {
	return collect(client.ListMachines(ctx, mde.ListOptions{Filter: mde.Equal([2]string{"rbacGroupId", strconv.FormatInt(g.ID, 10)})}))
}

// GroupsListCmd is "cordon groups list".
type GroupsListCmd struct{ common }

// Run lists all groups.
func (c *GroupsListCmd) Run(ctx context.Context, env *Env) error {
	client, err := c.connect(env)
	if err != nil {
		return err
	}
	groups, err := client.ListGroups(ctx)
	if err != nil {
		return err
	}
	return printList(env, c.JSON, groups, "there are no device groups", []string{"ID", "NAME", "MACHINES", "TRUSTED FILES", "CREATED"}, func(g mde.Group) []string {
		return []string{strconv.FormatInt(g.ID, 10), g.Name, strconv.Itoa(g.Machines), strconv.Itoa(g.Trusted), clock(g.Created)}
	})
}

// GroupsShowCmd is "cordon groups show".
type GroupsShowCmd struct{ groupArg }

// Help is shown below the one-line help.
func (GroupsShowCmd) Help() string {
	return `With --json the answer is one object: "group", and "machines" as the Defender-compatible API gives them.`
}

// shownGroup is what --json prints.
type shownGroup struct {
	Group    mde.Group     `json:"group"`
	Machines []mde.Machine `json:"machines"`
}

// Run shows the group.
func (c *GroupsShowCmd) Run(ctx context.Context, env *Env) error {
	client, err := c.connect(env)
	if err != nil {
		return err
	}
	g, err := client.GetGroup(ctx, c.Group)
	if err != nil {
		return withHint(ctx, err, ExitNotFound, groupHint)
	}
	machines, err := machinesOf(ctx, client, g)
	if err != nil {
		return err
	}
	if c.JSON {
		return env.PrintJSON(shownGroup{g, machines})
	}
	rows, label := describeGroup(g), "Machines"
	for _, m := range machines {
		rows, label = append(rows, []string{label, m.ID + ", " + or(m.ComputerDNSName, "-")}), ""
	}
	if len(machines) == 0 {
		rows = append(rows, []string{label, "-"})
	}
	return env.Table(rows...)
}

// GroupsCreateCmd is "cordon groups create".
type GroupsCreateCmd struct {
	common
	Name string `arg:"" help:"What people call the group."`
}

// Run makes the group.
func (c *GroupsCreateCmd) Run(ctx context.Context, env *Env) error {
	client, err := c.connect(env)
	if err != nil {
		return err
	}
	g, err := client.CreateGroup(ctx, c.Name)
	if err != nil {
		return err
	}
	if c.JSON {
		return env.PrintJSON(g)
	}
	return env.Table(describeGroup(g)...)
}

// members is what assign and unassign take.
type members struct {
	groupArg
	Machines []string `arg:"" name:"machine" help:"Ids, device ids or DNS names of machines, 500 at most."`
}

func (c *members) run(ctx context.Context, env *Env, remove bool, done, nothing string) error {
	client, err := c.connect(env)
	if err != nil {
		return err
	}
	n, err := client.Assign(ctx, c.Group, c.Machines, remove)
	if err != nil {
		return withHint(ctx, err, ExitNotFound, groupHint)
	}
	if c.JSON {
		return env.PrintJSON(map[string]int{"changed": n})
	}
	if n == 0 {
		env.note("%s; nothing has changed", nothing)
		return nil
	}
	env.note("%s %s: %d; those that are connected learn at once what is trusted for them", done, c.Group, n)
	return nil
}

// GroupsAssignCmd is "cordon groups assign".
type GroupsAssignCmd struct{ members }

// Help is shown below the one-line help.
func (GroupsAssignCmd) Help() string {
	return `All of them are put there, or none. A machine leaves the group that it was in, with what was trusted there.`
}

// Run puts the machines into the group.
func (c *GroupsAssignCmd) Run(ctx context.Context, env *Env) error {
	return c.run(ctx, env, false, "machines that came into", fmt.Sprintf("all of them are in %s already", c.Group))
}

// GroupsUnassignCmd is "cordon groups unassign".
type GroupsUnassignCmd struct{ members }

// Help is shown below the one-line help.
func (GroupsUnassignCmd) Help() string {
	return `What is trusted for the group does not run there any more. Machines that are not in this group stay where they are.`
}

// Run takes the machines out of the group.
func (c *GroupsUnassignCmd) Run(ctx context.Context, env *Env) error {
	return c.run(ctx, env, true, "machines that left", fmt.Sprintf("none of them is in %s", c.Group))
}

// GroupsRenameCmd is "cordon groups rename".
type GroupsRenameCmd struct {
	groupArg
	Name string `arg:"" help:"What people are to call the group."`
}

// Help is shown below the one-line help.
func (GroupsRenameCmd) Help() string {
	return `Its machines stay in it, and what is trusted for it stays trusted.`
}

// Run renames the group.
func (c *GroupsRenameCmd) Run(ctx context.Context, env *Env) error {
	client, err := c.connect(env)
	if err != nil {
		return err
	}
	g, err := client.RenameGroup(ctx, c.Group, c.Name)
	if err != nil {
		return withHint(ctx, err, ExitNotFound, groupHint)
	}
	if c.JSON {
		return env.PrintJSON(g)
	}
	return env.Table(describeGroup(g)...)
}

// GroupsDeleteCmd is "cordon groups delete".
type GroupsDeleteCmd struct{ groupArg }

// Run deletes the group.
func (c *GroupsDeleteCmd) Run(ctx context.Context, env *Env) error {
	client, err := c.connect(env)
	if err != nil {
		return err
	}
	if err := client.DeleteGroup(ctx, c.Group); err != nil {
		return withHint(ctx, withHint(ctx, err, ExitNotFound, groupHint), ExitConflict, "cordon trust list shows what is trusted there, cordon trust remove SHA256 --group takes it back")
	}
	env.note("group %s is deleted; its machines are in none", c.Group)
	return nil
}
