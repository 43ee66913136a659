package cli

// How the command speaks. All text for people is written in this file's
// functions, by these rules:
//
//   - Standard output has the answer and nothing else.
//   - Everything else goes to standard error, a line each: "cordon: " before a
//     sentence without capital and full stop (the server's sentences stay as they
//     are), "hint: " before what can be done about it.
//   - Progress goes to standard error if that is a terminal, in one line that is
//     erased at the end.
//   - What somebody else wrote (names, comments, messages, arguments) goes
//     through cordon.Plain.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf16"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/mde"
)

// Error is a failure as it is said to people: a sentence, what can be done
// about it ("" for nothing), and the exit code. A verb returns one where it
// knows better than the general rules in describe.
type Error struct {
	Code    int
	Message string
	Hint    string
}

// Error returns the sentence.
func (e *Error) Error() string { return e.Message }

func usage(hint, format string, args ...any) *Error {
	return &Error{Code: ExitUsage, Message: fmt.Sprintf(format, args...), Hint: hint}
}

var exitOfKind = map[cordon.Kind]int{
	cordon.Invalid: ExitUsage, cordon.Unauthenticated: ExitDenied, cordon.Forbidden: ExitDenied, cordon.NotFound: ExitNotFound,
	cordon.Conflict: ExitConflict, cordon.Limited: ExitUnavailable, cordon.Unavailable: ExitUnavailable,
}

// describe makes an [Error] of any error that ended a verb.
func describe(ctx context.Context, err error) *Error {
	var said *Error
	var domain *cordon.Error
	var refused *mde.Error
	var lost *mde.UnreachableError
	var name *mde.NameError
	switch {
	case errors.As(err, &said):
		return said
	case ctx.Err() != nil:
		return &Error{Code: ExitInterrupted, Message: "interrupted"}
	case errors.As(err, &name):
		return usage("", "%v", name)
	case errors.Is(err, mde.ErrNoToken):
		return &Error{Code: ExitDenied, Message: "the server does not accept these credentials: " + strings.TrimPrefix(err.Error(), mde.ErrNoToken.Error()+": "),
			Hint: "check the address, tenant id, client id and client secret in the profile and the CORDON_ variables"}
	case errors.As(err, &refused):
		return describeRefusal(refused)
	case errors.As(err, &lost):
		return &Error{Code: ExitUnavailable, Message: lost.Error(), Hint: "check that the server runs, and the address (url) and CA file (caFile) in the profile"}
	case errors.As(err, &domain) && exitOfKind[domain.Kind] != 0:
		return &Error{Code: exitOfKind[domain.Kind], Message: domain.Message}
	}
	return &Error{Code: ExitInternal, Message: err.Error()}
}

func describeRefusal(r *mde.Error) *Error {
	e := &Error{Code: ExitInternal, Message: r.Error()}
	switch {
	case r.Code == mde.CodeActiveRequestAlreadyExists || r.StatusCode == http.StatusConflict:
		e.Code = ExitConflict
	case r.StatusCode == http.StatusUnauthorized:
		e.Code, e.Hint = ExitDenied, "check that the profile belongs to this server"
	case r.StatusCode == http.StatusForbidden:
		e.Code, e.Hint = ExitDenied, "use the profile of an application that has one of the required roles"
	case r.StatusCode == http.StatusNotFound:
		e.Code = ExitNotFound
	case r.StatusCode == http.StatusTooManyRequests:
		e.Code, e.Hint = ExitUnavailable, "try again in a minute"
		if r.RetryAfter > 0 {
			e.Hint = "try again in " + r.RetryAfter.String()
		}
	case r.StatusCode == http.StatusBadGateway, r.StatusCode == http.StatusServiceUnavailable, r.StatusCode == http.StatusGatewayTimeout:
		e.Code, e.Hint = ExitUnavailable, "try again later"
	case r.StatusCode/100 == 4:
		e.Code = ExitUsage
	case r.Target != "":
		e.Hint = "the server's log knows this request as " + r.Target
	}
	return e
}

// withHint describes err and gives it a hint if it ended with this exit code.
func withHint(ctx context.Context, err error, code int, hint string) error {
	if err == nil {
		return nil
	}
	e := describe(ctx, err)
	if e.Code == code {
		e.Hint = hint
	}
	return e
}

// report says an error.
func (env *Env) report(e *Error) {
	fmt.Fprintf(env.Stderr, "cordon: %s\n", cordon.Plain(e.Message))
	env.hint(e.Hint)
}

// note says something that is no failure.
func (env *Env) note(format string, args ...any) {
	fmt.Fprintf(env.Stderr, "cordon: %s\n", cordon.Plain(fmt.Sprintf(format, args...)))
}

func (env *Env) hint(hint string) {
	if hint != "" {
		fmt.Fprintf(env.Stderr, "hint: %s\n", cordon.Plain(hint))
	}
}

// progress shows a line that the next one, or erase, takes away.
func (env *Env) progress(format string, args ...any) {
	if env.Terminal {
		fmt.Fprintf(env.Stderr, "\r\x1b[K%s", cordon.Plain(fmt.Sprintf(format, args...)))
	}
}

func (env *Env) erase() {
	if env.Terminal {
		io.WriteString(env.Stderr, "\r\x1b[K")
	}
}

// PrintJSON prints v on one line. What is not a visible character is escaped
// also where JSON would not ask for it, for a terminal may obey it.
func (env *Env) PrintJSON(v any) error {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	var safe strings.Builder
	for _, r := range strings.TrimSuffix(b.String(), "\n") {
		if unicode.IsPrint(r) {
			safe.WriteRune(r)
			continue
		}
		for _, unit := range utf16.AppendRune(nil, r) {
			fmt.Fprintf(&safe, `\u%04x`, unit)
		}
	}
	_, err := fmt.Fprintln(env.Stdout, safe.String())
	return err
}

// Table prints rows in columns. Every cell goes through [cordon.Plain].
func (env *Env) Table(rows ...[]string) error {
	w := tabwriter.NewWriter(env.Stdout, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		cells := make([]string, len(row))
		for i, cell := range row {
			cells[i] = cordon.Plain(cell)
		}
		fmt.Fprintln(w, strings.TrimRight(strings.Join(cells, "\t"), "\t"))
	}
	return w.Flush()
}

// printList prints all as JSON or as a table below header, a row each. Where
// there is nothing people are told so, with none.
func printList[T any](env *Env, asJSON bool, all []T, none string, header []string, row func(T) []string) error {
	if asJSON {
		return env.PrintJSON(append([]T{}, all...)) // never null
	}
	if len(all) == 0 {
		env.note("%s", none)
		return nil
	}
	rows := [][]string{header}
	for _, item := range all {
		rows = append(rows, row(item))
	}
	return env.Table(rows...)
}

// shorten cuts a text that would break a table.
func shorten(s string) string {
	const most = 60
	if runes := []rune(s); len(runes) > most {
		return string(runes[:most-1]) + "…"
	}
	return s
}

// clock is how people read times here: UTC, to the second.
func clock(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}

// or returns what s points to, or instead where it is nil or empty.
func or(s *string, instead string) string {
	if s == nil || *s == "" {
		return instead
	}
	return *s
}
