package cordon

import (
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Group names a device group: a set of machines that administrators chose. A
// machine is in one group or in none, which is the zero Group. What is trusted
// rests on it, so nothing that a machine says of itself, and no label, puts a
// machine into a group (ADR 25).
type Group struct {
	ID   int64 // from 1 on; no group gets the id of one that was deleted
	Name string
}

// GroupInfo is all that there is to know about a group but its machines.
type GroupInfo struct {
	Group
	Created  time.Time
	Machines int // that are in it
	Trusted  int // rules whose scope it is
}

// The limits of groups. Defender documents the number (contract 11).
const (
	MaxGroups    = 2000
	MaxGroupName = 100 // characters
)

// GroupChange is [ActionChange] for the group that a machine is in: it returns
// that group's id, 0 for none.
type GroupChange func(Machine) (group int64, entries []AuditEntry, err error)

// SameGroupName reports whether two names mean the same group: upper and lower
// case of A to Z, and blanks around them, make no difference.
func SameGroupName(a, b string) bool {
	return Fold(strings.TrimSpace(a)) == Fold(strings.TrimSpace(b))
}

// checkGroupName returns name as it is kept.
func checkGroupName(name string) (string, error) {
	name = strings.TrimSpace(name)
	n := utf8.RuneCountInString(name)
	switch {
	case name == "":
		return "", Errorf(Invalid, CodeMissingParameter, "The group needs a name")
	case !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl):
		return "", Errorf(Invalid, CodeInvalidInput, "The name of a group has no control characters and is valid UTF-8")
	case strings.Trim(name, ".") == "": // no address could name it
		return "", Errorf(Invalid, CodeInvalidInput, "The name of a group has more to it than dots")
	case n > MaxGroupName:
		return "", Errorf(Invalid, CodeInvalidInput, "The name of the group has %d characters, allowed are %d", n, MaxGroupName)
	}
	return name, nil
}
