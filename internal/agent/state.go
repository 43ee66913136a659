package agent

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

// identity is who the machine is and whom it obeys. Its key is written first,
// the rest at enrolment; neither changes after that.
type identity struct {
	Machine  cordon.MachineID `json:"machineId"`
	Tenant   string           `json:"tenantId"`
	OrderKey json.RawMessage  `json:"orderKey,omitempty"` // JWK; the only key whose orders count
	Seed     []byte           `json:"seed"`               // of the machine's Ed25519 key
}

// state is what must survive a crash: where the machine stands, what it
// answered lately, and which answers the server has not yet taken in.
type state struct {
	Standing cordon.Standing `json:"standing"`
	// Recent are the outcomes of the last orders, newest last, so that an order
	// that comes again is answered with what really became of it.
	Recent []outcome `json:"recent,omitempty"`
	// Outbox are signed reports that the server has not settled, oldest first.
	Outbox []sent `json:"outbox,omitempty"`
	// Heard is the latest time that the server is known to have been at, to the
	// minute: a clock that shows less is wrong.
	Heard time.Time `json:"heard,omitzero"`
	// Silence is how long the server has not been heard. It is kept up to date
	// on disk while a lease depends on it.
	Silence cordon.Silence `json:"silence,omitzero"`
}

type outcome struct {
	Action     cordon.ActionID    `json:"action"`
	Generation uint64             `json:"generation"`
	Type       cordon.OrderType   `json:"type,omitempty"` // see [cordon.Report]
	State      cordon.ReportState `json:"state"`
	Error      string             `json:"error,omitempty"`
}

type sent struct {
	Action cordon.ActionID `json:"action"`
	Report string          `json:"report"`
}

// Bounds of state: enough for every order that a server can have open.
const (
	maxRecent = 32
	maxOutbox = 64
)

func (s *state) recall(a cordon.ActionID) (outcome, bool) {
	for _, o := range s.Recent {
		if o.Action == a {
			return o, true
		}
	}
	return outcome{}, false
}

func (s *state) remember(o outcome, report string) {
	s.Recent = append(s.Recent, o)
	if n := len(s.Recent) - maxRecent; n > 0 {
		s.Recent = s.Recent[n:]
	}
	s.post(o.Action, report)
}

// post puts a report into the outbox.
func (s *state) post(a cordon.ActionID, report string) {
	s.Outbox = append(s.Outbox, sent{a, report})
	if n := len(s.Outbox) - maxOutbox; n > 0 {
		s.Outbox = s.Outbox[n:]
	}
}

// reports returns what is in the outbox, oldest first.
func (s *state) reports() []string {
	var reports []string
	for _, r := range s.Outbox {
		reports = append(reports, r.Report)
	}
	return reports
}

// settle drops the reports on these actions and tells whether there were any.
func (s *state) settle(actions []cordon.ActionID) bool {
	kept := slices.DeleteFunc(slices.Clone(s.Outbox), func(r sent) bool { return slices.Contains(actions, r.Action) })
	changed := len(kept) != len(s.Outbox)
	s.Outbox = kept
	return changed
}

// unfinished reports whether an order was begun and its outcome is not known.
func unfinished(s cordon.Standing) bool { return s.Generation > 0 && s.Outcome == "" }

// dir is the agent's data directory, held by a lock while the agent runs.
type dir struct {
	path    string
	lock    *os.File
	reserve durable.Reserve // room for what an order needs where the disk is full
}

// openDir makes the directory if need be and locks it: two agents with one
// identity would answer each other's orders.
func openDir(path string) (*dir, error) {
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
	return &dir{path: path, lock: lock}, nil
}

// keepRoom has room on the disk for an order from now on.
func (d *dir) keepRoom() error {
	return d.reserve.Keep(filepath.Join(d.path, reserveFile))
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

func (d *dir) close() error { return d.lock.Close() }

const (
	identityFile = "identity.json"
	stateFile    = "state.json"
	policyFile   = "policy.json" // the signed policy, a JSON string
	reserveFile  = "reserve"     // see package durable
)

// loadIdentity returns the machine's key, nil if it has none yet, and who it is
// and whom it obeys, nil if it was not enrolled.
func (d *dir) loadIdentity() (ed25519.PrivateKey, *identity, ed25519.PublicKey, error) {
	var id identity
	if err := d.load(identityFile, &id); errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil, nil
	} else if err != nil {
		return nil, nil, nil, err
	}
	if len(id.Seed) != ed25519.SeedSize {
		return nil, nil, nil, fmt.Errorf("read %s: it holds no machine key", filepath.Join(d.path, identityFile))
	}
	key := ed25519.NewKeyFromSeed(id.Seed)
	if id.Machine != cordon.IDOfKey(key.Public().(ed25519.PublicKey)) {
		return nil, nil, nil, fmt.Errorf("read %s: the key in it does not make machine %s", filepath.Join(d.path, identityFile), id.Machine)
	}
	if len(id.OrderKey) == 0 {
		return key, nil, nil, nil
	}
	orderKey, err := seal.PublicKey(id.OrderKey)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("read %s: %w", filepath.Join(d.path, identityFile), err)
	}
	return key, &id, orderKey, nil
}

// loadState returns the zero state if there is none. A state that cannot be
// read is an error and not an empty one: the machine may have to be restricted.
func (d *dir) loadState() (state, error) {
	var s state
	if err := d.load(stateFile, &s); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return s, err
	}
	return s, nil
}

// Persisted returns where the machine of a data directory stands, as far as
// its agent has written down, whether that agent runs or not. The zero Standing
// is a machine that was never told anything.
func Persisted(dataDir string) (cordon.Standing, error) {
	s, err := (&dir{path: dataDir}).loadState()
	return s.Standing, err
}

func (d *dir) load(name string, v any) error {
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
func (d *dir) save(name string, v any) error {
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
