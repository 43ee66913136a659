package cordon

import (
	"errors"
	"fmt"
	"time"
)

// Kind says what sort of failure an [Error] is. Edges map kinds to their own
// vocabulary (HTTP status codes, exit codes); nothing below an edge does.
type Kind uint8

// The kinds of failure. Internal is the zero value on purpose: an error that
// nobody classified is never shown to a caller as anything else.
const (
	Internal Kind = iota
	Invalid
	Unauthenticated
	Forbidden
	NotFound
	Conflict
	Limited
	Unavailable
)

var kindNames = [...]string{"internal", "invalid", "unauthenticated", "forbidden", "not found", "conflict", "limited", "unavailable"}

// String returns the kind in plain words.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("Kind(%d)", uint8(k))
}

// Code narrows a [Kind] where callers must be able to tell cases apart.
// Codes are stable: they are append-only.
type Code string

// The codes that edges translate (Defender contract 3.2).
const (
	CodeMissingParameter   Code = "MissingParameter"    // a required value is absent or empty
	CodeInvalidInput       Code = "InvalidInput"        // a value is there but unusable
	CodeInvalidBody        Code = "InvalidBody"         // the request body cannot be read as what it should be
	CodeInvalidQuery       Code = "InvalidQuery"        // a query option cannot be read
	CodeAmbiguousName      Code = "AmbiguousName"       // a DNS name that several machines carry
	CodeActionInProgress   Code = "ActionInProgress"    // an action of the same type is still open on the machine
	CodeActionFinal        Code = "ActionFinal"         // the action has already ended
	CodeActionExpired      Code = "ActionExpired"       // the action's time to be delivered is over
	CodePlatformUnsupport  Code = "PlatformUnsupported" // Cordon cannot do this on the machine's operating system
	CodeVersionUnsupport   Code = "VersionUnsupported"  // the machine's agent is too old for this
	CodeMissingPermission  Code = "MissingPermission"   // the caller lacks every permission that would allow this
	CodeEnrollmentRefused  Code = "EnrollmentRefused"   // the enrolment token is unknown or revoked
	CodeInvalidAddress     Code = "InvalidAddress"      // what should be an IP address is none
	CodeBatchTooLarge      Code = "BatchTooLarge"       // one request is about too many things
	CodeUnverifiedEvidence Code = "UnverifiedEvidence"  // a signature or the identity behind it does not hold
	CodeLastAdministrator  Code = "LastAdministrator"   // nobody could manage applications after this
)

// Error is the one error type that crosses the borders of the domain. Message
// is a clear sentence that is safe to show to the caller; Err, if set, is the
// private cause and is only logged.
type Error struct {
	Kind    Kind
	Code    Code
	Message string
	Err     error
	// RetryAfter is how long the caller has to wait before the same request can
	// do better, in whole seconds. Only an error of kind Limited has it.
	RetryAfter time.Duration
}

// Error returns the message, and the cause behind it when there is one.
func (e *Error) Error() string {
	if e.Err != nil {
		return e.Message + ": " + e.Err.Error()
	}
	return e.Message
}

// Unwrap returns the private cause.
func (e *Error) Unwrap() error { return e.Err }

// Errorf makes an [Error] with a formatted message.
func Errorf(kind Kind, code Code, format string, args ...any) *Error {
	return &Error{Kind: kind, Code: code, Message: fmt.Sprintf(format, args...)}
}

// KindOf returns the kind of the first [Error] in err's chain, Internal if there
// is none.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return Internal
}

// CodeOf returns the code of the first [Error] in err's chain, "" if there is none.
func CodeOf(err error) Code {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}
