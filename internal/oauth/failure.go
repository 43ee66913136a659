package oauth

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/cordon-project/cordon"
)

// failure is a refused request in the words of RFC 6749 (section 5.2) and of
// Entra ID: the number is the one behind AADSTS, by which clients tell cases apart.
type failure struct {
	status  int
	word    string // error
	number  int
	message string
	err     error // the private cause, only logged
	// retryAfter is in whole seconds; 0 if it would not help.
	retryAfter time.Duration
}

// wrongCredentials are the failures that count as a guess: unknown application,
// wrong secret, wrong assertion.
var wrongCredentials = []int{700016, 7000215, 700027}

func (f *failure) Error() string {
	if f.err != nil {
		return f.message + ": " + f.err.Error()
	}
	return f.message
}

func (f *failure) Unwrap() error { return f.err }

func failf(status int, word string, number int, format string, args ...any) *failure {
	return &failure{status: status, word: word, number: number, message: fmt.Sprintf(format, args...)}
}

// failureOf returns the failure in err's chain. Any other error is the server's
// own trouble, about which the caller learns no more than to try again.
func failureOf(err error) *failure {
	var f *failure
	e := (*cordon.Error)(nil)
	switch {
	case errors.As(err, &f):
	case errors.As(err, &e) && e.Kind == cordon.Limited:
		f = failf(http.StatusTooManyRequests, "temporarily_unavailable", 50053, "The account is locked, you've tried to sign in too many times with an incorrect application ID or credential. Try again in %d seconds.", e.RetryAfter/time.Second)
		f.retryAfter, f.err = e.RetryAfter, err
	default:
		f = failf(http.StatusServiceUnavailable, "temporarily_unavailable", 90033, "A transient error has occurred. Please try again.")
		f.err = err
	}
	return f
}

func (f *failure) level() slog.Level {
	if f.status >= http.StatusInternalServerError {
		return slog.LevelError
	}
	return slog.LevelInfo
}

// description is the body of an error answer, in Entra ID's order.
type description struct {
	Error         string `json:"error"`
	Description   string `json:"error_description"`
	Codes         []int  `json:"error_codes"`
	Timestamp     string `json:"timestamp"`
	TraceID       string `json:"trace_id"`
	CorrelationID string `json:"correlation_id"`
}

func (s *Server) describe(c *call, f *failure) description {
	at := s.Now().UTC().Format(time.DateTime) + "Z"
	return description{
		Error: f.word,
		Description: fmt.Sprintf("AADSTS%d: %s Trace ID: %s Correlation ID: %s Timestamp: %s",
			f.number, f.message, c.trace, c.correlation, at),
		Codes: []int{f.number}, Timestamp: at, TraceID: c.trace, CorrelationID: c.correlation,
	}
}
