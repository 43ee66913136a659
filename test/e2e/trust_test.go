package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A file that is trusted by its SHA-256 runs on the restricted machine at once,
// also after a restart without a server, and no more when that is taken back.
// Meanwhile nothing else ever runs.
func TestTrustBySHA256(t *testing.T) {
	confined(t, 5*time.Minute, func(t *testing.T) {
		w := newWorld(t)
		w.startServer()
		w.startAgent()
		m := w.theMachine()
		if a := w.ended(w.order(m, "restrictCodeExecution").ID); a.Status != "Succeeded" {
			t.Fatalf("got %+v", a)
		}
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
