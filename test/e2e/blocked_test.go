package e2e

import (
	"os"
	"path/filepath"
	"testing"
)

// What was refused, and nothing else, reaches the server with exact counts, and survives a restart of
// both; a name that an attacker chose is escaped on its way.
func TestBlocked(t *testing.T) {
	confined(t, ordinary, func(t *testing.T) {
		w := newWorld(t)
		m := w.restricted()
		const evil = "evil\x1b[2J\n"
		program, err := os.ReadFile(filepath.Join(w.scope, "untrusted"))
		if err == nil {
			err = os.WriteFile(filepath.Join(w.scope, evil), append(program, 1), 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
		type file struct {
			Path, SHA256 string
			Count        uint64
		}
		want := map[string]uint64{}
		check := func(what string) {
			t.Helper()
			var told struct {
				Total, Others uint64
				Files         []file
			}
			w.until(what, func() bool {
				status, _ := w.call("GET", "/cordon/v1/machines/"+m.ID+"/blocked", "", &told)
				got, sum := map[string]uint64{}, told.Others
				for _, f := range told.Files {
					sum += f.Count
					if len(f.SHA256) == 64 {
						got[f.Path] += f.Count
					}
				}
				// Cordon's own canaries are not among them.
				return status == 200 && len(told.Files) == 2 && told.Total == want["untrusted"]+want[evil] && sum == told.Total && got[w.scope+"/untrusted"] == want["untrusted"] && got[w.scope+`/evil\x1b[2J\n`] == want[evil]
			})
		}
		refuse := func(name string, n int) {
			for range n {
				if w.runs(name) {
					t.Fatal("it ran")
				}
			}
			want[name] += uint64(n)
		}
		refuse("untrusted", 30)
		refuse(evil, 3)
		check("the server knows what was refused")
		w.server.stop(t)
		refuse("untrusted", 5)
		w.agent.stop(t)
		w.startAgent()
		w.until("the agent enforces again", func() bool {
			ran := w.runs("untrusted")
			if !ran {
				want["untrusted"]++
			}
			return !ran
		})
		w.startServer()
		check("the server knows the rest")
	})
}
