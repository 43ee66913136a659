package mdeapi_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/mdeapi"
	"github.com/cordon-project/cordon/internal/testkit/golden"
)

// bodies are what operations need instead of a mere comment, by the end of their path.
var bodies = map[string]string{
	"tags":                              `{"Value":"t","Action":"Add"}`,
	"AddOrRemoveTagForMultipleMachines": `{"Value":"t","Action":"Add","MachineIds":["$WEB"]}`,
	"setDeviceValue":                    `{"DeviceValue":"High"}`,
	"*":                                 `{"deviceValue":"Low"}`,
	"runAntiVirusScan":                  `{"Comment":"x","ScanType":"Quick"}`,
	"StopAndQuarantineFile":             `{"Comment":"x","Sha1":"87662bc3d60e4200ceaf7aae249d1c343f4b83c9"}`,
	"runliveresponse":                   `{"Comment":"x","Commands":[{"type":"GetFile","params":[{"key":"Path","value":"/x"}]}]}`,
}

// address fills in the variables of a route's path.
func address(path, machine, action, index string) string {
	of := machine
	if strings.HasPrefix(path, "machineactions/") {
		of = action
	}
	path = strings.Replace(path, "findbyip(*)", "findbyip(ip='192.0.2.10',timestamp=2026-11-21T08:00:00Z)", 1)
	if path == "machines/findbytag" {
		path += "?tag=x"
	}
	return "/api/" + strings.ReplaceAll(strings.Replace(path, "/*", "/"+of, 1), "*", index)
}

// call sends a good request to a route.
func (h *house) call(method, path, token string, header ...string) *httptest.ResponseRecorder {
	h.t.Helper()
	var body string
	if method == http.MethodPost || method == http.MethodPatch {
		if body = bodies[path[strings.LastIndex(path, "/")+1:]]; body == "" {
			body = `{"Comment":"x"}`
		}
	}
	r := httptest.NewRequest(method, h.fill(address(path, "$WEB", "$A1", "0")), strings.NewReader(h.fill(body)))
	r.Header.Set("Content-Type", "application/json")
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+h.fill(token))
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.handler.ServeHTTP(w, r)
	return w
}

// furnished is a house with an action, so that there is one to ask about.
func furnished(t *testing.T) *house {
	h := newHouse(t)
	if w := h.call("POST", "machines/*/unrestrictCodeExecution", "$ALL"); w.Code != http.StatusCreated {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	return h
}

func codeOf(t testing.TB, body []byte) string {
	t.Helper()
	var answer struct{ Error struct{ Code string } }
	if err := json.Unmarshal(body, &answer); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	return answer.Error.Code
}

// TestMethods holds for every path of the table: what it does not do is a 405
// that says what it does, OPTIONS says the same, both to anybody; HEAD is GET
// without the body.
func TestMethods(t *testing.T) {
	h := furnished(t)
	allow := make(map[string][]string)
	for _, r := range mdeapi.Routes() {
		allow[r.Path] = append(allow[r.Path], r.Method)
	}
	for path, methods := range allow {
		if slices.Contains(methods, "GET") {
			methods = append(methods, "HEAD")
		}
		want := strings.Join(methods, ", ")
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE", "CONNECT", "OPTIONS", "PURGE", "get", "Post"} {
			for _, token := range []string{"", "$ALL"} {
				w := h.call(method, path, token)
				got := w.Header().Get("Allow")
				switch {
				case method == "OPTIONS":
					if w.Code != http.StatusNoContent || got != want || w.Body.Len() > 0 {
						t.Errorf("OPTIONS %s: %d, Allow: %s, %q", path, w.Code, got, w.Body)
					}
				case slices.Contains(methods, method):
					if w.Code == http.StatusMethodNotAllowed || got != "" || token == "" && w.Code != http.StatusUnauthorized {
						t.Errorf("%s %s: %d, Allow: %s", method, path, w.Code, got)
					}
				case w.Code != http.StatusMethodNotAllowed || got != want:
					t.Errorf("%s %s: %d, Allow: %s; want 405, Allow: %s", method, path, w.Code, got, want)
				case method == "HEAD" && w.Body.Len() > 0, method != "HEAD" && codeOf(t, w.Body.Bytes()) != "MethodNotAllowed":
					t.Errorf("%s %s: %s", method, path, w.Body)
				}
			}
		}
		if !slices.Contains(methods, "GET") {
			continue
		}
		for _, accept := range []string{"", "gzip", "gzip, identity;q=0", "deflate"} {
			get, head := h.call("GET", path, "$ALL", "Accept-Encoding", accept), h.call("HEAD", path, "$ALL", "Accept-Encoding", accept)
			get.Header().Del("Mise-Correlation-Id")
			head.Header().Del("Mise-Correlation-Id")
			if diff := gocmp.Diff(get.Header(), head.Header()); get.Code != head.Code || diff != "" {
				t.Errorf("HEAD %s: %d and not %d, -GET +HEAD:\n%s", path, head.Code, get.Code, diff)
			}
			if head.Body.Len() > 0 || fmt.Sprint(get.Body.Len()) != head.Header().Get("Content-Length") {
				t.Errorf("HEAD %s: %d bytes, of GET %d, announced %s", path, head.Body.Len(), get.Body.Len(), head.Header().Get("Content-Length"))
			}
		}
	}
}

