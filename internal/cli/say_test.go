package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/mde"
)

type errorCase struct {
	err         error
	interrupted bool
	code        int
	said        string
}

func errorCases() []errorCase {
	refused := func(status int, code, message string) error {
		return fmt.Errorf("list machines: %w", &mde.Error{StatusCode: status, Code: code, Message: message, Target: "t", RetryAfter: 30 * time.Second})
	}
	domain := func(k cordon.Kind) error {
		return fmt.Errorf("apply order: %w", &cordon.Error{Kind: k, Message: "What happened", Err: errors.New("cause")})
	}
	lost := &mde.UnreachableError{Err: errors.New("connection refused")}
	return []errorCase{
		{nil, false, ExitOK, ""},
		{errors.New("odd\x1b[m"), false, ExitInternal, "cordon: odd\\x1b[m\n"},
		{errors.New("stopped listening"), true, ExitInterrupted, "cordon: interrupted\n"},
		{&Error{Code: 42, Message: "m", Hint: "h\n"}, true, 42, "cordon: m\nhint: h\\n\n"},
		{domain(cordon.Internal), false, ExitInternal, "cordon: apply order: What happened: cause\n"},
		{domain(cordon.Invalid), false, ExitUsage, "cordon: What happened\n"},
		{domain(cordon.Unauthenticated), false, ExitDenied, "cordon: What happened\n"},
		{domain(cordon.Forbidden), false, ExitDenied, "cordon: What happened\n"},
		{domain(cordon.NotFound), false, ExitNotFound, "cordon: What happened\n"},
		{domain(cordon.Conflict), false, ExitConflict, "cordon: What happened\n"},
		{domain(cordon.Limited), false, ExitUnavailable, "cordon: What happened\n"},
		{domain(cordon.Unavailable), false, ExitUnavailable, "cordon: What happened\n"},
		{refused(400, "InvalidInput", "Bad."), false, ExitUsage, "cordon: Bad.\n"},
		{refused(400, mde.CodeActiveRequestAlreadyExists, "Busy"), false, ExitConflict, "cordon: Busy\n"},
		{refused(401, "Unauthorized", "No."), false, ExitDenied, "cordon: No.\nhint: check that the profile belongs to this server\n"},
		{refused(403, "Forbidden", "No."), false, ExitDenied, "cordon: No.\nhint: use the profile of an application that has one of the required roles\n"},
		{refused(404, "NotFound", ""), false, ExitNotFound, "cordon: the server answered 404 Not Found\n"},
		{refused(409, "ActionFinal", "Over"), false, ExitConflict, "cordon: Over\n"},
		{refused(429, "429", "Quota"), false, ExitUnavailable, "cordon: Quota\nhint: try again in 30s\n"},
		{refused(500, "", "Broken"), false, ExitInternal, "cordon: Broken\nhint: the server's log knows this request as t\n"},
		{refused(503, "", ""), false, ExitUnavailable, "cordon: the server answered 503 Service Unavailable\nhint: try again later\n"},
		{refused(307, "", ""), false, ExitInternal, "cordon: the server answered 307 Temporary Redirect\nhint: the server's log knows this request as t\n"},
		{fmt.Errorf("%w: %w", mde.ErrNoToken, &mde.Error{StatusCode: 401, Message: "AADSTS1: no."}), false, ExitDenied,
			"cordon: the server does not accept these credentials: AADSTS1: no.\nhint: check the address, tenant id, client id and client secret in the profile and the CORDON_ variables\n"},
		{lost, false, ExitUnavailable, "cordon: the server did not answer: connection refused\nhint: check that the server runs, and the address (url) and CA file (caFile) in the profile\n"},
		{&mde.NameError{What: "machine", Name: ".."}, false, ExitUsage, "cordon: \"..\" is not a machine\n"},
		{lost, true, ExitInterrupted, "cordon: interrupted\n"},
	}
}

func FuzzPrintJSON(f *testing.F) {
	f.Add("a\x1b\u009b\u007f<&>\u2028\U000e0001")
	f.Fuzz(func(t *testing.T, s string) {
		var out bytes.Buffer
		if err := (&Env{Stdout: &out}).PrintJSON([]string{s}); err != nil {
			t.Fatal(err)
		}
		line, ended := strings.CutSuffix(out.String(), "\n")
		if !ended || strings.ContainsFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("printed %q", out.String())
		}
		var back []string
		if err := json.Unmarshal(out.Bytes(), &back); err != nil || back[0] != strings.ToValidUTF8(s, "\uFFFD") && strings.ToValidUTF8(s, "") == s {
			t.Errorf("%q came back as %q, %v", s, back, err)
		}
	})
}
