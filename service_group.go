package cordon

import (
	"context"
	"fmt"
	"slices"
)

// CreateGroup makes an empty group. The error is of kind Conflict if there is
// one of that name, in any case, or if there are [MaxGroups].
func (s *Service) CreateGroup(ctx context.Context, c Caller, name string) (GroupInfo, error) {
	if err := c.Authorize(ManageGroups); err != nil {
		return GroupInfo{}, err
	}
	name, err := checkGroupName(name)
	if err != nil {
		return GroupInfo{}, err
	}
	now := s.now()
	return s.Store.CreateGroup(ctx, name, AuditEntry{At: now, Kind: AuditGroup, Actor: c.ID, Detail: fmt.Sprintf("group %q created", name)})
}

// RenameGroup gives a group another name. Its machines and what is trusted for it
// stay, because both name it by its id. It is an error of kind Conflict if another
// group has that name; a name that differs in case only is the group's own.
func (s *Service) RenameGroup(ctx context.Context, c Caller, name, to string) (GroupInfo, error) {
	g, err := s.FindGroup(ctx, c, ManageGroups, name)
	if err != nil {
		return GroupInfo{}, err
	}
	if to, err = checkGroupName(to); err != nil {
		return GroupInfo{}, err
	}
	if to == g.Name {
		return g, nil
	}
	err = s.Store.RenameGroup(ctx, g.ID, to, AuditEntry{At: s.now(), Kind: AuditGroup, Actor: c.ID, Detail: fmt.Sprintf("group %q renamed to %q", g.Name, to)})
	g.Name = to
	return g, err
}

// DeleteGroup deletes a group; its machines are in none then. A group for which
// something is trusted stays (the error is of kind Conflict), so that a deletion
// never changes what may run.
func (s *Service) DeleteGroup(ctx context.Context, c Caller, name string) error {
	g, err := s.FindGroup(ctx, c, ManageGroups, name)
	if err != nil {
		return err
	}
	return s.Store.DeleteGroup(ctx, g.ID, AuditEntry{At: s.now(), Kind: AuditGroup, Actor: c.ID, Detail: fmt.Sprintf("group %q deleted; machines in it: %d", g.Name, g.Machines)})
}

// Groups lists all groups, in the order of their names without regard to case.
func (s *Service) Groups(ctx context.Context, c Caller) ([]GroupInfo, error) {
	if err := c.Authorize(ReadMachines); err != nil {
		return nil, err
	}
	return s.Store.Groups(ctx)
}

// FindGroup returns the group of a name, see [SameGroupName]. It is an error of
// kind Forbidden if the caller may not do op, NotFound if there is no such group.
func (s *Service) FindGroup(ctx context.Context, c Caller, op Operation, name string) (GroupInfo, error) {
	if err := c.Authorize(op); err != nil {
		return GroupInfo{}, err
	}
	groups, err := s.Store.Groups(ctx)
	if err != nil {
		return GroupInfo{}, err
	}
	i := slices.IndexFunc(groups, func(g GroupInfo) bool { return SameGroupName(g.Name, name) })
	if i < 0 {
		return GroupInfo{}, Errorf(NotFound, "", "Group %.128s was not found", name)
	}
	return groups[i], nil
}

// Assign puts up to [MaxLabelBatch] machines, each named as for [Service.Find],
// into a group, out of whatever group they were in: all of them, or none. With
// remove it takes out those that are in that group. It returns how many changed
// their group. They learn at once what is trusted there if they are connected,
// else at their next contact.
func (s *Service) Assign(ctx context.Context, c Caller, group string, refs []string, remove bool) (int, error) {
	g, err := s.FindGroup(ctx, c, ManageGroups, group)
	if err != nil {
		return 0, err
	}
	ids, err := s.findAll(ctx, c, ManageGroups, refs)
	if err != nil {
		return 0, err
	}
	now := s.now()
	moved, err := s.Store.ChangeGroups(ctx, ids, func(m Machine) (int64, []AuditEntry, error) {
		e := AuditEntry{At: now, Kind: AuditGroup, Machine: m.ID, Actor: c.ID}
		switch {
		case remove == (m.Group.ID != g.ID):
			return m.Group.ID, nil, nil // as it should be
		case remove:
			e.Detail = fmt.Sprintf("out of group %q", g.Name)
			return 0, []AuditEntry{e}, nil
		}
		e.Detail = fmt.Sprintf("into group %q", g.Name)
		if m.Group.ID != 0 {
			e.Detail += fmt.Sprintf(", out of %q", m.Group.Name)
		}
		return g.ID, []AuditEntry{e}, nil
	})
	if err != nil {
		return 0, err
	}
	for _, m := range moved {
		s.Nudge(m)
	}
	return len(moved), nil
}

// nudgeGroup wakes the machines of a group; all of them if it cannot be told
// which those are.
func (s *Service) nudgeGroup(ctx context.Context, group int64) {
	machines, _, err := s.Store.Machines(ctx, Query{Filter: Compare{Field: FieldGroupID, Op: Eq, Value: group}})
	if err != nil {
		s.NudgeAll()
		return
	}
	for _, m := range machines {
		s.Nudge(m.ID)
	}
}
