package cordon

import (
	"context"
	"time"
)

// The settings that a server cannot do without.
const (
	TenantSetting          = "tenant"           // GUID
	EnrollmentTokenSetting = "enrollment-token" // SHA-256 of the token
)

// AuditKind says what an audit entry records.
type AuditKind string

// The kinds of audit entry.
const (
	AuditCreated   AuditKind = "created"   // an action was created
	AuditDelivered AuditKind = "delivered" // its order left the server for the first time
	AuditCancel    AuditKind = "cancel"    // somebody asked to cancel it
	AuditReport    AuditKind = "report"    // its machine reported
	AuditEnded     AuditKind = "ended"     // it ended without a report
	AuditEnrolled  AuditKind = "enrolled"  // a machine was enrolled
	AuditLabelled  AuditKind = "labelled"  // somebody changed a machine's labels

	AuditApplicationCreated AuditKind = "application-created"
	AuditApplicationChanged AuditKind = "application-changed" // its permissions, secrets or certificates
	AuditApplicationDeleted AuditKind = "application-deleted"
	AuditRelease            AuditKind = "release"  // a [Release] was signed; Action is its id
	AuditTrust              AuditKind = "trust"    // what is trusted by SHA-256 was changed
	AuditGroup              AuditKind = "group"    // a [Group] was made, renamed or deleted, or a machine changed its group
	AuditReleased           AuditKind = "released" // a machine was freed with a [Release]
	AuditLease              AuditKind = "lease"    // a machine said that its [Lease] lapsed, or holds again
)

// AuditEntry is one line of the audit log. It is written in the transaction of
// what it records.
type AuditEntry struct {
	Seq      int64 // assigned by the store; only grows
	At       time.Time
	Kind     AuditKind
	Machine  MachineID
	Action   ActionID // empty for what concerns no action
	Actor    string   // client id, machine id, or "server"
	Status   Status   // of the action after it
	Detail   string   // a sentence for people
	Evidence string   // the signed statement (compact JWS) behind it, if there is one
}

// ActionChange decides, inside the store's transaction, what becomes of an
// action. It returns the new action and what to write to the audit log. It must
// be pure: a store may call it more than once. If it returns an error nothing
// is written and the error is returned as it is.
type ActionChange func(Action) (Action, []AuditEntry, error)

// LabelChange is [ActionChange] for the labels of a machine.
type LabelChange func(Machine) (Labels, []AuditEntry, error)

// ApplicationChange decides, inside the store's transaction, what becomes of an
// application, for which it sees all others too. Before is nil if there is no
// such application; after nil there is none. It must be pure: a store may call
// it more than once. If it returns an error nothing is written and the error is
// returned as it is.
type ApplicationChange func(before *Application, others []Application) (after *Application, entries []AuditEntry, err error)

