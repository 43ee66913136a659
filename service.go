package cordon

import (
	"cmp"
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// MaxComment is the longest comment of an action or a cancellation, in
// characters. Defender documents no limit; this one keeps rows small.
const MaxComment = 4000

// DefaultTTL is how long an action waits for its machine, as Defender was
// observed to do (contract 12: TimeOut after three days).
const DefaultTTL = 72 * time.Hour

// Service is the domain as edges call it: it checks who may, decides with the
// pure functions of this package, and keeps the result in the [Store] together
// with its audit entry. Fields are required unless they say otherwise, and are not
// changed after the first call. It is safe for concurrent use.
type Service struct {
	Store Store
	// Nudge says that a machine may have orders waiting. It never blocks; a lost
	// nudge delays an order until the machine next asks, and loses nothing.
	Nudge func(MachineID)
	// NudgeAll is Nudge for every machine.
	NudgeAll func()
	// Seal signs an order with the server's order key (compact JWS).
	Seal func(Order) (string, error)
	// SealRelease signs a release with the same key (compact JWS).
	SealRelease func(Release) (string, error)
	// SealPolicy signs a policy with the same key (compact JWS).
	SealPolicy func(TrustPolicy) (string, error)
	Now        func() time.Time
	NewID      func() string // a new random GUID, lower case
	// NewSecret makes a client secret: printable ASCII with 256 random bits.
	NewSecret func() string
	TTL       time.Duration
	// DefaultLease is the lease of a restriction for which its caller named none;
	// zero: none.
	DefaultLease time.Duration
	// Grace is how long after its expiry a delivered action still waits for its
	// machine; zero: [DeliveredGrace].
	Grace time.Duration
	// Supports decides whether a machine with these facts can carry out an action,
	// with the errors of [Facts.Supports]; nil: that itself.
	Supports func(Facts, ActionType) error
}

func (s *Service) now() time.Time { return s.Now().UTC().Truncate(Tick) }

func (s *Service) grace() time.Duration { return cmp.Or(s.Grace, DeliveredGrace) }

// Find returns the machine that ref names: its id, its aadDeviceId, or its DNS
// name in any case. It is an error of kind Forbidden if the caller may not do
// op, NotFound if there is no such machine, and Invalid with CodeAmbiguousName
// if several machines carry the name.
func (s *Service) Find(ctx context.Context, c Caller, op Operation, ref string) (Machine, error) {
	if err := c.Authorize(op); err != nil {
		return Machine{}, err
	}
	ref = strings.TrimSpace(ref)
	if m, err := s.find(ctx, ref); KindOf(err) != NotFound || err == nil {
		return m, err
	}
	return Machine{}, Errorf(NotFound, "", "Machine %s was not found", ref)
}

var guid = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)

func (s *Service) find(ctx context.Context, ref string) (Machine, error) {
	if ref == "" { // not the machines that have no name
		return Machine{}, &Error{Kind: NotFound, Message: "no machine was named"}
	}
	if id, ok := ParseMachineID(ref); ok {
		return s.Store.Machine(ctx, id)
	}
	if guid.MatchString(ref) {
		return s.Store.MachineByDeviceID(ctx, strings.ToLower(ref))
	}
	found, err := s.Store.MachinesByName(ctx, ref, 2)
	switch {
	case err != nil:
		return Machine{}, err
	case len(found) == 0:
		return Machine{}, &Error{Kind: NotFound, Message: "no machine of that name"}
	case len(found) > 1:
		return Machine{}, Errorf(Invalid, CodeAmbiguousName, "Several machines are named %s. Use the machine id instead", ref)
	}
	return found[0], nil
}

// Request creates an action of type t on a machine that [Service.Find] returned.
// A restriction has the default lease.
func (s *Service) Request(ctx context.Context, c Caller, m Machine, t ActionType, comment string) (Action, error) {
	lease := time.Duration(0)
	if t == RestrictCodeExecution {
		lease = s.DefaultLease
	}
	return s.request(ctx, c, m, t, comment, lease)
}

// Restrict is [Service.Request] for a restriction with a lease of its own; zero:
// none, whatever the default.
func (s *Service) Restrict(ctx context.Context, c Caller, m Machine, comment string, lease time.Duration) (Action, error) {
	if err := CheckLease(lease); err != nil {
		return Action{}, err
	}
	return s.request(ctx, c, m, RestrictCodeExecution, comment, lease)
}

