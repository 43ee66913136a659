package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Before anybody restricts a machine it says what that would hit: what runs, and
// what was started. Nothing is refused meanwhile.
func TestPreview(t *testing.T) {
	confined(t, ordinary, func(t *testing.T) {
		w := newWorld(t)
		w.audit = true
		sleep, err := os.ReadFile("/bin/sleep")
		if err == nil {
			err = os.WriteFile(filepath.Join(w.scope, "daemon"), append(sleep, 0), 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
		daemon := exec.Command(filepath.Join(w.scope, "daemon"), "1000")
		if err := daemon.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() {
			_ = daemon.Process.Kill() // it would sleep on
			_ = daemon.Wait()         // it was killed
		}()
		w.startServer()
		w.startAgent()
		m := w.theMachine()
		type told struct {
			Files []struct {
				Path, SHA256 string
				Count        uint64
			}
		}
		type preview struct{ Running, Audited told }
		count := func(in told, name string) (n uint64) {
			for _, f := range in.Files {
				if f.Path == filepath.Join(w.scope, name) && len(f.SHA256) == 64 {
					n += f.Count
				}
			}
			return n
		}
		w.until("the machine audits", func() bool { // nobody is in a hurry for a first trust set
			var state struct{ Observed struct{ Mode string } }
			out, _, code := w.cordon("agent", "status", "--json", "--data-dir", w.agentDir())
			return code == 0 && json.Unmarshal([]byte(out), &state) == nil && state.Observed.Mode == "audit"
		})
		for range 3 {
			if !w.runs("untrusted") || !w.runs("trusted") {
				t.Error("refused although nobody restricted")
			}
		}
		w.until("the machine shows it", func() bool {
			var p preview
			out, errs, code := w.cordon("agent", "preview", "--json", "--data-dir", w.agentDir())
			if code != 0 || json.Unmarshal([]byte(out), &p) != nil {
				t.Fatalf("agent preview (%d): %s", code, errs)
			}
			return count(p.Running, "daemon") == 1 && count(p.Running, "untrusted") == 0 && count(p.Audited, "untrusted") == 3 && count(p.Audited, "trusted") == 0
		})
		w.until("the server shows it", func() bool {
			var p preview
			status, _ := w.call("GET", "/cordon/v1/machines/"+m.ID+"/preview", "", &p)
			return status == 200 && count(p.Running, "daemon") == 1 && count(p.Audited, "untrusted") == 3
		})
		w.succeeds(m, "restrictCodeExecution")
		w.mustBe(true)
		w.succeeds(m, "unrestrictCodeExecution")
		w.mustBe(false)
	})
}
