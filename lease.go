package cordon

import (
	"crypto/sha256"
	"fmt"
	"time"
)

// Bounds of a lease's time.
const (
	MinLease = 10 * time.Second
	MaxLease = 365 * 24 * time.Hour
)

// CheckLease returns an error of kind Invalid if a restriction cannot be given a
// lease of d. Zero is none.
func CheckLease(d time.Duration) error {
	if d != 0 && (d < MinLease || d > MaxLease || d%time.Second != 0) {
		return Errorf(Invalid, CodeInvalidInput, "A lease is %s to %s, in whole seconds, not %s", MinLease, MaxLease, d)
	}
	return nil
}

// Lease is a restriction's term on the machine: when the server has not been
// heard for so long, the machine falls back to mode audit. The zero value is
// none: the restriction holds until somebody ends it.
type Lease struct {
	Action  ActionID `json:"action,omitempty"` // that granted it
	Seconds int64    `json:"seconds"`          // above zero; see [MinLease]
	// Lapsed: the machine has fallen back.
	Lapsed bool `json:"lapsed,omitempty"`
	// Open: Lapsed has changed, and that has yet to be made true and told.
	Open bool `json:"open,omitempty"`
}

// Time is how long the server may be silent; zero: for ever.
func (l Lease) Time() time.Duration { return time.Duration(l.Seconds) * time.Second }

// LeaseState is what a machine says of the [Lease] that it stands under.
type LeaseState struct {
	Action  ActionID `json:"action,omitempty"` // that granted it
	Seconds int64    `json:"seconds"`
	Silent  int64    `json:"silentSeconds"` // how long the server has not been heard, as far as the machine ran
	Lapsed  bool     `json:"lapsed,omitempty"`
}

// Time is how long the server may be silent; zero: for ever.
func (l LeaseState) Time() time.Duration { return time.Duration(l.Seconds) * time.Second }

// BootTime is a reading of the clock that counts from a machine's start, also
// while it sleeps (CLOCK_BOOTTIME, clock_gettime(2)). Nobody can set it.
type BootTime struct {
	Boot string        `json:"boot"` // which start: /proc/sys/kernel/random/boot_id
	At   time.Duration `json:"at"`   // since that start, in nanoseconds
}

// Silence is how long a machine has not heard its server: the time during which
// it ran. While it is switched off nothing counts, because what a clock says
// afterwards is what somebody set it to.
type Silence struct {
	Length time.Duration `json:"length"` // in nanoseconds, until Read
	Read   BootTime      `json:"read"`
}

// Until returns the silence with what has passed until now. Another boot counts
// from its start. It never shrinks, and grows by no more than the machine ran.
func (s Silence) Until(now BootTime) Silence {
	from := time.Duration(0)
	if now.Boot == s.Read.Boot {
		from = s.Read.At
	}
	if now.At < from { // no clock of this kind goes back; if one does it counts nothing twice
		return s
	}
	passed := now.At - from
	if s.Length > 0 && passed > maxSilence-s.Length {
		passed = maxSilence - s.Length
	}
	return Silence{Length: s.Length + passed, Read: now}
}

// maxSilence is as long as a silence gets, so that it cannot overflow.
const maxSilence = time.Duration(1 << 62)

// LeaseVerdict is what a machine is to do about its lease.
type LeaseVerdict uint8

// The verdicts of [JudgeLease].
const (
	LeaseHolds LeaseVerdict = iota // or there is none: stay as it is
	LeaseEnds                      // fall back to mode audit
	LeaseAgain                     // the server was heard: put the restriction in force again
)

// JudgeLease decides what a machine that stands as s does after a silence of its
// server. Nothing that a wall clock says is in it. It is pure.
func JudgeLease(s Standing, silence Silence) LeaseVerdict {
	over := silence.Length >= s.Lease.Time()
	switch {
	case s.Lease.Seconds <= 0 || s.Outcome == "":
		return LeaseHolds
	case s.Lease.Lapsed && !over:
		return LeaseAgain
	case !s.Lease.Lapsed && over && s.Mode == ModeEnforce:
		return LeaseEnds
	}
	return LeaseHolds
}

// LeaseReportID names the statement of machine m that the lease which action
// granted lapsed, or holds again, at a moment: a version-8 UUID (RFC 9562, section
// 5.8) over all three. It is no action's id, so that the server can settle it apart
// from the report on the action.
func LeaseReportID(m MachineID, action ActionID, t OrderType, at BootTime) ActionID {
	u := sha256.Sum256(fmt.Appendf(nil, "lease %s %s %s %s %d", m, action, t, at.Boot, at.At))
	u[6] = u[6]&0x0f | 0x80
	u[8] = u[8]&0x3f | 0x80
	return ActionID(fmt.Sprintf("%x-%x-%x-%x-%x", u[0:4], u[4:6], u[6:8], u[8:10], u[10:16]))
}
