// Package memstore is a [cordon.Store] in memory, for tests.
//
// It keeps every promise of the interface but durability, answers queries by
// their definition ([cordon.Holds]), and is strict where a real store may be
// lucky: it calls each [cordon.ActionChange] twice and panics if the two differ,
// and it shares no memory with its callers. [Store.Hook] makes it fail before or
// after a change, which is what a crash of the server looks like from outside.
package memstore

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cordon-project/cordon"
)

// Store is an empty store when zero. It must not be copied.
type Store struct {
	// Hook, if set, is called around every method that changes something: with
	// done false before the change, with done true when it has been made. If it
	// returns an error the method returns that: before the change nothing was
	// written, after it everything was, and the caller does not learn it. It is set
	// before the first call. It must not call the store.
	Hook func(method string, done bool) error
	// Now is the clock by which a machine that was silent for long is not active
	// any more; nil: the real one.
	Now func() time.Time

	mu       sync.Mutex
	actions  []cordon.Action // in the order of their creation
	machines map[cordon.MachineID]cordon.Machine
	seen     map[cordon.MachineID][]cordon.Sighting
	audit    []cordon.AuditEntry
	changes  map[int64]bool // which of them belong to a change of an action, by number
	apps     map[string]cordon.Application
	settings map[string][]byte
	told     map[teller]cordon.Findings
	rules    []cordon.TrustRule
	revision uint64
	groups   []cordon.GroupInfo // without their counts
	made     int64              // how many groups there ever were
}

type teller struct {
	machine cordon.MachineID
	kind    cordon.FindingKind
}

var _ cordon.Store = (*Store)(nil)

// change runs a method's change between the two calls of the hook.
func (s *Store) change(method string, change func() error) error {
	if s.Hook != nil {
		if err := s.Hook(method, false); err != nil {
			return err
		}
	}
	s.mu.Lock()
	err := change()
	s.mu.Unlock()
	if err == nil && s.Hook != nil {
		return s.Hook(method, true)
	}
	return err
}

func (s *Store) log(entries ...cordon.AuditEntry) {
	for _, e := range entries {
		e.Seq = int64(len(s.audit)) + 1
		s.audit = append(s.audit, e)
	}
}

// logChange is log for entries that belong to a change of an action.
func (s *Store) logChange(entries ...cordon.AuditEntry) {
	if s.changes == nil {
		s.changes = make(map[int64]bool)
	}
	for _, e := range entries {
		s.log(e)
		s.changes[int64(len(s.audit))] = true
	}
}

// CreateAction implements [cordon.Store].
func (s *Store) CreateAction(_ context.Context, d cordon.ActionDraft) (a cordon.Action, err error) {
	err = s.change("CreateAction", func() error {
		m, ok := s.machines[d.Machine]
		if !ok {
			return cordon.Errorf(cordon.NotFound, "", "Machine %s was not found", d.Machine)
		}
		if slices.ContainsFunc(s.actions, func(a cordon.Action) bool {
			return a.Machine == d.Machine && a.Type == d.Type && !a.Status.Terminal()
		}) {
			return cordon.Errorf(cordon.Conflict, cordon.CodeActionInProgress, "Action is already in progress")
		}
		m.Generation++
		s.machines[m.ID] = m
		a = d.Open(m.Generation, m.Facts.DNSName)
		s.actions = append(s.actions, clone(a))
		s.logChange(cordon.AuditEntry{At: d.Created, Kind: cordon.AuditCreated, Machine: m.ID, Action: a.ID, Actor: d.RequestorID, Status: a.Status, Detail: a.Asked()})
		return nil
	})
	return a, err
}

// ChangeAction implements [cordon.Store].
func (s *Store) ChangeAction(_ context.Context, id cordon.ActionID, change cordon.ActionChange) (a cordon.Action, err error) {
	err = s.change("ChangeAction", func() error {
		i, err := s.index(id)
		if err != nil {
			return err
		}
		twin, twinEntries, _ := change(clone(s.actions[i]))
		after, entries, err := change(clone(s.actions[i]))
		if !reflect.DeepEqual(twin, after) || !reflect.DeepEqual(twinEntries, entries) {
			panic(fmt.Sprintf("the change of action %s is not pure: %+v, then %+v", id, twin, after))
		}
		if err != nil {
			return err
		}
		s.actions[i] = clone(after)
		s.logChange(entries...)
		a = after
		return nil
	})
	return a, err
}

