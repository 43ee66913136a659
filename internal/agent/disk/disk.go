// Package disk is what an agent keeps in its data directory: who the machine is and
// whom it obeys, where it stands, what the server has not taken in yet, and the
// trust policy.
//
// It promises that a file is the old one or the new one after a crash at any point,
// that what cannot be read is an error and never taken for nothing, and that one
// process at a time has the directory. On a disk that is full it saves all the
// same, by room that it keeps for that (ADR 28). It starts no goroutine; the locks
// are its caller's.
package disk

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/durable"
	"github.com/cordon-project/cordon/internal/seal"
)

// Identity is who the machine is and whom it obeys. Its key is written first,
// the rest at enrolment; neither changes after that.
type Identity struct {
	Machine  cordon.MachineID `json:"machineId"`
	Tenant   string           `json:"tenantId"`
	OrderKey json.RawMessage  `json:"orderKey,omitempty"` // JWK; the only key whose orders count
	Seed     []byte           `json:"seed"`               // of the machine's Ed25519 key
}

// State is what must survive a crash: where the machine stands, what it
// answered lately, and which answers the server has not yet taken in.
type State struct {
	Standing cordon.Standing `json:"standing"`
	// Recent are the outcomes of the last orders, newest last, so that an order
	// that comes again is answered with what really became of it.
	Recent []Outcome `json:"recent,omitempty"`
	// Outbox are signed reports that the server has not settled, oldest first.
	Outbox []Sent `json:"outbox,omitempty"`
	// Heard is the latest time that the server is known to have been at, to the
	// minute: a clock that shows less is wrong.
	Heard time.Time `json:"heard,omitzero"`
	// Silence is how long the server has not been heard. It is kept up to date
	// on disk while a lease depends on it.
	Silence cordon.Silence `json:"silence,omitzero"`
}

// Outcome is what became of an order.
type Outcome struct {
	Action     cordon.ActionID    `json:"action"`
	Generation uint64             `json:"generation"`
	Type       cordon.OrderType   `json:"type,omitempty"` // see [cordon.Report]
	State      cordon.ReportState `json:"state"`
	Error      string             `json:"error,omitempty"`
}

// Sent is a signed report.
type Sent struct {
	Action cordon.ActionID `json:"action"`
	Report string          `json:"report"`
}

// Bounds of state: enough for every order that a server can have open.
const (
	MaxRecent = 32
	MaxOutbox = 64
)

// Recall returns what became of an order, if it was one of the last.
func (s *State) Recall(a cordon.ActionID) (Outcome, bool) {
	for _, o := range s.Recent {
		if o.Action == a {
			return o, true
		}
	}
	return Outcome{}, false
}

// Remember notes what became of an order, and puts the report of it into the outbox.
func (s *State) Remember(o Outcome, report string) {
	s.Recent = append(s.Recent, o)
	if n := len(s.Recent) - MaxRecent; n > 0 {
		s.Recent = s.Recent[n:]
	}
	s.Post(o.Action, report)
}

// Post puts a report into the outbox.
func (s *State) Post(a cordon.ActionID, report string) {
	s.Outbox = append(s.Outbox, Sent{a, report})
	if n := len(s.Outbox) - MaxOutbox; n > 0 {
		s.Outbox = s.Outbox[n:]
	}
}

// Reports returns what is in the outbox, oldest first.
func (s *State) Reports() []string {
	var reports []string
	for _, r := range s.Outbox {
		reports = append(reports, r.Report)
	}
	return reports
}

// Settle drops the reports on these actions and tells whether there were any.
func (s *State) Settle(actions []cordon.ActionID) bool {
	kept := slices.DeleteFunc(slices.Clone(s.Outbox), func(r Sent) bool { return slices.Contains(actions, r.Action) })
	changed := len(kept) != len(s.Outbox)
	s.Outbox = kept
	return changed
}

// Dir is the agent's data directory, held by a lock while the agent runs.
type Dir struct {
	path    string
	lock    *os.File
	reserve durable.Reserve // room for what an order needs where the disk is full
}

// Open makes the directory if need be and locks it: two agents with one
// identity would answer each other's orders.
func Open(path string) (*Dir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(path, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock data directory: %w", err)
	}
	if err := takeLock(int(lock.Fd())); err != nil {
		return nil, errors.Join(fmt.Errorf("another agent is running with the data directory %s", path), lock.Close())
	}
	return &Dir{path: path, lock: lock}, nil
}

// KeepRoom has room on the disk for an order from now on.
func (d *Dir) KeepRoom() error {
	return d.reserve.Keep(filepath.Join(d.path, ReserveFile))
}

// lockPatience is how long the lock of an agent that has just been killed may
// outlive it: a child that it was starting has it until it has executed.
const lockPatience = 2 * time.Second