func (s *Service) request(ctx context.Context, c Caller, m Machine, t ActionType, comment string, lease time.Duration) (Action, error) {
	if err := c.Authorize(t.Operation()); err != nil {
		return Action{}, err
	}
	if strings.TrimSpace(comment) == "" {
		return Action{}, Errorf(Invalid, CodeMissingParameter, "Parameter Comment is missing.")
	}
	if err := checkComment(comment); err != nil {
		return Action{}, err
	}
	supports := s.Supports
	if supports == nil {
		supports = Facts.Supports
	}
	if err := supports(m.Facts, t); err != nil {
		return Action{}, err
	}
	now := s.now()
	a, err := s.Store.CreateAction(ctx, ActionDraft{
		ID: ActionID(s.NewID()), Type: t, Machine: m.ID, Requestor: c.DisplayName, RequestorID: c.ID,
		Comment: comment, Source: c.Source, Lease: lease, Created: now, Expires: now.Add(s.TTL),
	})
	if err != nil {
		return Action{}, err
	}
	s.Nudge(m.ID)
	return a, nil
}

func checkComment(comment string) error {
	if !utf8.ValidString(comment) {
		return Errorf(Invalid, CodeInvalidInput, "Invalid input Comment: it is not valid UTF-8.")
	}
	if n := utf8.RuneCountInString(comment); n > MaxComment {
		return Errorf(Invalid, CodeInvalidInput, "Invalid input Comment: it has %d characters, allowed are %d.", n, MaxComment)
	}
	return nil
}

// Cancel asks that an action does not happen; see [Action.RequestCancel].
func (s *Service) Cancel(ctx context.Context, c Caller, id ActionID, comment string) (Action, error) {
	if err := c.Authorize(CancelAction); err != nil {
		return Action{}, err
	}
	if err := checkComment(comment); err != nil {
		return Action{}, err
	}
	now := s.now()
	a, err := s.Store.ChangeAction(ctx, id, func(a Action) (Action, []AuditEntry, error) {
		before := a
		a, err := a.RequestCancel(Cancellation{RequestorID: c.ID, Comment: comment, At: now}, now)
		if err != nil || a.Cancel == before.Cancel && a.Status == before.Status {
			return a, nil, err
		}
		return a, []AuditEntry{{At: now, Kind: AuditCancel, Machine: a.Machine, Action: a.ID, Actor: c.ID, Status: a.Status, Detail: comment}}, nil
	})
	if err == nil && !a.Status.Terminal() {
		s.Nudge(a.Machine)
	}
	return a, err
}

// Action returns one action.
func (s *Service) Action(ctx context.Context, c Caller, id ActionID) (Action, error) {
	return s.FindAction(ctx, c, ReadMachines, id)
}

// FindAction returns an action for an operation on it. It is an error of kind
// Forbidden if the caller may not do op, NotFound if there is no such action.
func (s *Service) FindAction(ctx context.Context, c Caller, op Operation, id ActionID) (Action, error) {
	if err := c.Authorize(op); err != nil {
		return Action{}, err
	}
	return s.Store.Action(ctx, id)
}

// Actions lists actions; see [Store.Actions].
func (s *Service) Actions(ctx context.Context, c Caller, q Query) ([]Action, Listing, error) {
	if err := c.Authorize(ReadMachines); err != nil {
		return nil, Listing{}, err
	}
	return s.Store.Actions(ctx, q)
}

// Machines lists machines; see [Store.Machines].
func (s *Service) Machines(ctx context.Context, c Caller, q Query) ([]Machine, Listing, error) {
	if err := c.Authorize(ReadMachines); err != nil {
		return nil, Listing{}, err
	}
	return s.Store.Machines(ctx, q)
}

// MachinesSeen returns the machines that had an IP address around a time: those
// of which a [Sighting] is no further from it than [SightingWindow], first who
// was last seen with it. A time to come counts as now, for there are clients
// that send their local time as if it were UTC. The error is of kind Invalid if
// address is none, or if the time is longer ago than [SightingAge].
func (s *Service) MachinesSeen(ctx context.Context, c Caller, address string, at time.Time) ([]Machine, error) {
	if err := c.Authorize(ReadMachines); err != nil {
		return nil, err
	}
	canonical, ok := ParseAddress(address)
	if !ok {
		return nil, Errorf(Invalid, CodeInvalidAddress, "IP address %.64s is invalid.", address)
	}
	now := s.now()
	if now.Sub(at) > SightingAge {
		return nil, Errorf(Invalid, CodeInvalidInput, "Invalid input timestamp: %s is more than 30 days ago.", at.UTC().Format(time.RFC3339))
	}
	if at.After(now) {
		at = now
	}
	return s.Store.MachinesByAddress(ctx, canonical, at.Add(-SightingWindow), at.Add(SightingWindow), MaxTop)
}

