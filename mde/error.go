package mde

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// The error codes that callers tell apart (Defender contract, common errors).
const (
	CodeActiveRequestAlreadyExists = "ActiveRequestAlreadyExists" // an action of this type is still open on the machine
	CodeResourceNotFound           = "ResourceNotFound"
	CodeForbidden                  = "Forbidden"
	CodeUnauthorized               = "Unauthorized"
	CodeTooManyRequests            = "429" // the documentation says TooManyRequests, but this is what is sent
)

// Error is an answer of the server that is not a success.
type Error struct {
	StatusCode int    // of HTTP
	Code       string // see the Code constants; for a refused token the OAuth error; empty if the body had none
	Message    string // the server's own sentence, not escaped; empty if the body had none
	Target     string // the server's tracking id of the request
	// RetryAfter is how long the server asks to wait; 0: it did not say.
	RetryAfter time.Duration
}

// Error returns the server's sentence, or the HTTP status in words.
func (e *Error) Error() string {
	if e.Message != "" {
		return e.Message
	}
	return strings.TrimSpace(fmt.Sprintf("the server answered %d %s", e.StatusCode, http.StatusText(e.StatusCode)))
}

// UnreachableError means that no complete answer came.
type UnreachableError struct {
	// Sent is true if the request may have reached the server: what it asked for
	// may have been done.
	Sent bool
	Err  error // why; the context's cause if that ended the call
}

// Error says that the server did not answer, and why.
func (e *UnreachableError) Error() string { return "the server did not answer: " + e.Err.Error() }

// Unwrap returns the reason.
func (e *UnreachableError) Unwrap() error { return e.Err }

// NameError means that a name was not sent, for in a URL it would mean
// something else: it is empty, or a dot or two.
type NameError struct {
	What string // it was to name
	Name string
}

// Error says so.
func (e *NameError) Error() string { return fmt.Sprintf("%q is not a %s", e.Name, e.What) }

// maxMessage bounds what a server can put before a person's eyes, in bytes.
const maxMessage = 4096

// decodeError makes an [Error] of an answer, whatever its body is: Defender's
// error object, OAuth's error (RFC 6749, section 5.2), or neither.
func decodeError(status int, header http.Header, body []byte, now time.Time) *Error {
	e := &Error{StatusCode: status, RetryAfter: retryAfter(header.Get("Retry-After"), now)}
	var outer struct {
		Error       json.RawMessage `json:"error"`
		Description string          `json:"error_description"`
		Correlation string          `json:"correlation_id"`
	}
	if json.Unmarshal(body, &outer) != nil {
		return e
	}
	var inner struct {
		Code    string `json:"code"`
		Message string `json:"message"`
		Target  string `json:"target"`
	}
	var code string
	switch {
	case json.Unmarshal(outer.Error, &inner) == nil:
		e.Code, e.Message, e.Target = inner.Code, inner.Message, inner.Target
	case json.Unmarshal(outer.Error, &code) == nil:
		e.Code, e.Target = code, outer.Correlation
		// Further lines of the description only repeat ids and the time.
		e.Message, _, _ = strings.Cut(strings.ReplaceAll(outer.Description, "\r\n", "\n"), "\n")
	}
	e.Code, e.Message, e.Target = clip(e.Code), clip(e.Message), clip(e.Target)
	return e
}

func clip(s string) string {
	if len(s) > maxMessage {
		s = s[:maxMessage]
	}
	return strings.ToValidUTF8(s, "")
}

// retryAfter reads the header in both its forms (RFC 9110, section 10.2.3).
func retryAfter(value string, now time.Time) time.Duration {
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(0, at.Sub(now))
	}
	return 0
}
