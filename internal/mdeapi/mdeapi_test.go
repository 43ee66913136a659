package mdeapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/odata"
)

// TestMembersAreTheSchema: what can be asked for is what is shown.
func TestMembersAreTheSchema(t *testing.T) {
	compare := func(what string, members []cordon.Field, s cordon.Schema) {
		var names []cordon.Field
		for _, f := range s {
			names = append(names, f.Name)
		}
		slices.Sort(names)
		slices.Sort(members)
		if diff := cmp.Diff(names, members); diff != "" {
			t.Errorf("%s: -schema +members:\n%s", what, diff)
		}
	}
	compare("machine actions", names(machineAction), odata.MachineActions)
	compare("machines", names(machine), odata.Machines)
}

func names[T any](r resource[T]) (names []cordon.Field) {
	for _, m := range r.members {
		names = append(names, m.name)
	}
	return names
}

// TestPaging walks through 25,000 rows by the links of the pages, for every
// way of asking for them, and checks that each row comes once and in order.
func TestPaging(t *testing.T) {
	const rows = 2*cordon.MaxTop + 5000
	list := func(_ context.Context, _ cordon.Caller, q cordon.Query) ([]int, cordon.Listing, error) {
		if !q.HasTop || q.Top > cordon.MaxTop {
			t.Errorf("a query without an end: %+v", q)
		}
		begin := q.Skip
		if q.After != nil {
			begin += int(q.After[0].(int64)) + 1
		}
		var page []int
		for i := begin; i < rows && len(page) < q.Top; i++ {
			page = append(page, i)
		}
		l := cordon.Listing{Count: rows}
		if end := begin + q.Top; q.Top > 0 && end < rows {
			l.Next = cordon.Position{int64(end - 1)}
		}
		return page, l, nil
	}
	for query, want := range map[string]struct{ first, last, pages int }{
		"":                             {0, rows - 1, 3},
		"$count=true":                  {0, rows - 1, 3},
		"$top=10":                      {0, 9, 1},
		"$top=0":                       {0, -1, 1},
		"$top=10000":                   {0, 9999, 1},
		"$top=10001":                   {0, 10000, 2},
		"%24TOP=+20000+":               {0, 19999, 2},
		"$top=99999":                   {0, rows - 1, 3},
		"$skip=3":                      {3, rows - 1, 3},
		"$Skip=14999&$top=10001":       {14999, rows - 1, 2},
		"$skip=15000":                  {15000, rows - 1, 1},
		"$skip=15000&$top=20000":       {15000, rows - 1, 1},
		"$skip=99999":                  {99999, 99998, 1},
		"&&x=y&$filter=id+eq+'a%26b'&": {0, rows - 1, 3},
	} {
		next, pages, wanted := "/API/machineactions/?"+query, 0, want.first
		for next != "" {
			pages++
			u, err := url.Parse(next)
			if err != nil || pages > 5 {
				t.Fatalf("%s: page %d at %q: %v", query, pages, next, err)
			}
			c := &call{Request: &http.Request{URL: u}, base: "https://cordon.example.org:8443"}
			_, p, err := read(c, odata.MachineActions, cordon.MaxTop, list)
			if err != nil {
				t.Fatalf("%s: %v", query, err)
			}
			for _, row := range p.rows {
				if row != wanted {
					t.Fatalf("%s: page %d: row %d, want %d", query, pages, row, wanted)
				}
				wanted++
			}
			if next = p.next; next != "" {
				if !strings.HasPrefix(next, "https://cordon.example.org:8443/API/machineactions/?") {
					t.Errorf("%s: next is %q", query, next)
				}
				if strings.Contains(query, "$filter") != strings.Contains(next, "$filter=id+eq+'a%26b'") {
					t.Errorf("%s: next has lost the filter: %q", query, next)
				}
			}
		}
		if pages != want.pages || wanted != want.last+1 {
			t.Errorf("%s: %d pages up to row %d, want %d up to %d", query, pages, wanted-1, want.pages, want.last)
		}
	}
}

func TestPagingPassesErrorsOn(t *testing.T) {
	broken := errors.New("disk on fire")
	list := func(context.Context, cordon.Caller, cordon.Query) ([]int, cordon.Listing, error) {
		return nil, cordon.Listing{}, broken
	}
	c := &call{Request: &http.Request{URL: &url.URL{Path: "/api/machineactions"}}}
	if _, _, err := read(c, odata.MachineActions, cordon.MaxTop, list); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}

