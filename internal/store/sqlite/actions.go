package sqlite

import (
	"context"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/store/sqlite/engine"
)

// machineKey returns the 20 bytes of a machine id.
func machineKey(id cordon.MachineID) ([]byte, bool) {
	if m, ok := cordon.ParseMachineID(string(id)); !ok || m != id {
		return nil, false
	}
	key, err := hex.DecodeString(string(id))
	return key, err == nil
}

func machineID(key []byte) cordon.MachineID { return cordon.MachineID(hex.EncodeToString(key)) }

func noMachine(ref string) error {
	return cordon.Errorf(cordon.NotFound, "", "Machine %s was not found", ref)
}

func noAction(id cordon.ActionID) error {
	return cordon.Errorf(cordon.NotFound, "", "Machine action %s was not found", id)
}

// open is the condition of the indexes on open actions. A query has to repeat
// it word for word to be answered from them.
const open = "status IN ('Pending', 'InProgress')"

// ended is the same for the index on actions that have ended.
const ended = "status NOT IN ('Pending', 'InProgress')"

// maxGeneration is the highest generation that a machine may claim. It leaves
// room for more orders than there will ever be.
const maxGeneration = 1 << 62

// CreateAction implements [cordon.Store].
func (s *Store) CreateAction(ctx context.Context, d cordon.ActionDraft) (cordon.Action, error) {
	key, ok := machineKey(d.Machine)
	if !ok {
		return cordon.Action{}, noMachine(string(d.Machine))
	}
	d.Created, d.Expires = stored(d.Created), stored(d.Expires)
	var a cordon.Action
	err := s.db.Write(ctx, func(t *engine.Tx) (err error) {
		a, err = createAction(t, d, key)
		return err
	})
	if err != nil {
		return cordon.Action{}, err
	}
	return a, nil
}

// nextAction returns what a new action takes from its machine.
const nextAction = "SELECT coalesce(dns_name, ''), " + generation + " + 1 FROM machines m WHERE id = ?"

func createAction(t *engine.Tx, d cordon.ActionDraft, key []byte) (a cordon.Action, err error) {
	known := false
	err = t.Each(nextAction, func(r *engine.Row) {
		known = true
		name := r.Text()
		a = d.Open(uint64(r.Number()), name)
	}, key)
	if err == nil && !known {
		err = noMachine(string(d.Machine))
	}
	if err != nil {
		return a, err
	}
	inserted, seq, err := t.Exec(`INSERT INTO actions (id, type, machine, dns_name, generation, requestor, requestor_id, comment, source,
		status, created, updated, expires, lease, error_hresult, reason) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, '')
		ON CONFLICT (machine, type) WHERE `+open+` DO NOTHING`,
		string(a.ID), string(a.Type), key, a.DNSName, int64(a.Generation), a.Requestor, a.RequestorID, a.Comment, a.Source,
		string(a.Status), cordon.Ticks(a.Created), cordon.Ticks(a.Updated), cordon.Ticks(a.Expires), int64(a.Lease/time.Second))
	if err == nil && inserted == 0 {
		err = cordon.Errorf(cordon.Conflict, cordon.CodeActionInProgress, "Action is already in progress")
	}
	if err != nil {
		return a, err
	}
	return a, appendAudit(t, seq, cordon.AuditEntry{At: a.Created, Kind: cordon.AuditCreated, Machine: a.Machine, Action: a.ID,
		Actor: a.RequestorID, Status: a.Status, Detail: a.Asked()})
}

// ChangeAction implements [cordon.Store]. A change may alter Status, Updated,
// Delivered, Cancel, ErrorHResult and Reason. To alter anything else is an error
// of kind Internal.
func (s *Store) ChangeAction(ctx context.Context, id cordon.ActionID, change cordon.ActionChange) (cordon.Action, error) {
	var a cordon.Action
	err := s.db.Write(ctx, func(t *engine.Tx) (err error) {
		a, err = changeAction(t, id, change)
		return err
	})
	if err != nil {
		return cordon.Action{}, err
	}
	return a, nil
}

func changeAction(t *engine.Tx, id cordon.ActionID, change cordon.ActionChange) (after cordon.Action, err error) {
	var before cordon.Action
	var seq int64
	err = t.Each("SELECT "+actionColumns+", seq FROM actions a WHERE id = ?", func(r *engine.Row) {
		before = actionOf(r)
		seq = r.Number()
	}, string(id))
	if err == nil && seq == 0 {
		err = noAction(id)
	}
	if err != nil {
		return before, err
	}
	was := fateOf(before)
	after, entries, err := change(before)
	if err != nil {
		return after, err
	}
	if origin(after) != origin(before) {
		return after, &cordon.Error{Kind: cordon.Internal, Message: "A change of a machine action failed", Err: fmt.Errorf("change origin of action %s: %+v became %+v", id, before, after)}
	}
	after = storedAction(after)
	if fate := fateOf(after); fate != was {
		_, _, err = t.Exec(`UPDATE actions SET status = ?, updated = ?, delivered = ?, cancel_requestor_id = ?, cancel_comment = ?, cancel_at = ?,
			error_hresult = ?, reason = ? WHERE seq = ?`, append(fate[:], seq)...)
		if err != nil {
			return after, err
		}
	}
	for _, e := range entries {
		about := seq
		if e.Action != id {
			about = 0
		}
		if err := appendAudit(t, about, e); err != nil {
			return after, err
		}
	}
	return after, nil
}

