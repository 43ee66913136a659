package cordon

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// MaxAudit is how many entries one [AuditQuery] asks for at most.
const MaxAudit = 1000

// AuditQuery asks for a part of the audit log: of the entries that belong to no
// change of an action, which [Service.Evidence] has. They are in the order of
// their times, newest first, and those of one time against the order in which
// they were written.
type AuditQuery struct {
	Since  time.Time   // zero: from the beginning on
	Kinds  []AuditKind // nil: all
	Before int64       // Seq of the entry behind which the answer begins; 0: with the newest
	Limit  int         // the most entries; 1 to [MaxAudit]
}

// LogKinds are the kinds of entries that an [AuditQuery] finds.
func LogKinds() []AuditKind {
	return []AuditKind{AuditEnrolled, AuditLabelled, AuditGroup, AuditTrust, AuditApplicationCreated, AuditApplicationChanged, AuditApplicationDeleted,
		AuditRelease, AuditReleased, AuditLease, AuditReport}
}

// AuditLog returns the entries that q asks for, and whether there are more
// behind them.
func (s *Service) AuditLog(ctx context.Context, c Caller, q AuditQuery) (entries []AuditEntry, more bool, err error) {
	if err := c.Authorize(ReadAudit); err != nil {
		return nil, false, err
	}
	if q.Limit < 1 || q.Limit > MaxAudit {
		return nil, false, Errorf(Invalid, CodeInvalidInput, "The number of audit entries is 1 to %d, not %d", MaxAudit, q.Limit)
	}
	for _, k := range q.Kinds {
		if !slices.Contains(LogKinds(), k) {
			var words []string
			for _, k := range LogKinds() {
				words = append(words, string(k))
			}
			return nil, false, Errorf(Invalid, CodeInvalidInput, "There is no kind %.64q of audit entries. There are %s", string(k), strings.Join(words, ", "))
		}
	}
	q.Limit++
	if entries, err = s.Store.AuditEntries(ctx, q); err != nil {
		return nil, false, fmt.Errorf("read audit log: %w", err)
	}
	if more = len(entries) == q.Limit; more {
		entries = entries[:q.Limit-1]
	}
	return entries, more, nil
}
