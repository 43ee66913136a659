package sqlite

import (
	"context"

	"github.com/cordon-project/cordon"
)

// ChangeTrust implements [cordon.Store].
func (s *Store) ChangeTrust(ctx context.Context, r cordon.TrustRule, remove bool, entry cordon.AuditEntry) (changed bool, err error) {
	err = s.writer.do(ctx, func(t *tx) error {
		changed = false // work may run more than once
		if id, ok := r.Scope.Group(); ok {
			if _, err := groupOf(t, id); err != nil {
				return err
			}
		}
		known, rules := false, int64(0)
		if err := t.each("SELECT count(*), coalesce(max(digest = ?), 0) FROM trust WHERE scope = ?", func(r *row) { rules, known = r.number(), r.number() != 0 }, r.Digest[:], string(r.Scope)); err != nil {
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
			_, _, err = t.exec("DELETE FROM trust WHERE scope = ? AND digest = ?", string(r.Scope), r.Digest[:])
		} else {
			_, _, err = t.exec("INSERT INTO trust (scope, digest, comment, actor, at) VALUES (?, ?, ?, ?, ?)", string(r.Scope), r.Digest[:], r.Comment, r.Actor, cordon.Ticks(r.At))
		}
		if err == nil {
			_, _, err = t.exec("UPDATE trust_revision SET revision = revision + 1")
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

func ruleOf(r *row) cordon.TrustRule {
	rule := cordon.TrustRule{Scope: cordon.TrustScope(r.text())}
	copy(rule.Digest[:], r.blob())
	rule.Comment, rule.Actor, rule.At = r.text(), r.text(), r.time()
	return rule
}

// TrustRules implements [cordon.Store].
func (s *Store) TrustRules(ctx context.Context) (rules []cordon.TrustRule, err error) {
	err = s.read(ctx, func(c *conn) error {
		return c.each(trustRules+" ORDER BY scope, digest", func(r *row) { rules = append(rules, ruleOf(r)) })
	})
	return rules, err
}

// TrustOf implements [cordon.Store].
func (s *Store) TrustOf(ctx context.Context, m cordon.MachineID) (rules []cordon.TrustRule, revision uint64, err error) {
	key, _ := machineKey(m) // without one it has no group
	err = s.read(ctx, func(c *conn) error {
		// The revision first: rules that are newer than it only make a policy come once more.
		if err := c.each("SELECT revision FROM trust_revision", func(r *row) { revision = uint64(r.number()) }); err != nil {
			return err
		}
		return c.each(trustOf, func(r *row) { rules = append(rules, ruleOf(r)) }, string(cordon.TrustAll), string(cordon.TrustMachine(m)), key)
	})
	return rules, revision, err
}