func (s *Store) index(id cordon.ActionID) (int, error) {
	i := slices.IndexFunc(s.actions, func(a cordon.Action) bool { return a.ID == id })
	if i < 0 {
		return i, cordon.Errorf(cordon.NotFound, "", "Machine action %s was not found", id)
	}
	return i, nil
}

func clone(a cordon.Action) cordon.Action {
	if a.Delivered != nil {
		t := *a.Delivered
		a.Delivered = &t
	}
	if a.Cancel != nil {
		c := *a.Cancel
		a.Cancel = &c
	}
	return a
}

// Action implements [cordon.Store].
func (s *Store) Action(_ context.Context, id cordon.ActionID) (cordon.Action, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, err := s.index(id)
	if err != nil {
		return cordon.Action{}, err
	}
	return clone(s.actions[i]), nil
}

// actionsWhere returns copies, oldest first.
func (s *Store) actionsWhere(match func(cordon.Action) bool) (found []cordon.Action) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.actions {
		if match(a) {
			found = append(found, clone(a))
		}
	}
	return found
}

// OpenActions implements [cordon.Store].
func (s *Store) OpenActions(_ context.Context, m cordon.MachineID) ([]cordon.Action, error) {
	open := s.actionsWhere(func(a cordon.Action) bool { return a.Machine == m && !a.Status.Terminal() })
	slices.SortFunc(open, func(a, b cordon.Action) int { return cmp.Compare(a.Generation, b.Generation) })
	return open, nil
}

// ExpiredActions implements [cordon.Store].
func (s *Store) ExpiredActions(_ context.Context, now time.Time, grace time.Duration, limit int) ([]cordon.ActionID, error) {
	var ids []cordon.ActionID
	for _, a := range s.actionsWhere(func(a cordon.Action) bool { return a.Expire(now, grace).Status != a.Status }) {
		ids = append(ids, a.ID)
	}
	return ids[:min(limit, len(ids))], nil
}

// EnrolMachine implements [cordon.Store].
func (s *Store) EnrolMachine(_ context.Context, m cordon.Machine) (created bool, err error) {
	err = s.change("EnrolMachine", func() error {
		if s.machines == nil {
			s.machines, s.seen = make(map[cordon.MachineID]cordon.Machine), make(map[cordon.MachineID][]cordon.Sighting)
		}
		known, ok := s.machines[m.ID]
		created = !ok
		m.Labels, m.Group = cordon.Labels{Value: cordon.NormalValue}, cordon.Group{}
		if ok {
			s.sight(known, m.Facts, m.LastSeen)
			known.Facts, known.LastSeen = m.Facts, m.LastSeen
			m = known
		} else {
			s.sight(m, m.Facts, m.LastSeen)
		}
		s.machines[m.ID] = m
		s.log(cordon.AuditEntry{At: m.LastSeen, Kind: cordon.AuditEnrolled, Machine: m.ID, Actor: string(m.ID)})
		return nil
	})
	return created, err
}

// sight keeps which addresses a machine has, by what it says at a time.
func (s *Store) sight(before cordon.Machine, f cordon.Facts, at time.Time) {
	s.seen[before.ID] = cordon.NextSightings(s.seen[before.ID], f.Addresses(), before.LastSeen, at)
}

