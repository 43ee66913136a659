package memstore

import (
	"cmp"
	"context"
	"slices"

	"github.com/cordon-project/cordon"
)

// CreateGroup implements [cordon.Store].
func (s *Store) CreateGroup(_ context.Context, name string, entry cordon.AuditEntry) (g cordon.GroupInfo, err error) {
	err = s.change("CreateGroup", func() error {
		if err := s.free(name, 0); err != nil {
			return err
		}
		if len(s.groups) >= cordon.MaxGroups {
			return cordon.Errorf(cordon.Conflict, "", "There are %d groups already, which is the most", len(s.groups))
		}
		s.made++
		g = cordon.GroupInfo{Group: cordon.Group{ID: s.made, Name: name}, Created: entry.At}
		s.groups = append(s.groups, g)
		s.log(entry)
		return nil
	})
	return g, err
}

// free returns an error if a group other than this one has the name.
func (s *Store) free(name string, but int64) error {
	if slices.ContainsFunc(s.groups, func(o cordon.GroupInfo) bool { return o.ID != but && cordon.SameGroupName(o.Name, name) }) {
		return cordon.Errorf(cordon.Conflict, "", "There is a group %s already", name)
	}
	return nil
}

// RenameGroup implements [cordon.Store].
func (s *Store) RenameGroup(_ context.Context, id int64, name string, entry cordon.AuditEntry) error {
	return s.change("RenameGroup", func() error {
		i := s.group(id)
		if i < 0 {
			return noGroup(id)
		}
		if err := s.free(name, id); err != nil {
			return err
		}
		s.groups[i].Name = name
		for m, machine := range s.machines {
			if machine.Group.ID == id {
				machine.Group.Name = name
				s.machines[m] = machine
			}
		}
		s.log(entry)
		return nil
	})
}

// DeleteGroup implements [cordon.Store].
func (s *Store) DeleteGroup(_ context.Context, id int64, entry cordon.AuditEntry) error {
	return s.change("DeleteGroup", func() error {
		i := s.group(id)
		if i < 0 {
			return noGroup(id)
		}
		if slices.ContainsFunc(s.rules, func(r cordon.TrustRule) bool { return r.Scope == cordon.TrustGroup(id) }) {
			return cordon.Errorf(cordon.Conflict, "", "There are rules for the group %s", s.groups[i].Name)
		}
		s.groups = slices.Delete(s.groups, i, i+1)
		for m, machine := range s.machines {
			if machine.Group.ID == id {
				machine.Group = cordon.Group{}
				s.machines[m] = machine
			}
		}
		s.log(entry)
		return nil
	})
}

// group returns the place of a group, negative if there is none.
func (s *Store) group(id int64) int {
	return slices.IndexFunc(s.groups, func(g cordon.GroupInfo) bool { return g.ID == id })
}

func noGroup(id int64) error {
	return cordon.Errorf(cordon.NotFound, "", "Group %d was not found", id)
}

// Groups implements [cordon.Store].
func (s *Store) Groups(context.Context) ([]cordon.GroupInfo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	groups := slices.Clone(s.groups)
	for i, g := range groups {
		for _, m := range s.machines {
			if m.Group.ID == g.ID {
				groups[i].Machines++
			}
		}
		for _, r := range s.rules {
			if r.Scope == cordon.TrustGroup(g.ID) {
				groups[i].Trusted++
			}
		}
	}
	slices.SortFunc(groups, func(a, b cordon.GroupInfo) int { return cmp.Compare(cordon.Fold(a.Name), cordon.Fold(b.Name)) })
	return groups, nil
}

// ChangeGroups implements [cordon.Store].
func (s *Store) ChangeGroups(_ context.Context, ids []cordon.MachineID, change cordon.GroupChange) (moved []cordon.MachineID, err error) {
	err = s.change("ChangeGroups", func() error {
		var log []cordon.AuditEntry
		to := make(map[cordon.MachineID]cordon.Group)
		for _, id := range ids {
			m, ok := s.machines[id]
			if !ok {
				return cordon.Errorf(cordon.NotFound, "", "Machine %s was not found", id)
			}
			group, entries, err := change(cloneMachine(m))
			if err != nil {
				return err
			}
			i := s.group(group)
			if group != 0 && i < 0 {
				return noGroup(group)
			}
			log = append(log, entries...)
			if group == m.Group.ID {
				continue
			}
			moved, to[id] = append(moved, id), cordon.Group{}
			if i >= 0 {
				to[id] = s.groups[i].Group
			}
		}
		for id, g := range to {
			m := s.machines[id]
			m.Group = g
			s.machines[id] = m
		}
		if len(moved) > 0 {
			s.revision++
		}
		s.log(log...)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return moved, nil
}
