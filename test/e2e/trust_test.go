package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A file that is trusted for a device group runs on the restricted machine as
// long as that is in the group, and nowhere else; also after a restart of the
// server, and of both while the agent is alone.
func TestTrustForAGroup(t *testing.T) {
	confined(t, ordinary, func(t *testing.T) {
		w := newWorld(t)
		w.startServer()
		w.startAgent()
		m := w.theMachine()
		program, err := os.ReadFile(filepath.Join(w.scope, "untrusted"))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(w.scope, "evil"), append(program, 1), 0o755); err != nil {
			t.Fatal(err)
		}
		restricted := false
		until := func(what string, runs bool) {
			t.Helper()
			w.until(what, func() bool {
				if restricted && w.runs("evil") {
					t.Error("a program that nobody trusts ran")
				}
				return w.runs("untrusted") == runs
			})
		}
		sum := sha256.Sum256(program)
		do := func(args ...string) {
			t.Helper()
			if _, errs, code := w.cordon(args...); code != 0 {
				t.Fatalf("%v (%d): %s", args, code, errs)
			}
		}
		version := func() (version uint64) {
			var state struct {
				Observed struct{ Policy struct{ Version uint64 } }
			}
			w.call("GET", "/cordon/v1/machines/"+m.ID, "", &state)
			return state.Observed.Policy.Version
		}
		do("groups", "create", "web servers")
		do("groups", "create", "desktops")
		do("trust", "add", hex.EncodeToString(sum[:]), "--group", "web servers", "--comment", "e2e")
		w.succeeds(m, "restrictCodeExecution")
		restricted = true
		w.mustBe(true) // it is in no group
		do("groups", "assign", "desktops", m.ComputerDNSName)
		w.mustBe(true)
		do("groups", "assign", "Web Servers", m.ID)
		until("a machine that came into the group runs it", true)
		var shown struct {
			RBACGroupName string
			RBACGroupID   int
		}
		if w.call("GET", "/api/machines/"+m.ID, "", &shown); shown.RBACGroupName != "web servers" || shown.RBACGroupID != 1 {
			t.Errorf("%+v", shown)
		}
		w.until("it says so", func() bool { return version() > 0 })
		first := version()

		w.server.stop(t)
		w.agent.stop(t)
		w.startAgent()
		w.until("the agent enforces without a server", func() bool { return !w.runs("evil") })
		until("the agent alone lets it run", true)
		w.startServer()
		w.until("it is the same policy", func() bool { return version() == first })
		if !w.runs("untrusted") {
			t.Error("a restart of the server took the trust away")
		}

		// It learns that it has left when it comes back.
		w.agent.stop(t)
		do("groups", "unassign", "web servers", m.ID)
		w.startAgent()
		w.until("the agent enforces again", func() bool { return !w.runs("evil") })
		until("a machine that left the group does not run it", false)
		do("groups", "assign", "web servers", m.ID)
		until("it came back", true)
		do("groups", "assign", "desktops", m.ID)
		until("it moved to another group", false)
		w.until("with a newer policy each time", func() bool { return version() >= first+3 })
		w.mustBe(true)
		if _, errs, code := w.cordon("groups", "delete", "web servers"); code != 5 {
			t.Errorf("a group that has rules was deleted (%d): %s", code, errs)
		}
		if out, errs, code := w.cordon("audit", "--kind", "group,trust", "--top", "0"); code != 0 || strings.Count(out, "\n") != 1+2+1+5 || !strings.Contains(out, `into group "desktops", out of "web servers"`) {
			t.Errorf("%d: %s\n%s", code, errs, out)
		}
	})
}

// A file that is trusted by its SHA-256 runs on the restricted machine at once,
// also after a restart without a server, and no more when that is taken back.
// Meanwhile nothing else ever runs.
func TestTrustBySHA256(t *testing.T) {
	confined(t, ordinary, func(t *testing.T) {
		w := newWorld(t)
		m := w.restricted()
		program, err := os.ReadFile(filepath.Join(w.scope, "untrusted"))
		if err == nil {
			err = os.WriteFile(filepath.Join(w.scope, "evil"), append(program, 1), 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(program)
		rule := func(verb string, args ...string) {
			t.Helper()
			args = append([]string{"trust", verb, hex.EncodeToString(sum[:]), "--comment", "e2e"}, args...)
			if _, errs, code := w.cordon(args...); code != 0 {
				t.Fatalf("%v (%d): %s", args, code, errs)
			}
		}
		until := func(what string, runs bool) {
			t.Helper()
			w.until(what, func() bool {
				if w.runs("evil") {
					t.Error("a program that nobody trusts ran")
				}
				return w.runs("untrusted") == runs
			})
		}
		until("nobody trusts it yet", false)
		rule("add", "--machine", m.ComputerDNSName)
		until("it is trusted", true)
		w.server.stop(t)
		w.agent.stop(t)
		w.startAgent()
		w.until("the agent enforces without a server", func() bool { return !w.runs("evil") })
		until("it is trusted after a restart", true)
		w.startServer()
		rule("remove", "--machine", m.ComputerDNSName)
		until("it is not trusted any more", false)
		rule("add", "--all")
		until("it is trusted on all machines", true)
		w.mustBe(false)
		rule("remove", "--all")
		until("it is not trusted in the end", false)
	})
}