// Store keeps everything that must survive. All methods are safe for concurrent
// use, and what they have acknowledged by returning nil is durable. Unless a
// method says otherwise its errors are of kind Internal or Unavailable.
type Store interface {
	// CreateAction gives the draft the machine's next generation and stores it
	// with its audit entry (Kind AuditCreated). The error is of kind NotFound if
	// there is no such machine, and of kind Conflict with CodeActionInProgress if
	// an action of the same type is still open on it.
	CreateAction(ctx context.Context, d ActionDraft) (Action, error)
	// ChangeAction applies change to one action, atomically. The error is of kind
	// NotFound if there is no such action.
	ChangeAction(ctx context.Context, id ActionID, change ActionChange) (Action, error)
	// Action returns one action or an error of kind NotFound.
	Action(ctx context.Context, id ActionID) (Action, error)
	// Actions lists actions, newest first unless q orders otherwise: by the time of
	// their creation, and those of one time, or of one machine if the filter asks for
	// a single one, against the order in which they were created. That differs only
	// where the server's clock was set back.
	Actions(ctx context.Context, q Query) ([]Action, Listing, error)
	// OpenActions returns the actions of a machine that have not ended, in the
	// order of their generations.
	OpenActions(ctx context.Context, m MachineID) ([]Action, error)
	// ExpiredActions returns up to limit open actions that [Action.Expire] would
	// end with the same now and grace.
	ExpiredActions(ctx context.Context, now time.Time, grace time.Duration, limit int) ([]ActionID, error)

	// EnrolMachine stores a new machine, or refreshes the facts of a known one
	// with the same id, and audits it. It reports whether it was new. A new
	// machine has no tags, no group and the normal value, whatever m says.
	EnrolMachine(ctx context.Context, m Machine) (created bool, err error)
	// Machine returns one machine or an error of kind NotFound.
	Machine(ctx context.Context, id MachineID) (Machine, error)
	// MachineByDeviceID is Machine by the aadDeviceId GUID.
	MachineByDeviceID(ctx context.Context, deviceID string) (Machine, error)
	// MachinesByName returns up to limit machines with this DNS name in any case.
	MachinesByName(ctx context.Context, name string, limit int) ([]Machine, error)
	// Machines lists machines, in the order of their ids unless q orders otherwise.
	Machines(ctx context.Context, q Query) ([]Machine, Listing, error)
	// MachinesByAddress returns up to limit machines of which a [Sighting] says that
	// they had an address, as [ParseAddress] returns it, at some moment between two
	// times; first who was last seen with it, then in the order of their ids.
	MachinesByAddress(ctx context.Context, address string, from, to time.Time, limit int) ([]Machine, error)
	// ChangeLabels changes the labels of machines, of all or, if one of them is
	// not known (an error of kind NotFound) or its change fails, of none. It returns
	// the machines after it, in the order of ids. No id may be there twice.
	ChangeLabels(ctx context.Context, ids []MachineID, change LabelChange) ([]Machine, error)
	// MachineSaid stores what a machine said at a connect or in a report: its
	// facts (nil: unchanged), what it observed, and when. The machine's generation
	// never shrinks and is at least o.Generation.
	MachineSaid(ctx context.Context, id MachineID, f *Facts, o Observed, at time.Time) error
	// TouchMachines moves LastSeen of many machines forwards.
	TouchMachines(ctx context.Context, seen map[MachineID]time.Time) error

	// PutFindings stores what a machine told, in place of what it told before of
	// that kind, unless that was newer ([Findings.Newer]). The error is of kind
	// NotFound if there is no such machine.
	PutFindings(ctx context.Context, m MachineID, told Findings) error
	// Findings returns what a machine told last of a kind, or an error of kind NotFound.
	Findings(ctx context.Context, m MachineID, kind FindingKind) (Findings, error)

	// ChangeTrust makes a rule, or takes it back, with its audit entry, and raises
	// the revision of all rules. It reports whether there was anything to change; if
	// not, nothing is written. The error is of kind Conflict if the scope has
	// MaxTrustRules already, and of kind NotFound if it is that of a group which is not there.
	ChangeTrust(ctx context.Context, r TrustRule, remove bool, entry AuditEntry) (changed bool, err error)
	// TrustRules returns all rules in the order of scope and digest.
	TrustRules(ctx context.Context) ([]TrustRule, error)
	// TrustOf returns the rules that hold for a machine, as of one moment: those for
	// all, those for itself, and those for the group that it is in; and a revision
	// that is not newer than they are. It grows with every change of rules, and
	// whenever a machine changes its group.
	TrustOf(ctx context.Context, m MachineID) ([]TrustRule, uint64, error)

	// CreateGroup stores a new, empty group with its audit entry, whose time is that
	// of its creation. The error is of kind Conflict if a group has that name, see
	// [SameGroupName], or if there are [MaxGroups].
	CreateGroup(ctx context.Context, name string, entry AuditEntry) (GroupInfo, error)
	// RenameGroup gives a group another name, with an audit entry. The error is of
	// kind NotFound if there is no such group, and of kind Conflict if another one
	// has that name.
	RenameGroup(ctx context.Context, id int64, name string, entry AuditEntry) error
	// DeleteGroup deletes a group with an audit entry; its machines are in none then.
	// The error is of kind NotFound if there is no such group, and of kind Conflict
	// if it is the scope of a rule.
	DeleteGroup(ctx context.Context, id int64, entry AuditEntry) error
	// Groups returns all groups in the order of their names, as [Fold] returns them.
	Groups(ctx context.Context) ([]GroupInfo, error)
	// ChangeGroups changes the groups of machines, of all or, if one of them or its
	// new group is not known (an error of kind NotFound) or its change fails, of
	// none. It returns those that are in another group than before, in the order of
	// ids. No id may be there twice.
	ChangeGroups(ctx context.Context, ids []MachineID, change GroupChange) (moved []MachineID, err error)

	// Audit appends entries that belong to no change of an action.
	Audit(ctx context.Context, entries ...AuditEntry) error
	// AuditOf returns the audit entries of an action, oldest first.
	AuditOf(ctx context.Context, id ActionID) ([]AuditEntry, error)

	// AuditEntries returns the entries that q asks for. The error is of kind Invalid
	// if q.Before is no entry that a query could find.
	AuditEntries(ctx context.Context, q AuditQuery) ([]AuditEntry, error)

	// Application returns an application by client id or an error of kind NotFound.
	Application(ctx context.Context, clientID string) (Application, error)
	// Applications returns all applications, by display name without regard to
	// case, then by client id.
	Applications(ctx context.Context) ([]Application, error)
	// ChangeApplication applies change to one application, atomically, and returns
	// what it has become.
	ChangeApplication(ctx context.Context, clientID string, change ApplicationChange) (*Application, error)
	// PutApplication stores an application, whatever was there.
	PutApplication(ctx context.Context, a Application) error

	// Setting returns a value of the server's own (tenant id, hash of the
	// enrolment token) by name, or an error of kind NotFound. PutSettings stores
	// several at once, or none.
	Setting(ctx context.Context, name string) ([]byte, error)
	PutSettings(ctx context.Context, values map[string][]byte) error
}