func TestTimes(t *testing.T) {
	at := time.Date(2024, 1, 2, 13, 39, 46, 0, time.FixedZone("", 3600))
	for nanos, want := range map[int]string{
		0:         `"2024-01-02T12:39:46Z"`,
		773820600: `"2024-01-02T12:39:46.7738206Z"`,
		154974000: `"2024-01-02T12:39:46.154974Z"`,
		500000000: `"2024-01-02T12:39:46.5Z"`,
		100:       `"2024-01-02T12:39:46.0000001Z"`,
		99:        `"2024-01-02T12:39:46Z"`,
		999999999: `"2024-01-02T12:39:46.9999999Z"`,
	} {
		if got := string(appendTime(nil, at.Add(time.Duration(nanos)))); got != want {
			t.Errorf("%d ns: %s, want %s", nanos, got, want)
		}
	}
}

// TestStrings: every string goes out as JSON that means the same, and short.
func TestStrings(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.String().Draw(t, "s")
		b := appendString([]byte("x"), s)
		var back string
		if err := json.Unmarshal(b[1:], &back); b[0] != 'x' || err != nil || back != s {
			t.Fatalf("%q became %s, %q: %v", s, b, back, err)
		}
	})
	if got := string(appendString(nil, "<a href='x'>&</a> é")); got != `"<a href='x'>&</a> é"` {
		t.Errorf("escaped more than JSON asks for: %s", got)
	}
	if got := string(appendString(nil, "a\xffb\"\\\n\x00")); got != `"a\ufffdb\"\\\n\u0000"` {
		t.Errorf("escaped wrongly: %s", got)
	}
}

// TestCancellationIsShown: while an action is open and where it ended Cancelled.
func TestCancellationIsShown(t *testing.T) {
	for status, shown := range map[cordon.Status]bool{
		cordon.Pending: true, cordon.InProgress: true, cordon.Cancelled: true,
		cordon.Succeeded: false, cordon.Failed: false, cordon.TimeOut: false,
	} {
		for _, wish := range []*cordon.Cancellation{nil, {RequestorID: "r", Comment: "c"}} {
			a := cordon.Action{Status: status, Cancel: wish}
			body := string(machineAction.entity(&call{}, &a))
			for _, member := range []string{"Requestor", "Comment", "DateTimeUtc"} {
				null := strings.Contains(body, `"cancellation`+member+`":null`)
				if null == (shown && wish != nil) {
					t.Errorf("%s, wish %v: %s", status, wish, body)
				}
			}
		}
	}
}

// TestErrors: every kind and code of the domain has its answer.
func TestErrors(t *testing.T) {
	for _, c := range []struct {
		kind   cordon.Kind
		code   cordon.Code
		status int
		want   string
	}{
		{cordon.Invalid, cordon.CodeMissingParameter, 400, "MissingRequiredParameter"},
		{cordon.Invalid, cordon.CodeInvalidInput, 400, "InvalidInput"},
		{cordon.Invalid, cordon.CodeInvalidBody, 400, "InvalidRequestBody"},
		{cordon.Invalid, cordon.CodeInvalidQuery, 400, "ODataError"},
		{cordon.Invalid, cordon.CodeMalformedQuery, 400, ""},
		{cordon.Invalid, cordon.CodePlatformUnsupport, 400, "OsPlatformNotSupported"},
		{cordon.Invalid, cordon.CodeAmbiguousName, 400, "BadRequest"},
		{cordon.Invalid, "", 400, "BadRequest"},
		{cordon.Conflict, cordon.CodeActionInProgress, 400, "ActiveRequestAlreadyExists"},
		{cordon.Conflict, cordon.CodeActionFinal, 400, "BadRequest"},
		{cordon.Conflict, cordon.CodeActionExpired, 400, "BadRequest"},
		{cordon.Unauthenticated, "", 401, "Unauthorized"},
		{cordon.Forbidden, cordon.CodeMissingPermission, 403, "Forbidden"},
		{cordon.NotFound, "", 404, "ResourceNotFound"},
		{cordon.Limited, "", 429, "429"},
		{cordon.Internal, "", 500, "InternalServerError"},
		{cordon.Unavailable, "", 503, "ServiceUnavailable"},
		{cordon.Kind(200), "", 500, "InternalServerError"},
	} {
		err := fmt.Errorf("do it: %w", &cordon.Error{Kind: c.kind, Code: c.code, Message: "said", Err: errors.New("secret")})
		p := problemOf(err)
		if p.status != c.status || p.code != c.want || p.framework != (c.want == "") {
			t.Errorf("%v %s: %d %q", c.kind, c.code, p.status, p.code)
		}
		body := string(p.body("t"))
		if !json.Valid([]byte(body)) || strings.Contains(body, "secret") || c.status >= 500 && strings.Contains(body, "said") {
			t.Errorf("%v %s: %s", c.kind, c.code, body)
		}
	}
	if p := problemOf(errors.New("secret")); p.status != 500 || strings.Contains(p.message, "secret") {
		t.Errorf("a plain error: %+v", p)
	}
}

