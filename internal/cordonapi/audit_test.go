package cordonapi_test

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/cordonapi"
)

func TestAudit(t *testing.T) {
	w := newWorld(t)
	w.request(cordon.RestrictCodeExecution) // is in the log of the action
	m, err := w.store.Machine(t.Context(), w.machine)
	if err != nil {
		t.Fatal(err)
	}
	w.NewSecret = func() string { return "s3cr3t-s3cr3t-s3cr3t-s3cr3t-s3cr3t" }
	steps := []func() error{
		func() error { _, err := w.CreateGroup(t.Context(), w.caller, "se\u202ervers"); return err },
		func() error {
			_, err := w.Trust(t.Context(), w.caller, cordon.TrustRule{Scope: cordon.TrustAll, Comment: "ours\nforged"}, false)
			return err
		},
		func() error { _, _, err := w.Release(t.Context(), w.caller, m, time.Hour, "locked out"); return err },
		func() error {
			_, _, err := w.CreateApplication(t.Context(), w.caller, cordon.ApplicationRequest{DisplayName: "new", Permissions: cordon.AllPermissions()})
			return err
		},
	}
	for _, step := range steps {
		w.now = w.now.Add(time.Minute)
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	read := func(query string) (log cordonapi.Log, text string) {
		t.Helper()
		r := w.get("/cordon/v1/audit" + query)
		text = body(t, r)
		if err := json.Unmarshal([]byte(text), &log); err != nil || r.StatusCode != http.StatusOK {
			t.Errorf("%s: %s %s", query, r.Status, text)
		}
		return log, text
	}
	kinds := func(query string, more bool, want ...cordon.AuditKind) cordonapi.Log {
		t.Helper()
		log, _ := read(query)
		var got []cordon.AuditKind
		for _, e := range log.Value {
			got = append(got, e.Kind)
		}
		if d := cmp.Diff(want, got); d != "" || (log.Next != 0) != more {
			t.Errorf("%s: next %d (-want +got):\n%s", query, log.Next, d)
		}
		return log
	}
	likeFile(t, "audit.json", w.get("/cordon/v1/audit?since=2026-11-21T12:01:00Z"))
	if _, text := read(""); strings.Contains(text, "s3cr3t") || strings.Contains(text, "eyJ") {
		t.Errorf("the log has secrets: %s", text)
	}
	kinds("", false, "application-created", "release", "trust", "group", "enrolled")
	kinds("?top=5", false, "application-created", "release", "trust", "group", "enrolled")
	kinds("?since=2026-11-21T12:03:00Z", false, "application-created", "release")
	kinds("?since=2026-11-21T13:02:00.0000001%2B01:00", false, "application-created", "release")
	kinds("?since=2027-01-01T00:00:00Z", false)
	kinds("?kind=trust&kind=group", false, "trust", "group")
	kinds("?kind=report", false)
	first := kinds("?top=2", true, "application-created", "release")
	second := kinds("?top=2&before="+strconv.FormatInt(first.Next, 10), true, "trust", "group")
	kinds("?top=2&before="+strconv.FormatInt(second.Next, 10), false, "enrolled")

	for _, bad := range []string{"top=0", "top=1001", "top=-1", "top=x", "top=99999999999999999999", "since=yesterday", "since=", "since=2026-11-21", "kind=created", "kind=", "kind=TRUST", "before=0", "before=-1",
		"before=x", "before=2", "before=4711", "$top=1", "until=2026-11-21T12:00:00Z", "top=1&top=2", "%zz", "a;b", "since=2026-11-21T12:01:00Z&since=2026-11-21T12:01:00Z"} {
		if r := w.get("/cordon/v1/audit?" + bad); r.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %s %s", bad, r.Status, body(t, r))
		}
	}
	w.caller.Permissions = []cordon.Permission{cordon.MachineReadWriteAll, cordon.Administer, cordon.ApplicationReadWriteAll}
	if r := w.get("/cordon/v1/audit"); r.StatusCode != http.StatusForbidden || !strings.Contains(body(t, r), "AuditLog.Read.All") {
		t.Errorf("without the permission: %s", r.Status)
	}
}
