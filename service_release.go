package cordon

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strings"
	"time"
)

// Release signs a break-glass for a machine that [Service.Find] returned, valid
// from now on for a time. It is in the audit log before it leaves the server.
// That the machine's clock may be a little behind is allowed for.
func (s *Service) Release(ctx context.Context, c Caller, m Machine, valid time.Duration, comment string) (Release, string, error) {
	if err := c.Authorize(SignRelease); err != nil {
		return Release{}, "", err
	}
	if strings.TrimSpace(comment) == "" {
		return Release{}, "", Errorf(Invalid, CodeMissingParameter, "Parameter comment is missing.")
	}
	if err := checkComment(comment); err != nil {
		return Release{}, "", err
	}
	if valid < MinRelease || valid > MaxRelease {
		return Release{}, "", Errorf(Invalid, CodeInvalidInput, "A release is valid for %s to %s, not for %s", MinRelease, MaxRelease, valid)
	}
	now := s.now().Truncate(time.Second)
	r := Release{Machine: m.ID, Generation: m.Generation, NotBefore: now.Add(-releaseSlack), Expires: now.Add(valid)}
	nonce := sha256.Sum256([]byte(s.NewID()))
	copy(r.Nonce[:], nonce[:])
	jws, err := s.SealRelease(r)
	if err != nil {
		return Release{}, "", fmt.Errorf("sign release: %w", err)
	}
	return r, jws, s.Store.Audit(ctx, AuditEntry{
		At: s.now(), Kind: AuditRelease, Machine: m.ID, Action: r.ID(), Actor: c.ID, Evidence: jws,
		Detail: fmt.Sprintf("break-glass for generation %d, valid until %s: %s", r.Generation, r.Expires.Format(time.RFC3339), comment),
	})
}

// releaseSlack is how far a machine's clock may be behind the server's before it
// takes a fresh release for one that is not valid yet.
const releaseSlack = time.Hour

// released takes in the report on a release that was used. It is idempotent.
func (s *Service) released(ctx context.Context, r Report, entry AuditEntry) error {
	known, err := s.Store.AuditOf(ctx, r.Action)
	if err != nil {
		return err
	}
	signed := false
	for _, e := range known {
		if e.Kind == AuditReleased && e.Evidence == entry.Evidence {
			return nil // said before
		}
		signed = signed || e.Kind == AuditRelease && e.Machine == r.Machine
	}
	entry.Kind = AuditReleased
	entry.Detail = strings.TrimSpace(fmt.Sprintf("break-glass was used on the machine: %s %s", r.State, r.Error))
	if !signed {
		entry.Detail += " (this server's audit log does not know that it was signed)"
	}
	if err := s.Store.Audit(ctx, entry); err != nil {
		return err
	}
	return s.Store.MachineSaid(ctx, r.Machine, nil, r.Observed, entry.At)
}

// ReleaseLog returns the audit entries of a release, oldest first.
func (s *Service) ReleaseLog(ctx context.Context, c Caller, id ActionID) ([]AuditEntry, error) {
	if err := c.Authorize(ReadMachines); err != nil {
		return nil, err
	}
	entries, err := s.Store.AuditOf(ctx, id)
	for _, e := range entries {
		if e.Kind == AuditRelease || e.Kind == AuditReleased {
			return entries, err
		}
	}
	if err == nil {
		err = Errorf(NotFound, "", "Release %s was not found", id)
	}
	return nil, err
}
