package main

import (
	"errors"
	"fmt"
	"slices"
	"syscall"
)

// Case is one technique to run code that is not trusted.
type Case struct {
	ID   string // B01 to B25, one for each family
	Name string // unique
	// Allow says that it runs trusted code, which must not be refused.
	Allow bool
	// Attempt returns the error of the decisive call, which need not be the last one.
	// Whatever runs leaves the marker.
	Attempt func(w *World) error
	// Refusals is how often it is counted; default once, any for as often as the kernel is asked.
	Refusals int
	// Also are errnos that mean refused, beside EPERM and EACCES: ETXTBSY where it is the write that is refused.
	Also []syscall.Errno
	// Silent says that the decisive call is made by a program that does not tell
	// its errno: no marker and a count mean refused.
	Silent bool
	// Lacks says why this kernel or this enforcer has no such thing, seen by trying; "" if it has.
	Lacks func(w *World) string
	// Race says that it works only now and then.
	Race bool
	// Long says that it takes much longer than others: a thousand programs.
	Long bool
	// Strict asks for an enforcer that refuses executable memory without a file.
	Strict bool
	// Attacks says that it is directed at the enforcer, which need not be alive after it.
	Attacks bool
}

const anyNumber = -1

func (c Case) String() string { return c.ID + " " + c.Name }

// Observation is what was seen of an attempt.
type Observation struct {
	Err      string // of the decisive call; "" if there was none
	Errno    syscall.Errno
	Marker   bool // the payload ran
	Refusals int  // that the enforcer counted meanwhile; anyNumber if it does not count
	Hung     bool // it had to be ended
}

// The states of a cell of the table.
const (
	Runs    = "runs"
	Refused = "refused"
	Open    = "OPEN"    // it should have been refused and ran
	Hangs   = "HANGS"   // nothing ran, and who tried waited in vain
	Blocked = "BLOCKED" // it should have run and did not
	Broken  = "BROKEN"  // the case proves nothing
	Absent  = "n/a"
)

func observe(err error) Observation {
	o := Observation{Refusals: anyNumber}
	if err != nil {
		o.Err = err.Error()
		_ = errors.As(err, &o.Errno) // no errno is 0
	}
	return o
}

// judge says what an observation means, with the reason where it is not plain.
func judge(c Case, enforced bool, o Observation) (state, why string) {
	seen := fmt.Sprintf("error %q, marker %v, %d refusals", o.Err, o.Marker, o.Refusals)
	switch {
	case o.Hung:
		return Hangs, "it did not end"
	case !enforced && o.Err == "" && o.Marker:
		return Runs, ""
	case !enforced:
		return Broken, "without enforcement: " + seen
	case c.Allow && o.Err == "" && o.Marker:
		return Runs, ""
	case c.Allow:
		return Blocked, seen
	case o.Marker:
		return Open, seen
	}
	counted := o.Refusals == anyNumber || c.Refusals == anyNumber && o.Refusals > 0 || o.Refusals == max(1, c.Refusals)
	switch {
	case slices.Contains(c.Also, o.Errno): // nobody asked to run anything
		return Refused, ""
	case c.Silent && o.Refusals != 0, o.Errno == syscall.EPERM, o.Errno == syscall.EACCES:
		if !counted {
			return Broken, "refused, but counted wrong: " + seen
		}
		return Refused, ""
	}
	return Broken, "it did not run, for another reason: " + seen
}