// MachinesByAddress implements [cordon.Store].
func (s *Store) MachinesByAddress(_ context.Context, address string, from, to time.Time, limit int) ([]cordon.Machine, error) {
	until := make(map[cordon.MachineID]time.Time)
	found := s.machinesWhere(func(m cordon.Machine) bool {
		for _, sighting := range s.seen[m.ID] {
			if t := sighting.Until(m.LastSeen); sighting.Seen(address, m.LastSeen, from, to) && t.After(until[m.ID]) {
				until[m.ID] = t
			}
		}
		_, ok := until[m.ID]
		return ok
	})
	slices.SortStableFunc(found, func(a, b cordon.Machine) int { return until[b.ID].Compare(until[a.ID]) })
	return found[:min(limit, len(found))], nil
}

// ChangeLabels implements [cordon.Store].
func (s *Store) ChangeLabels(_ context.Context, ids []cordon.MachineID, change cordon.LabelChange) (changed []cordon.Machine, err error) {
	err = s.change("ChangeLabels", func() error {
		var log []cordon.AuditEntry
		for _, id := range ids {
			m, ok := s.machines[id]
			if !ok {
				return cordon.Errorf(cordon.NotFound, "", "Machine %s was not found", id)
			}
			labels, entries, err := change(cloneMachine(m))
			if err != nil {
				return err
			}
			m.Labels = labels
			changed, log = append(changed, cloneMachine(m)), append(log, entries...)
		}
		for _, m := range changed {
			s.machines[m.ID] = cloneMachine(m)
		}
		s.log(log...)
		return nil
	})
	if err != nil {
		changed = nil
	}
	return changed, err
}

func cloneMachine(m cordon.Machine) cordon.Machine {
	m.Tags = slices.Clone(m.Tags)
	return m
}

// Machine implements [cordon.Store].
func (s *Store) Machine(_ context.Context, id cordon.MachineID) (cordon.Machine, error) {
	found := s.machinesWhere(func(m cordon.Machine) bool { return m.ID == id })
	if len(found) == 0 {
		return cordon.Machine{}, cordon.Errorf(cordon.NotFound, "", "Machine %s was not found", id)
	}
	return found[0], nil
}

// MachineByDeviceID implements [cordon.Store].
func (s *Store) MachineByDeviceID(_ context.Context, deviceID string) (cordon.Machine, error) {
	found := s.machinesWhere(func(m cordon.Machine) bool { return m.DeviceID == deviceID })
	if len(found) == 0 {
		return cordon.Machine{}, cordon.Errorf(cordon.NotFound, "", "Machine %s was not found", deviceID)
	}
	return found[0], nil
}

// MachinesByName implements [cordon.Store].
func (s *Store) MachinesByName(_ context.Context, name string, limit int) ([]cordon.Machine, error) {
	found := s.machinesWhere(func(m cordon.Machine) bool { return cordon.Fold(m.Facts.DNSName) == cordon.Fold(name) })
	return found[:min(limit, len(found))], nil
}

// machinesWhere returns the machines in the order of their ids.
func (s *Store) machinesWhere(match func(cordon.Machine) bool) (found []cordon.Machine) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(s.machines)) {
		if m := s.machines[id]; match(m) {
			found = append(found, cloneMachine(m))
		}
	}
	return found
}

// MachineSaid implements [cordon.Store].
func (s *Store) MachineSaid(_ context.Context, id cordon.MachineID, f *cordon.Facts, o cordon.Observed, at time.Time) error {
	return s.change("MachineSaid", func() error {
		m, ok := s.machines[id]
		if !ok {
			return cordon.Errorf(cordon.NotFound, "", "Machine %s was not found", id)
		}
		if o.Generation > 1<<62 { // the next ones have to be possible
			return cordon.Errorf(cordon.Invalid, cordon.CodeInvalidInput, "The generation %d is impossible", o.Generation)
		}
		if f != nil {
			s.sight(m, *f, at)
			m.Facts = *f
		}
		m.Observed, m.Generation = o, max(m.Generation, o.Generation)
		if at.After(m.LastSeen) {
			m.LastSeen = at
		}
		s.machines[id] = m
		return nil
	})
}

// TouchMachines implements [cordon.Store].
func (s *Store) TouchMachines(_ context.Context, seen map[cordon.MachineID]time.Time) error {
	return s.change("TouchMachines", func() error {
		for id, at := range seen {
			if m, ok := s.machines[id]; ok && at.After(m.LastSeen) {
				m.LastSeen = at
				s.machines[id] = m
			}
		}
		return nil
	})
}