// faults are tokens that allow nothing, with what they get.
var faults = []struct {
	what, token string
	status      int
	code        string
}{
	{"none, or one that cannot be read", "", 401, "Unauthorized"},
	{"expired", "$EXPIRED", 401, "Unauthorized"},
	{"of another tenant", "$OTHERTENANT", 401, "Unauthorized"},
	{"not signed", "$UNSIGNED", 401, "Unauthorized"},
	{"signed with another key", "$OTHERKEY", 401, "Unauthorized"},
	{"for another API (`aud`)", "$FOREIGN", 403, "Forbidden"},
	{"without one of the operation's permissions", "$NONE", 403, "Forbidden"},
}

const page = "../../docs/permissions.md"

// display names the variables of addresses for people.
var display = strings.NewReplacer("192.0.2.10", "{ip}", "2026-11-21T08:00:00Z", "{time}", "?tag=x", "?tag={tag}", "alerts/{machine}", "alerts/{alert}")

// TestAuthorization tries every route with every token: the bad ones, each
// permission alone, and all of them. What is refused leaves no trace; what is
// not gets past all checks. The page in the documentation says the same.
func TestAuthorization(t *testing.T) {
	h := furnished(t)
	alone := make(map[cordon.Permission]string)
	for i, p := range cordon.AllPermissions() {
		alone[p] = h.application(h.issuer, tenant, fmt.Sprintf("0e400000-0000-4000-8000-%012d", i), string(p), p)
	}
	var rows strings.Builder
	for _, r := range mdeapi.Routes() {
		answer := "not performed: 400 `OsPlatformNotSupported`"
		try := func(method, what, token string, status int, code string) {
			before := h.trace()
			w := h.call(method, r.Path, token)
			switch {
			case status == 0 && (w.Code == r.Status || strings.Contains(w.Body.String(), "ActiveRequestAlreadyExists")):
				answer = fmt.Sprint(r.Status)
			case status == 0 && r.Path == "alerts/*":
				if answer = "there is none: 404 `ResourceNotFound`"; w.Code != 404 || method != "HEAD" && codeOf(t, w.Body.Bytes()) != "ResourceNotFound" {
					t.Errorf("%s %s, token: %s: %d %s", method, r.Path, what, w.Code, w.Body)
				}
			case status == 0:
				if w.Code != 400 || method != "HEAD" && codeOf(t, w.Body.Bytes()) != "OsPlatformNotSupported" {
					t.Errorf("%s %s, token: %s: %d %s", method, r.Path, what, w.Code, w.Body)
				}
			case w.Code != status || method != "HEAD" && codeOf(t, w.Body.Bytes()) != code:
				t.Errorf("%s %s, token: %s: %d %s, want %d %s", method, r.Path, what, w.Code, w.Body, status, code)
			case h.trace() != before:
				t.Errorf("%s %s, token: %s: refused, but left a trace", method, r.Path, what)
			}
		}
		methods := []string{r.Method}
		if r.Method == "GET" {
			methods = append(methods, "HEAD")
		}
		for _, method := range methods {
			for _, f := range faults {
				try(method, f.what, f.token, f.status, f.code)
			}
			for _, p := range cordon.AllPermissions() {
				if slices.Contains(r.Operation, p) {
					try(method, string(p), alone[p], 0, "")
				} else {
					try(method, string(p), alone[p], 403, "Forbidden")
				}
			}
			try(method, "everything", "$ALL", 0, "")
		}
		var permissions []string
		for _, p := range r.Operation {
			permissions = append(permissions, "`"+string(p)+"`")
		}
		fmt.Fprintf(&rows, "| `%s %s` | %s | %s |\n", r.Method, display.Replace(address(r.Path, "{machine}", "{action}", "{n}")), strings.Join(permissions, ", "), answer)
	}
	var tokens strings.Builder
	for _, f := range faults {
		fmt.Fprintf(&tokens, "| %s | %d `%s` |\n", f.what, f.status, f.code)
	}
	want := fmt.Sprintf(`# Permissions

<!-- Written by "go test ./internal/mdeapi -run TestAuthorization -update" from the table that the server checks by. -->

Any one of an operation's permissions allows it, in a token of this server or of an issuer that it is configured to accept. Addresses match in any case, with and without `+"`/v1.0`"+`.
HEAD needs what GET needs. OPTIONS, and the refusal of a wrong method or address, need no token.

| operation | any one of | answer |
|---|---|---|
%s
A call with another token gets no further:

| the token is | answer |
|---|---|
%s
Nothing is written before these checks have passed. An operation that Cordon does not perform makes them all the same, looks for the
machine (404 `+"`ResourceNotFound`"+`) and reads the body, and only then says that the machine's platform is not supported.
`, rows.String(), tokens.String())
	// The rest of the page is the other API's.
	got, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if _, rest, ok := strings.Cut(string(got), "\n## "); ok {
		want += "\n## " + rest
	}
	golden.Compare(t, page, want)
}