// TestPanic: a panic is a 500 that says where to look, and the log says the rest.
func TestPanic(t *testing.T) {
	var log bytes.Buffer
	h := New(Config{
		Authenticate: func(*http.Request) (cordon.Caller, error) { panic("secret") },
		Base:         func(*http.Request) string { return "http://x" },
		NewID:        func() string { return "the-target" },
		Log:          slog.New(slog.NewTextHandler(&log, nil)),
	})
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/api/machines", nil))
	if body := w.Body.String(); w.Code != 500 || strings.Contains(body, "secret") || !strings.Contains(body, `"target":"the-target"`) {
		t.Errorf("%d %s", w.Code, body)
	}
	if w.Header().Get("Strict-Transport-Security") != "" {
		t.Error("HSTS over plain HTTP")
	}
	for _, want := range []string{"level=ERROR", "target=the-target", "secret", "TestPanic"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log lacks %s: %s", want, log.String())
		}
	}
}

// TestClientGone: an error because the client went away is not the server's.
func TestClientGone(t *testing.T) {
	var log bytes.Buffer
	h := New(Config{
		Authenticate: func(r *http.Request) (cordon.Caller, error) { return cordon.Caller{}, r.Context().Err() },
		Base:         func(*http.Request) string { return "http://x" },
		NewID:        func() string { return "the-target" },
		Log:          slog.New(slog.NewTextHandler(&log, nil)),
	})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/api/machines", nil).WithContext(ctx))
	if !strings.Contains(log.String(), "level=INFO") {
		t.Errorf("logged as: %s", log.String())
	}
}

// FuzzDecodeObject holds that only JSON objects with exactly the known members
// are accepted, and that what is read is what encoding/json reads.
func FuzzDecodeObject(f *testing.F) {
	for _, s := range []string{
		`{"Comment":"x"}`, ` { "Comment" : null } `, `{"comment":"x"}`, `{"Comment":"x","Comment":"y"}`, `{"Comment":"x"}{}`,
		`{"Comment":"\ud83d\ude00\u0000"}`, `{"Comment":{"Comment":"x"}}`, `{"Comment" "x"}`, `{,}`, `{"Comment":"x",}`, "\ufeff{}", `[]`,
		`{"\u0043omment":"x"}`, "{\"Comment\":\"\xff\"}", `{"Comment":` + strings.Repeat("[", 11000) + `}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var comment *string
		err := decodeObject(body, map[string]any{"Comment": &comment})
		if err != nil {
			if cordon.CodeOf(err) != cordon.CodeInvalidBody || !strings.HasPrefix(err.Error(), "Request body is incorrect. ") || len(err.Error()) > 1000 {
				t.Fatalf("error %v", err)
			}
			var plain map[string]*string
			if json.Unmarshal(body, &plain) != nil || !utf8.Valid(body) || bytes.Count(body, []byte("{")) > 1 || plain == nil {
				return
			}
			if _, ok := plain["Comment"]; ok && len(plain) == 1 && bytes.Count(body, []byte(":")) == 1 {
				t.Fatalf("refused %s: %v", body, err)
			}
			return
		}
		var plain map[string]*string
		if err := json.Unmarshal(body, &plain); err != nil || !utf8.Valid(body) {
			t.Fatalf("accepted %q: %v", body, err)
		}
		if !cmp.Equal(plain["Comment"], comment) || len(plain) > 1 || len(plain) == 1 && comment == nil && plain["Comment"] != nil {
			t.Fatalf("%q was read as %v", body, comment)
		}
		for name := range plain {
			if name != "Comment" {
				t.Fatalf("accepted the member %q", name)
			}
		}
	})
}