// PutFindings implements [cordon.Store].
func (s *Store) PutFindings(_ context.Context, m cordon.MachineID, told cordon.Findings) error {
	return s.change("PutFindings", func() error {
		if _, ok := s.machines[m]; !ok {
			return cordon.Errorf(cordon.NotFound, "", "Machine %s was not found", m)
		}
		if s.told == nil {
			s.told = make(map[teller]cordon.Findings)
		}
		k := teller{m, told.Kind}
		if before, ok := s.told[k]; !ok || told.Newer(before) {
			told.Files = slices.Clone(told.Files)
			s.told[k] = told
		}
		return nil
	})
}

// Findings implements [cordon.Store].
func (s *Store) Findings(_ context.Context, m cordon.MachineID, kind cordon.FindingKind) (cordon.Findings, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	told, ok := s.told[teller{m, kind}]
	if !ok {
		return told, cordon.Errorf(cordon.NotFound, "", "Machine %s has told nothing of this kind", m)
	}
	told.Files = slices.Clone(told.Files)
	return told, nil
}

// ChangeTrust implements [cordon.Store].
func (s *Store) ChangeTrust(_ context.Context, r cordon.TrustRule, remove bool, entry cordon.AuditEntry) (changed bool, err error) {
	err = s.change("ChangeTrust", func() error {
		if id, ok := r.Scope.Group(); ok && s.group(id) < 0 {
			return noGroup(id)
		}
		i := slices.IndexFunc(s.rules, func(o cordon.TrustRule) bool { return o.Scope == r.Scope && o.Digest == r.Digest })
		if i >= 0 != remove {
			return nil
		}
		n := 0
		for _, o := range s.rules {
			if o.Scope == r.Scope {
				n++
			}
		}
		switch {
		case remove:
			s.rules = slices.Delete(s.rules, i, i+1)
		case n >= cordon.MaxTrustRules:
			return cordon.Errorf(cordon.Conflict, "", "There are %d rules for %s already, which is the most", n, r.Scope)
		default:
			s.rules = append(s.rules, r)
		}
		changed = true
		s.revision++
		s.log(entry)
		return nil
	})
	return changed && err == nil, err
}

// TrustRules implements [cordon.Store].
func (s *Store) TrustRules(context.Context) ([]cordon.TrustRule, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.trusted(), nil
}

// TrustOf implements [cordon.Store].
func (s *Store) TrustOf(_ context.Context, m cordon.MachineID) ([]cordon.TrustRule, uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	scopes := []cordon.TrustScope{cordon.TrustAll, cordon.TrustMachine(m), cordon.TrustGroup(s.machines[m].Group.ID)}
	return slices.DeleteFunc(s.trusted(), func(r cordon.TrustRule) bool { return !slices.Contains(scopes, r.Scope) }), s.revision, nil
}

// trusted returns all rules in their order.
func (s *Store) trusted() []cordon.TrustRule {
	rules := slices.Clone(s.rules)
	slices.SortFunc(rules, func(a, b cordon.TrustRule) int {
		return cmp.Or(cmp.Compare(a.Scope, b.Scope), cmp.Compare(a.Digest.String(), b.Digest.String()))
	})
	return rules
}

// Audit implements [cordon.Store].
func (s *Store) Audit(_ context.Context, entries ...cordon.AuditEntry) error {
	return s.change("Audit", func() error {
		s.log(entries...)
		return nil
	})
}

// AuditOf implements [cordon.Store].
func (s *Store) AuditOf(_ context.Context, id cordon.ActionID) ([]cordon.AuditEntry, error) {
	return slices.DeleteFunc(s.AuditLog(), func(e cordon.AuditEntry) bool { return e.Action != id }), nil
}

