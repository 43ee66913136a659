package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A machine without a network is freed with a typed code, once, and the server
// hears of it; only newer orders hold after that.
func TestBreakGlass(t *testing.T) {
	confined(t, ordinary, func(t *testing.T) {
		w := newWorld(t)
		m := w.restricted()
		file := filepath.Join(w.dir, "release.jws")
		out, errs, code := w.cordon("break-glass", m.ID, "--for", "1h", "--comment", "locked out", "--json", "-o", file)
		var release struct {
			ID   string
			Code []string
		}
		if err := json.Unmarshal([]byte(out), &release); err != nil || code != 0 {
			t.Fatalf("break-glass (%d, %v): %s", code, err, errs)
		}
		w.agent.stop(t)
		late := w.order(m, "unrestrictCodeExecution") // generation 2, which the release does not know of
		w.server.stop(t)
		w.startAgent()
		w.until("the agent enforces without a server", func() bool { return !w.runs("untrusted") })

		apply := func(code []string) (string, int) {
			cmd := exec.Command(os.Getenv(binaryVar), "agent", "apply", "--data-dir", w.agentDir(), "--code")
			cmd.Stdin = strings.NewReader(strings.Join(code, "\n") + "\n")
			out, _ := cmd.CombinedOutput() // the exit code says it
			return string(out), cmd.ProcessState.ExitCode()
		}
		mistyped := append([]string{}, release.Code...)
		wrong := "0"
		if strings.HasPrefix(mistyped[2], wrong) {
			wrong = "1"
		}
		mistyped[2] = wrong + mistyped[2][1:]
		if out, code := apply(mistyped); code == 0 || !strings.Contains(out, "line 3 of the code is mistyped") {
			t.Errorf("mistyped (%d): %s", code, out)
		}
		w.mustBe(true)
		if out, code := apply(release.Code); code != 0 {
			t.Fatalf("the code (%d): %s", code, out)
		}
		w.mustBe(false)
		if _, errs, code := w.cordon("agent", "apply", "--data-dir", w.agentDir(), file); code != 7 || !strings.Contains(errs, "used already") {
			t.Errorf("a second time (%d): %s", code, errs)
		}
		w.startServer()
		w.until("the server hears of it", func() bool {
			_, log := w.call("GET", "/cordon/v1/releases/"+release.ID, "", nil)
			return strings.Contains(log, `"kind":"released"`)
		})
		if a := w.ended(late.ID); a.Status != "Succeeded" {
			t.Errorf("a newer order: %+v", a)
		}
		w.succeeds(m, "restrictCodeExecution")
		if _, errs, code := w.cordon("agent", "apply", "--data-dir", w.agentDir(), file); code != 7 || !strings.Contains(errs, "newer than what this release frees from") {
			t.Errorf("after a newer order (%d): %s", code, errs)
		}
		w.mustBe(true)
	})
}