// origin returns a with everything cleared that may change after its creation.
func origin(a cordon.Action) cordon.Action {
	a.Status, a.Updated, a.Delivered, a.Cancel, a.ErrorHResult, a.Reason = "", time.Time{}, nil, nil, 0, ""
	a.Created, a.Expires = stored(a.Created), stored(a.Expires)
	return a
}

// fateOf returns the columns of what may change after the creation of an action.
func fateOf(a cordon.Action) [8]any {
	v := [8]any{string(a.Status), cordon.Ticks(a.Updated), nil, nil, nil, nil, int64(a.ErrorHResult), a.Reason}
	if a.Delivered != nil {
		v[2] = cordon.Ticks(*a.Delivered)
	}
	if a.Cancel != nil {
		v[3], v[4], v[5] = a.Cancel.RequestorID, a.Cancel.Comment, cordon.Ticks(a.Cancel.At)
	}
	return v
}

// storedAction returns a as the database gives it back. It shares nothing with a.
func storedAction(a cordon.Action) cordon.Action {
	a.Created, a.Updated, a.Expires = stored(a.Created), stored(a.Updated), stored(a.Expires)
	if a.Delivered != nil {
		at := stored(*a.Delivered)
		a.Delivered = &at
	}
	if a.Cancel != nil {
		c := *a.Cancel
		c.At = stored(c.At)
		a.Cancel = &c
	}
	return a
}

// actionColumns are what actionOf reads.
const actionColumns = `a.id, a.type, a.machine, a.dns_name, a.generation, a.requestor, a.requestor_id, a.comment, a.source,
	a.status, a.created, a.updated, a.expires, a.delivered, a.error_hresult, a.reason, a.cancel_requestor_id, a.cancel_comment, a.cancel_at, a.lease`

func actionOf(r *engine.Row) cordon.Action {
	a := cordon.Action{
		ID: cordon.ActionID(r.Text()), Type: cordon.ActionType(r.Text()), Machine: machineID(r.Blob()), DNSName: r.Text(), Generation: uint64(r.Number()),
		Requestor: r.Text(), RequestorID: r.Text(), Comment: r.Text(), Source: r.Text(),
		Status: cordon.Status(r.Text()), Created: r.Time(), Updated: r.Time(), Expires: r.Time(), Delivered: r.TimeOrNil(),
		ErrorHResult: int32(r.Number()), Reason: r.Text(),
	}
	c := cordon.Cancellation{RequestorID: r.Text(), Comment: r.Text()}
	if at := r.TimeOrNil(); at != nil {
		c.At = *at
		a.Cancel = &c
	}
	a.Lease = time.Duration(r.Number()) * time.Second
	return a
}

// actions returns the answer to a query that is kept.
func (s *Store) actions(ctx context.Context, where string, args ...any) (found []cordon.Action, err error) {
	err = s.db.Read(ctx, func(c *engine.Conn) error {
		return c.Each("SELECT "+actionColumns+" FROM actions a WHERE "+where, func(r *engine.Row) { found = append(found, actionOf(r)) }, args...)
	})
	return found, err
}

// Action implements [cordon.Store].
func (s *Store) Action(ctx context.Context, id cordon.ActionID) (cordon.Action, error) {
	found, err := s.actions(ctx, "id = ?", string(id))
	if err != nil {
		return cordon.Action{}, err
	}
	if len(found) == 0 {
		return cordon.Action{}, noAction(id)
	}
	return found[0], nil
}

// Actions implements [cordon.Store].
func (s *Store) Actions(ctx context.Context, q cordon.Query) (found []cordon.Action, l cordon.Listing, err error) {
	l, err = s.list(ctx, actionsTable, q, func(r *engine.Row) { found = append(found, actionOf(r)) })
	if err != nil {
		return nil, cordon.Listing{}, err
	}
	return found, l, nil
}

// The plus makes SQLite take the index on open actions, and sort the few that it
// finds, instead of going through all actions of the machine in order.
const openActions = "machine = ? AND " + open + " ORDER BY +generation"

// OpenActions implements [cordon.Store].
func (s *Store) OpenActions(ctx context.Context, m cordon.MachineID) ([]cordon.Action, error) {
	key, ok := machineKey(m)
	if !ok {
		return nil, nil
	}
	return s.actions(ctx, openActions, key)
}

// Of all indexes with open actions this is the one in the order of their ends.
const expiredActions = "SELECT id FROM actions INDEXED BY actions_due WHERE " + open + " AND expires <= ? AND (delivered IS NULL OR expires <= ?) ORDER BY expires LIMIT ?"

// ExpiredActions implements [cordon.Store].
func (s *Store) ExpiredActions(ctx context.Context, now time.Time, grace time.Duration, limit int) (ids []cordon.ActionID, err error) {
	at := cordon.Ticks(now)
	err = s.db.Read(ctx, func(c *engine.Conn) error {
		return c.Each(expiredActions,
			func(r *engine.Row) { ids = append(ids, cordon.ActionID(r.Text())) },
			at, at-int64(grace/cordon.Tick), int64(limit))
	})
	return ids, err
}