// Label changes the labels of a machine that [Service.Find] returned.
func (s *Service) Label(ctx context.Context, c Caller, m MachineID, u LabelUpdate) (Machine, error) {
	changed, err := s.label(ctx, c, []MachineID{m}, u)
	if err != nil {
		return Machine{}, err
	}
	return changed[0], nil
}

// LabelAll changes the labels of up to [MaxLabelBatch] machines, each named as
// for [Service.Find]: of all of them, or of none.
func (s *Service) LabelAll(ctx context.Context, c Caller, refs []string, u LabelUpdate) ([]Machine, error) {
	if err := c.Authorize(LabelMachines); err != nil {
		return nil, err
	}
	ids, err := s.findAll(ctx, c, LabelMachines, refs)
	if err != nil {
		return nil, err
	}
	return s.label(ctx, c, ids, u)
}

// findAll is [Service.Find] for up to [MaxLabelBatch] machines, each of which it
// returns once.
func (s *Service) findAll(ctx context.Context, c Caller, op Operation, refs []string) (ids []MachineID, err error) {
	if len(refs) > MaxLabelBatch {
		return nil, Errorf(Invalid, CodeBatchTooLarge, "Maximum batch size exceeded. Received: %d, allowed: %d.", len(refs), MaxLabelBatch)
	}
	for _, ref := range refs {
		m, err := s.Find(ctx, c, op, ref)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(ids, m.ID) {
			ids = append(ids, m.ID)
		}
	}
	return ids, nil
}

func (s *Service) label(ctx context.Context, c Caller, ids []MachineID, u LabelUpdate) ([]Machine, error) {
	if err := c.Authorize(LabelMachines); err != nil {
		return nil, err
	}
	now := s.now()
	return s.Store.ChangeLabels(ctx, ids, func(m Machine) (Labels, []AuditEntry, error) {
		after, err := m.Labels.Apply(u)
		detail := m.Labels.difference(after)
		if err != nil || detail == "" {
			return after, nil, err
		}
		return after, []AuditEntry{{At: now, Kind: AuditLabelled, Machine: m.ID, Actor: c.ID, Detail: detail}}, nil
	})
}

// Evidence returns an action's audit entries, with the signed order and the
// signed reports, oldest first.
func (s *Service) Evidence(ctx context.Context, c Caller, id ActionID) ([]AuditEntry, error) {
	if _, err := s.Action(ctx, c, id); err != nil {
		return nil, err
	}
	return s.Store.AuditOf(ctx, id)
}

// Orders returns the signed orders that machine m is to get now, in the order
// of their generations. Each was durably marked as delivered before it is
// returned. Actions that may no longer be delivered are ended instead.
func (s *Service) Orders(ctx context.Context, m MachineID) ([]string, error) {
	open, err := s.Store.OpenActions(ctx, m)
	if err != nil {
		return nil, fmt.Errorf("list open actions: %w", err)
	}
	var orders []string
	for _, a := range open {
		o, err := s.deliver(ctx, a, string(m))
		switch {
		case KindOf(err) == Conflict: // it ended or expired meanwhile
			if err := s.expire(ctx, a.ID, s.now()); err != nil {
				return nil, err
			}
		case err != nil:
			return nil, err
		default:
			orders = append(orders, o)
		}
	}
	return orders, nil
}

// CarriedOrder returns the signed order of an open action, to be carried to its
// machine by hand. It counts as delivered from then on.
func (s *Service) CarriedOrder(ctx context.Context, c Caller, id ActionID) (string, error) {
	if err := c.Authorize(RestrictAction); err != nil {
		return "", err
	}
	a, err := s.Store.Action(ctx, id)
	if err != nil {
		return "", err
	}
	return s.deliver(ctx, a, c.ID)
}

