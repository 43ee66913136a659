package mdeapi_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// documented are all error codes of Defender (contract 3.2; "429" is what it
// sends where the documentation says TooManyRequests): either a request
// that gets it here, after something has happened, or why none can.
var documented = []struct {
	status       int
	code         string
	happens      string
	request, why string
}{
	{status: 400, code: "BadRequest", request: "GET /api/machineactions/x"},
	{status: 400, code: "ODataError", request: "GET /api/machineactions?$filter=colour+eq+'red'"},
	{status: 400, code: "InvalidInput", request: `POST /api/machines/$WEB/isolate {"Comment":"x","IsolationType":"Half"}`},
	{status: 400, code: "InvalidRequestBody", request: `POST /api/machines/$WEB/restrictCodeExecution {"comment":"x"}`},
	{status: 400, code: "InvalidHashValue", request: `POST /api/machines/$WEB/StopAndQuarantineFile {"Comment":"x","Sha1":"x"}`},
	{status: 400, code: "InvalidDomainName", why: "no operation that is served takes a domain name"},
	{status: 400, code: "InvalidIpAddress", request: "GET /api/machines/findbyip(ip='x',timestamp=2026-11-21T20:06:52Z)"},
	{status: 400, code: "InvalidUrl", why: "no operation that is served takes a URL"},
	{status: 400, code: "MaximumBatchSizeExceeded", request: `POST /api/machines/AddOrRemoveTagForMultipleMachines {"Value":"x","Action":"Add","MachineIds":[$IDS501]}`},
	{status: 400, code: "MissingRequiredParameter", request: `POST /api/machines/$WEB/restrictCodeExecution {}`},
	{status: 400, code: "OsPlatformNotSupported", request: `POST /api/machines/$WINDOWS/restrictCodeExecution {"Comment":"x"}`},
	{status: 400, code: "ClientVersionNotSupported", happens: "agent $WEB 0.0.9", request: `POST /api/machines/$WEB/restrictCodeExecution {"Comment":"x"}`},
	{status: 400, code: "ActiveRequestAlreadyExists", request: `POST /api/machines/$DB/restrictCodeExecution {"Comment":"x"}`}, // the second time
	{status: 401, code: "Unauthorized", request: "GET /api/machines without a token"},
	{status: 403, code: "Forbidden", request: `POST /api/machines/$WEB/restrictCodeExecution {"Comment":"x"} with $READ`},
	{status: 403, code: "DisabledFeature", why: "there is no feature that a tenant can turn off"},
	{status: 403, code: "DisallowedOperation", why: "what Defender disallows by device group is not performed, and there are no groups"},
	{status: 404, code: "NotFound", request: "GET /api/nothing"},
	{status: 404, code: "ResourceNotFound", request: "GET /api/machines/123123123"},
	{status: 429, code: "429", happens: "break by-limit", request: "GET /api/machineactions/$A1"},
	{status: 500, code: "InternalServerError", happens: "break internally", request: "GET /api/machineactions/$A1"},
}

// beyond are the codes that Defender's table lacks: HTTP's own, and the empty
// one of its OData framework.
var beyond = []string{"MethodNotAllowed", "ServiceUnavailable", ""}

var requestLine = regexp.MustCompile(`^(\S+) (\S+)(?: (\{.*\}))?(?: with(?:(out a token)| (\S+)))?$`)

// TestDocumentedErrors gets every code that Defender documents, or holds that
// the server has no place that could give it.
func TestDocumentedErrors(t *testing.T) {
	h := newHouse(t)
	send := func(request string) (int, string) {
		m := requestLine.FindStringSubmatch(request)
		if m == nil {
			t.Fatalf("what is %q?", request)
		}
		raw := m[1] + " " + m[2] + " HTTP/1.1\nContent-Type: application/json\n"
		switch {
		case m[5] != "":
			raw += "Authorization: Bearer " + m[5] + "\n"
		case m[4] == "":
			raw += "Authorization: Bearer $ALL\n"
		}
		status, answer := h.exchange(raw + "\n" + m[3])
		_, body, _ := strings.Cut(string(answer), "\n\n")
		return status, body
	}
	if status, body := send(`POST /api/machines/$DB/restrictCodeExecution {"Comment":"x"}`); status != 201 {
		t.Fatalf("%d %s", status, body)
	}
	source := readAll(t, "*.go", func(name string) bool { return !strings.HasSuffix(name, "_test.go") })
	for _, d := range documented {
		if d.why != "" {
			if strings.Contains(source, strconv.Quote(d.code)) {
				t.Errorf("%s: it can occur, although %s", d.code, d.why)
			}
			continue
		}
		if d.happens != "" {
			h.happen(strings.Fields(d.happens))
		}
		if status, body := send(d.request); status != d.status || codeOf(t, []byte(body)) != d.code {
			t.Errorf("%s: %d %s", d.request, status, body)
		}
	}
}

var codeOnWire = regexp.MustCompile(`\{"error":\{"code":"(.*?)"`)

// TestNoOtherErrors: what the golden files have seen is documented.
func TestNoOtherErrors(t *testing.T) {
	known := slices.Clone(beyond)
	for _, d := range documented {
		known = append(known, d.code)
	}
	for _, m := range codeOnWire.FindAllStringSubmatch(readAll(t, "testdata/*.txtar", func(string) bool { return true }), -1) {
		if !slices.Contains(known, m[1]) {
			t.Errorf("the code %q is none of Defender's", m[1])
		}
	}
}

func readAll(t *testing.T, pattern string, wanted func(string) bool) string {
	t.Helper()
	names, err := filepath.Glob(pattern)
	if err != nil || len(names) == 0 {
		t.Fatalf("%s: %v", pattern, err)
	}
	var all strings.Builder
	for _, name := range names {
		if !wanted(name) {
			continue
		}
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(b)
	}
	return all.String()
}
