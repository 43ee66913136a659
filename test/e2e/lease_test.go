package e2e

import (
	"strings"
	"testing"
)

// A restriction with a lease falls back to counting when the server is gone, over
// a restart of the agent too, and is in force again when the server is back.
func TestLease(t *testing.T) {
	confined(t, ordinary, func(t *testing.T) {
		w := newWorld(t)
		w.startServer()
		w.startAgent()
		m := w.theMachine()
		out, errs, code := w.cordon("restrict", m.ID, "--comment", "suspicious", "--lease", "10s", "--wait")
		if code != 0 || !strings.Contains(out, "Lease       10s") {
			t.Fatalf("restrict (%d): %s%s", code, out, errs)
		}
		w.mustBe(true)
		w.server.stop(t)
		w.until("the lease lapses", func() bool { return w.runs("untrusted") })
		w.agent.stop(t)
		w.startAgent()
		status := func() string {
			out, _, _ := w.cordon("agent", "status", "--data-dir", w.agentDir())
			return out
		}
		w.until("the agent says so after a restart", func() bool { return strings.Contains(status(), "LAPSED") })
		w.mustBe(false)
		w.startServer()
		w.until("the restriction is in force again", func() bool { return !w.runs("untrusted") })
		id := strings.Fields(out)[1]
		var log string
		w.until("the server heard of both", func() bool {
			_, log = w.call("GET", "/cordon/v1/actions/"+id+"/evidence", "", nil)
			return strings.Count(log, `"kind":"lease"`) == 2
		})
		if !strings.Contains(log, "(with a lease of 10s)") || !strings.Contains(log, "fell back to mode audit") {
			t.Errorf("the log: %s", log)
		}
		if out, errs, code := w.cordon("machines", "show", m.ID); code != 0 || !strings.Contains(out, "Lease ") {
			t.Errorf("machines show (%d): %s%s", code, out, errs)
		}
		if out, errs, code := w.cordon("actions", "verify", id); code != 0 || !strings.Contains(out, "LeaseLapsed") {
			t.Errorf("actions verify (%d): %s%s", code, out, errs)
		}
	})
}