func takeLock(fd int) error {
	for end := time.Now().Add(lockPatience); ; time.Sleep(20 * time.Millisecond) {
		err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
		if err == nil || time.Now().After(end) {
			return err
		}
	}
}

// Close lets another agent have the directory.
func (d *Dir) Close() error { return d.lock.Close() }

// Path is where it is.
func (d *Dir) Path() string { return d.path }

// Spend calls f, which writes to this disk for an order, with the room that is kept
// if it needs that; see [durable.Reserve].
func (d *Dir) Spend(f func() error) error { return d.reserve.Spend(f) }

// The files in the directory.
const (
	IdentityFile = "identity.json"
	StateFile    = "state.json"
	PolicyFile   = "policy.json" // the signed policy, a JSON string
	ReserveFile  = "reserve"     // see package durable
)

// Identity returns the machine's key, nil if it has none yet, and who it is
// and whom it obeys, nil if it was not enrolled.
func (d *Dir) Identity() (ed25519.PrivateKey, *Identity, ed25519.PublicKey, error) {
	var id Identity
	if err := d.load(IdentityFile, &id); errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil, nil
	} else if err != nil {
		return nil, nil, nil, err
	}
	if len(id.Seed) != ed25519.SeedSize {
		return nil, nil, nil, fmt.Errorf("read %s: it holds no machine key", filepath.Join(d.path, IdentityFile))
	}
	key := ed25519.NewKeyFromSeed(id.Seed)
	if id.Machine != cordon.IDOfKey(key.Public().(ed25519.PublicKey)) {
		return nil, nil, nil, fmt.Errorf("read %s: the key in it does not make machine %s", filepath.Join(d.path, IdentityFile), id.Machine)
	}
	if len(id.OrderKey) == 0 {
		return key, nil, nil, nil
	}
	orderKey, err := seal.PublicKey(id.OrderKey)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("read %s: %w", filepath.Join(d.path, IdentityFile), err)
	}
	return key, &id, orderKey, nil
}

// State returns the zero state if there is none. A state that cannot be
// read is an error and not an empty one: the machine may have to be restricted.
func (d *Dir) State() (State, error) {
	var s State
	err := d.load(StateFile, &s)
	switch {
	case err == nil || errors.Is(err, fs.ErrNotExist):
		return s, nil
	case errors.Is(err, fs.ErrPermission): // it is root's
		return State{}, err
	}
	return State{}, cordon.Errorf(cordon.Unavailable, "", "The agent's state cannot be used (%v), so it is not known whether this machine is to be restricted. "+
		"What the kernel enforces stays in force, and the agent does not start. Put a copy of the file from a backup in its place, and start the agent. "+
		"If there is none, remove the file (which a machine that BPF LSM restricts allows after a restart only), "+
		"start the agent, and order again what is to be in force, with cordon restrict or cordon unrestrict.", err)
}

// Persisted returns where the machine of a data directory stands, as far as
// its agent has written down, whether that agent runs or not. The zero Standing
// is a machine that was never told anything.
func Persisted(dataDir string) (cordon.Standing, error) {
	s, err := (&Dir{path: dataDir}).State()
	return s.Standing, err
}

// Policy returns the policy that is on disk, the zero one if there is none.
func (d *Dir) Policy(key ed25519.PublicKey) (p cordon.TrustPolicy, err error) {
	var jws string
	if err := d.load(PolicyFile, &jws); errors.Is(err, fs.ErrNotExist) {
		return p, nil
	} else if err != nil {
		return p, err
	}
	if p, err = seal.OpenPolicy(jws, key); err != nil {
		return p, fmt.Errorf("read %s: %w", filepath.Join(d.path, PolicyFile), err)
	}
	return p, nil
}

// SaveIdentity, SaveState and SavePolicy have replaced a file when they return nil.
func (d *Dir) SaveIdentity(id Identity) error { return d.save(IdentityFile, id) }

// SaveState is as [Dir.SaveIdentity].
func (d *Dir) SaveState(s State) error { return d.save(StateFile, s) }

// SavePolicy is as [Dir.SaveIdentity]. It is given the signed policy.
func (d *Dir) SavePolicy(jws string) error { return d.save(PolicyFile, jws) }

func (d *Dir) load(name string, v any) error {
	data, err := os.ReadFile(filepath.Join(d.path, name))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("read %s: %w", filepath.Join(d.path, name), err)
	}
	return nil
}

// save replaces a file as a whole: after a crash at any point the old or the
// new content is there, and after it returned nil the new one.
func (d *Dir) save(name string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", name, err)
	}
	err = d.reserve.Spend(func() error { return durable.Replace(filepath.Join(d.path, name), data, 0o600) })
	if err != nil {
		return fmt.Errorf("save %s: %w", name, err)
	}
	return nil
}
