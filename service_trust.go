package cordon

import (
	"context"
	"fmt"
)

// Trust makes a rule, whose actor and time are filled in here, or takes it back.
// It reports whether that changed anything. The machines that it concerns learn
// of it at once if they are connected, else at their next contact.
func (s *Service) Trust(ctx context.Context, c Caller, r TrustRule, remove bool) (changed bool, err error) {
	if err := c.Authorize(ChangeTrust); err != nil {
		return false, err
	}
	if err := checkComment(r.Comment); err != nil {
		return false, err
	}
	if r.Comment == "" && !remove {
		return false, Errorf(Invalid, CodeMissingParameter, "Parameter comment is missing.")
	}
	r.Actor, r.At = c.ID, s.now()
	entry := AuditEntry{At: r.At, Kind: AuditTrust, Actor: c.ID}
	one, ofOne := r.Scope.Machine()
	group, ofGroup := r.Scope.Group()
	whom := string(r.Scope)
	switch {
	case ofOne:
		entry.Machine = one
	case ofGroup:
		if whom, err = s.groupName(ctx, group); err != nil {
			return false, err
		}
	case r.Scope != TrustAll:
		return false, Errorf(Invalid, CodeInvalidInput, "The scope %q is neither all nor a machine's nor a group's", Plain(string(r.Scope)))
	}
	entry.Detail = fmt.Sprintf("trust %s for %s", r.Digest, whom)
	if remove {
		entry.Detail += " no more"
	}
	if r.Comment != "" { // taking back needs none
		entry.Detail += ": " + r.Comment
	}
	if changed, err = s.Store.ChangeTrust(ctx, r, remove, entry); err != nil || !changed {
		return false, err
	}
	switch {
	case ofOne:
		s.Nudge(one)
	case ofGroup:
		s.nudgeGroup(ctx, group)
	default:
		s.NudgeAll()
	}
	return true, nil
}

// groupName is what the audit log calls a group.
func (s *Service) groupName(ctx context.Context, id int64) (string, error) {
	groups, err := s.Store.Groups(ctx)
	if err != nil {
		return "", err
	}
	for _, g := range groups {
		if g.ID == id {
			return fmt.Sprintf("group %q", g.Name), nil
		}
	}
	return "", Errorf(NotFound, "", "Group %d was not found", id)
}

// TrustRules lists all rules.
func (s *Service) TrustRules(ctx context.Context, c Caller) ([]TrustRule, error) {
	if err := c.Authorize(ReadMachines); err != nil {
		return nil, err
	}
	return s.Store.TrustRules(ctx)
}

// Policy returns the signed policy that machine m is to get now, which says that
// it has one already; "" if that is what it should have.
func (s *Service) Policy(ctx context.Context, m MachineID, has PolicyState) (string, error) {
	rules, revision, err := s.Store.TrustOf(ctx, m)
	if err != nil {
		return "", err
	}
	p, due, err := NextPolicy(m, rules, revision, has, s.now())
	if err != nil || !due {
		return "", err
	}
	jws, err := s.SealPolicy(p)
	if err != nil {
		return "", fmt.Errorf("sign policy: %w", err)
	}
	return jws, nil
}