// AuditEntries implements [cordon.Store].
func (s *Store) AuditEntries(_ context.Context, q cordon.AuditQuery) ([]cordon.AuditEntry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	log := slices.DeleteFunc(slices.Clone(s.audit), func(e cordon.AuditEntry) bool { return s.changes[e.Seq] })
	slices.SortFunc(log, func(a, b cordon.AuditEntry) int { return cmp.Or(b.At.Compare(a.At), cmp.Compare(b.Seq, a.Seq)) })
	if q.Before != 0 {
		i := slices.IndexFunc(log, func(e cordon.AuditEntry) bool { return e.Seq == q.Before })
		if i < 0 {
			return nil, cordon.Errorf(cordon.Invalid, cordon.CodeInvalidInput, "There is no audit entry %d to go on from", q.Before)
		}
		log = log[i+1:]
	}
	log = slices.DeleteFunc(log, func(e cordon.AuditEntry) bool {
		return e.At.Before(q.Since) || len(q.Kinds) > 0 && !slices.Contains(q.Kinds, e.Kind)
	})
	return log[:min(q.Limit, len(log))], nil
}

// AuditLog returns the whole audit log, oldest first.
func (s *Store) AuditLog() []cordon.AuditEntry {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.audit)
}

// Application implements [cordon.Store].
func (s *Store) Application(_ context.Context, clientID string) (cordon.Application, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a, ok := s.apps[clientID]
	if !ok {
		return a, cordon.Errorf(cordon.NotFound, "", "Application %s was not found", clientID)
	}
	return a.Clone(), nil
}

// Applications implements [cordon.Store].
func (s *Store) Applications(context.Context) ([]cordon.Application, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.applications(), nil
}

func (s *Store) applications() (all []cordon.Application) {
	for _, a := range s.apps {
		all = append(all, a.Clone())
	}
	slices.SortFunc(all, func(a, b cordon.Application) int {
		return cmp.Or(cmp.Compare(strings.ToLower(a.DisplayName), strings.ToLower(b.DisplayName)), cmp.Compare(a.ClientID, b.ClientID))
	})
	return all
}

// ChangeApplication implements [cordon.Store].
func (s *Store) ChangeApplication(_ context.Context, clientID string, change cordon.ApplicationChange) (after *cordon.Application, err error) {
	decide := func() (*cordon.Application, []cordon.AuditEntry, error) {
		var before *cordon.Application
		if a, ok := s.apps[clientID]; ok {
			a = a.Clone()
			before = &a
		}
		return change(before, slices.DeleteFunc(s.applications(), func(a cordon.Application) bool { return a.ClientID == clientID }))
	}
	err = s.change("ChangeApplication", func() error {
		twin, twinEntries, _ := decide()
		a, entries, err := decide()
		if !reflect.DeepEqual(twin, a) || !reflect.DeepEqual(twinEntries, entries) {
			panic(fmt.Sprintf("the change of application %s is not pure: %+v, then %+v", clientID, twin, a))
		}
		if err != nil {
			return err
		}
		after = a
		s.log(entries...)
		if a == nil {
			delete(s.apps, clientID)
			return nil
		}
		s.put(*a)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return after, nil
}

// PutApplication implements [cordon.Store].
func (s *Store) PutApplication(_ context.Context, a cordon.Application) error {
	return s.change("PutApplication", func() error {
		s.put(a)
		return nil
	})
}

func (s *Store) put(a cordon.Application) {
	if s.apps == nil {
		s.apps = make(map[string]cordon.Application)
	}
	s.apps[a.ClientID] = a.Clone()
}

// Setting implements [cordon.Store].
func (s *Store) Setting(_ context.Context, name string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.settings[name]
	if !ok {
		return nil, cordon.Errorf(cordon.NotFound, "", "Setting %s was not found", name)
	}
	return slices.Clone(v), nil
}

// PutSettings implements [cordon.Store].
func (s *Store) PutSettings(_ context.Context, values map[string][]byte) error {
	return s.change("PutSettings", func() error {
		if s.settings == nil {
			s.settings = make(map[string][]byte)
		}
		for name, v := range values {
			s.settings[name] = slices.Clone(v)
		}
		return nil
	})
}
