package sqlite

import (
	"context"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/store/sqlite/engine"
)

// ChangeTrust implements [cordon.Store].
func (s *Store) ChangeTrust(ctx context.Context, r cordon.TrustRule, remove bool, entry cordon.AuditEntry) (changed bool, err error) {
	err = s.db.Write(ctx, func(t *engine.Tx) error {
		changed = false // work may run more than once
		if id, ok := r.Scope.Group(); ok {
			if _, err := groupOf(t, id); err != nil {
				return err
			}
		}
		known, rules := false, int64(0)
		if err := t.Each("SELECT count(*), coalesce(max(digest = ?), 0) FROM trust WHERE scope = ?", func(r *engine.Row) { rules, known = r.Number(), r.Number() != 0 }, r.Digest[:], string(r.Scope)); err != nil {
			return err
		}
		if known != remove {
			return nil
		}
		if !remove && rules >= cordon.MaxTrustRules {
			return tooManyRules(r.Scope)
		}
		var err error
		if remove {
			_, _, err = t.Exec("DELETE FROM trust WHERE scope = ? AND digest = ?", string(r.Scope), r.Digest[:])
		} else {
			_, _, err = t.Exec("INSERT INTO trust (scope, digest, comment, actor, at) VALUES (?, ?, ?, ?, ?)", string(r.Scope), r.Digest[:], r.Comment, r.Actor, cordon.Ticks(r.At))
		}
		if err == nil {
			_, _, err = t.Exec("UPDATE trust_revision SET revision = revision + 1")
		}
		if err == nil {
			err = appendAudit(t, 0, entry)
		}
		changed = err == nil
		return err
	})
	return changed && err == nil, err
}

func tooManyRules(s cordon.TrustScope) error {
	return cordon.Errorf(cordon.Conflict, "", "There are %d rules for %s already, which is the most: trust the programs' package or directory on the machines instead, in their rules file", cordon.MaxTrustRules, s)
}

const (
	trustRules = "SELECT scope, digest, comment, actor, at FROM trust"
	// One statement, so that nobody gets rules that came to a group after it had left.
	trustOf = trustRules + " WHERE scope IN (?, ?, (SELECT 'group:' || group_id FROM machines WHERE id = ?)) ORDER BY scope, digest"
)

func ruleOf(r *engine.Row) cordon.TrustRule {
	rule := cordon.TrustRule{Scope: cordon.TrustScope(r.Text())}
	copy(rule.Digest[:], r.Blob())
	rule.Comment, rule.Actor, rule.At = r.Text(), r.Text(), r.Time()
	return rule
}

// TrustRules implements [cordon.Store].
func (s *Store) TrustRules(ctx context.Context) (rules []cordon.TrustRule, err error) {
	err = s.db.Read(ctx, func(c *engine.Conn) error {
		return c.Each(trustRules+" ORDER BY scope, digest", func(r *engine.Row) { rules = append(rules, ruleOf(r)) })
	})
	return rules, err
}

// TrustOf implements [cordon.Store].
func (s *Store) TrustOf(ctx context.Context, m cordon.MachineID) (rules []cordon.TrustRule, revision uint64, err error) {
	key, _ := machineKey(m) // without one it has no group
	err = s.db.Read(ctx, func(c *engine.Conn) error {
		// The revision first: rules that are newer than it only make a policy come once more.
		if err := c.Each("SELECT revision FROM trust_revision", func(r *engine.Row) { revision = uint64(r.Number()) }); err != nil {
			return err
		}
		return c.Each(trustOf, func(r *engine.Row) { rules = append(rules, ruleOf(r)) }, string(cordon.TrustAll), string(cordon.TrustMachine(m)), key)
	})
	return rules, revision, err
}
