package cordon

import (
	"context"
	"fmt"
)

// leased takes in a machine's word that its lease lapsed, or holds again. It goes
// to the log of the action that granted the lease. It is idempotent.
func (s *Service) leased(ctx context.Context, r Report, entry AuditEntry) error {
	id := r.Observed.Lease.Action
	a, err := s.Store.Action(ctx, id)
	switch {
	case KindOf(err) == NotFound || err == nil && (a.Machine != r.Machine || a.Lease == 0):
		return Errorf(Forbidden, CodeUnverifiedEvidence, "The report is about the lease of action %s, which this machine never had", Plain(string(id)))
	case err != nil:
		return err
	}
	entry.Kind, entry.Action, entry.Status = AuditLease, a.ID, a.Status
	switch r.Type {
	case LeaseLapsed:
		entry.Detail = fmt.Sprintf("the lease of %s lapsed: the machine did not hear the server and fell back to mode audit, in which nothing is refused", a.Lease)
	case LeaseRenewed:
		entry.Detail = fmt.Sprintf("the machine heard the server and is restricted again, with a fresh lease of %s", a.Lease)
	}
	known, err := s.Store.AuditOf(ctx, a.ID)
	if err != nil {
		return err
	}
	for _, e := range known {
		if e.Kind == AuditLease && e.Evidence == entry.Evidence {
			return nil // said before
		}
	}
	if err := s.Store.Audit(ctx, entry); err != nil {
		return err
	}
	return s.Store.MachineSaid(ctx, r.Machine, nil, r.Observed, entry.At)
}