func (s *Service) deliver(ctx context.Context, a Action, to string) (string, error) {
	now := s.now()
	if _, err := a.Deliver(now); err != nil {
		return "", err
	}
	order, err := s.Seal(a.Order(now))
	if err != nil {
		return "", fmt.Errorf("sign order of action %s: %w", a.ID, err)
	}
	if a.Delivered != nil {
		return order, nil
	}
	_, err = s.Store.ChangeAction(ctx, a.ID, func(before Action) (Action, []AuditEntry, error) {
		a, err := before.Deliver(now)
		if err != nil || before.Delivered != nil { // by another connection, a moment ago
			return a, nil, err
		}
		return a, []AuditEntry{{At: now, Kind: AuditDelivered, Machine: a.Machine, Action: a.ID, Actor: to, Status: a.Status, Evidence: order}}, nil
	})
	if err != nil {
		return "", err
	}
	return order, nil
}

// Report takes in a report of machine m whose signature over evidence (compact
// JWS) has been verified with m's key, and returns the action as it stands
// after it. It is idempotent. A report about another machine's action is an
// error of kind Forbidden and changes nothing; a refusal ([ReportRefused]) is
// kept in the audit log only, whether there is such an action or not.
func (s *Service) Report(ctx context.Context, m MachineID, r Report, evidence string) (Action, error) {
	now := s.now()
	entry := AuditEntry{At: now, Kind: AuditReport, Machine: m, Action: r.Action, Actor: string(m), Detail: r.Error, Evidence: evidence}
	if r.Machine != m {
		return Action{}, Errorf(Forbidden, CodeUnverifiedEvidence, "The report is about machine %s but machine %s signed it", r.Machine, m)
	}
	if r.Type == BreakGlass && r.State != ReportRefused {
		return Action{}, s.released(ctx, r, entry)
	}
	if (r.Type == LeaseLapsed || r.Type == LeaseRenewed) && r.State != ReportRefused {
		return Action{}, s.leased(ctx, r, entry)
	}
	if r.State == ReportRefused {
		entry.Detail = "refused: " + r.Error
		return Action{}, s.Store.Audit(ctx, entry)
	}
	a, err := s.Store.ChangeAction(ctx, r.Action, func(a Action) (Action, []AuditEntry, error) {
		if a.Machine != m {
			return a, nil, Errorf(Forbidden, CodeUnverifiedEvidence, "Action %s belongs to another machine than the one that reports it", a.ID)
		}
		if r.Generation != a.Generation {
			return a, nil, Errorf(Forbidden, CodeUnverifiedEvidence, "Action %s makes generation %d, the report is about %d", a.ID, a.Generation, r.Generation)
		}
		before, e := a, entry
		a = a.Apply(r, now)
		if a.Status == before.Status && before.Status != Pending && string(r.State) == string(before.Status) {
			return a, nil, nil // said before
		}
		if before.Status.Terminal() {
			e.Detail = strings.TrimSpace(fmt.Sprintf("came after the end, changed nothing: %s %s", r.State, r.Error))
		}
		e.Status = a.Status
		return a, []AuditEntry{e}, nil
	})
	if err != nil {
		return Action{}, err
	}
	return a, s.Store.MachineSaid(ctx, m, nil, r.Observed, now)
}

// ExpireDue ends the open actions whose time is over, and returns how many. One
// time decides from the search to the end, so that what was found does end.
func (s *Service) ExpireDue(ctx context.Context) (int, error) {
	now, n := s.now(), 0
	for {
		ids, err := s.Store.ExpiredActions(ctx, now, s.grace(), expireBatch)
		if err != nil || len(ids) == 0 {
			return n, err
		}
		for _, id := range ids {
			if err := s.expire(ctx, id, now); err != nil {
				return n, err
			}
			n++
		}
		if len(ids) < expireBatch {
			return n, nil
		}
	}
}

const expireBatch = 256

func (s *Service) expire(ctx context.Context, id ActionID, now time.Time) error {
	_, err := s.Store.ChangeAction(ctx, id, func(a Action) (Action, []AuditEntry, error) {
		before := a.Status
		if a = a.Expire(now, s.grace()); a.Status == before {
			return a, nil, nil
		}
		return a, []AuditEntry{{At: now, Kind: AuditEnded, Machine: a.Machine, Action: a.ID, Actor: "server", Status: a.Status, Detail: a.Reason}}, nil
	})
	if err != nil {
		return fmt.Errorf("expire action %s: %w", id, err)
	}
	return nil
}
