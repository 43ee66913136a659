// Package enforce is what all enforcers have in common: the interface, the
// scope, the canaries that prove that a mode is in force, and the guardian, a
// second process that runs them and watches over the first.
//
// # Never a machine that hangs
//
// With some mechanisms (fanotify) programs wait in the kernel for an answer of
// the agent's process. Three rules follow, and hold for everything here:
//
//   - The agent's process never starts a program while an enforcer is open. Go's
//     fork holds its thread, without a safe point, until the child has executed;
//     if that waits for this process's answer while the garbage collector has
//     stopped the world, neither moves again. The [Guardian] starts programs.
//   - Whoever answers proves that it still does ([Enforcer.Beat]). If the proof
//     does not come, the guardian kills the agent's process, and the kernel lets
//     all who wait go on.
//   - What is not known in time is answered, not waited for.
package enforce

import (
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/cordon-project/cordon"
)

// Enforcer makes a mode true in the kernel for a scope. Its methods are safe
// for concurrent use.
type Enforcer interface {
	// Apply puts mode and set in force. When it has returned nil, every program
	// that is started in the scope is judged by them; nothing that an earlier set
	// allowed is remembered. If it returns an error, a sentence for people, what
	// was in force before still is. Mode enforce with an empty set is an error. In
	// mode off a set is what is likely to be enforced next, to be prepared for.
	Apply(mode cordon.Mode, set *cordon.TrustSet) error
	// Stats returns exact counts since the enforcer was opened, and until it was closed.
	Stats() Stats
	// Refusals returns samples of what was refused, or would have been in mode
	// audit. Samples are dropped when nobody takes them; [Stats] counts all. What
	// there is to tell when the enforcer is closed can still be taken.
	Refusals() <-chan Refusal
	// Beat returns a number that grows at least once a second while the enforcer
	// is able to answer.
	Beat() uint64
	// Describe says what the enforcer is.
	Describe() Description
	// Close lets go of everything. Who waits for an answer is allowed.
	Close() error
}

// Stats counts what an enforcer decided.
type Stats struct {
	Judged      uint64 // executions that were asked about; those that need not be are not counted
	Refused     uint64
	WouldRefuse uint64 // in mode audit
	Errors      uint64 // of Refused and WouldRefuse: could not be judged (unreadable, overload)
	Lost        uint64 // could not be answered for want of a working kernel interface
}

// Refusal is a sample of a refused execution.
type Refusal struct {
	At     time.Time
	Path   string // as the file is named in the agent's mount namespace; chosen by whoever made the file
	PID    int32  // of who tried
	Mode   cordon.Mode
	Reason string
	Digest cordon.Digest // of the content, soon after; zero: not known
	Count  uint64        // executions of the file that this sample stands for; 0 counts as one
	// Unseen: an interpreter was refused it because the enforcer was not shown it
	// as it is. If its content is trusted, it can be read once it was shown.
	Unseen bool
}

// Description says what an enforcer is, for people.
type Description struct {
	Name   string
	Scope  Scope
	Limits []string // what it cannot stop, a sentence each
	// Coverage is what it judges here and now, and what not.
	Coverage []cordon.Coverage
	// Mappings: executable mappings of files (libraries) are judged too, not only
	// executions.
	Mappings bool
	// Interpreters is what interpreters may run while it enforces.
	Interpreters cordon.Interpreters
}

// Scope is where an enforcer judges: the whole machine, or one mount.
type Scope struct {
	Mount string // a mount point in the agent's mount namespace; empty: the whole machine
}

// ParseScope reads "host" or "mount:/path".
func ParseScope(s string) (Scope, error) {
	if s == "host" {
		return Scope{}, nil
	}
	if path, ok := strings.CutPrefix(s, "mount:"); ok && filepath.IsAbs(path) {
		return Scope{Mount: filepath.Clean(path)}, nil
	}
	return Scope{}, fmt.Errorf("the scope %q is neither \"host\" nor \"mount:/absolute/path\"", s)
}

// String is the inverse of [ParseScope].
func (s Scope) String() string {
	if s.Mount == "" {
		return "host"
	}
	return "mount:" + s.Mount
}

// Finding is the result of a probe, with its reason in a sentence for people.
type Finding struct {
	Answer cordon.Answer
	Reason string
}

// Noted is an enforcer with one more sentence in its limits: why it is not a
// better one.
type Noted struct {
	Enforcer
	Note string
}

// Describe adds the note, first.
func (n Noted) Describe() Description {
	d := n.Enforcer.Describe()
	d.Limits = append([]string{n.Note}, d.Limits...)
	return d
}

// None enforces nothing and says so: every restriction fails.
type None struct {
	Scope  Scope
	Reason string // why nothing better is there, a sentence without its full stop
}

// Apply fails for every mode but off.
func (n None) Apply(mode cordon.Mode, _ *cordon.TrustSet) error {
	if mode == cordon.ModeOff {
		return nil
	}
	return cordon.Errorf(cordon.Unavailable, "", "nothing was restricted: %s", n.Reason)
}

// Stats are all zero.
func (None) Stats() Stats { return Stats{} }

// Refusals never yields.
func (None) Refusals() <-chan Refusal { return nil }

// Beat is not asked for: nobody waits for this enforcer.
func (None) Beat() uint64 { return 0 }

// Describe says that nothing is enforced.
func (n None) Describe() Description {
	return Description{Name: "none", Scope: n.Scope, Limits: []string{"Nothing is enforced: " + n.Reason + "."}}
}

// Close does nothing.
func (None) Close() error { return nil }
