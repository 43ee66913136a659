package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A full disk keeps nobody from freeing a machine, nor from restricting it, over
// restarts of the agent.
func TestFullDisk(t *testing.T) {
	confined(t, 5*time.Minute, func(t *testing.T) {
		w := newWorld(t)
		w.startServer()
		if err := os.Mkdir(w.agentDir(), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("cordon-e2e", w.agentDir(), "tmpfs", 0, "mode=0700,size=256m"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(w.agentDir(), unix.MNT_DETACH) })
		w.startAgent()
		m := w.theMachine()
		w.succeeds(m, "restrictCodeExecution")
		fill := func() {
			f, err := os.OpenFile(filepath.Join(w.agentDir(), "filler"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			for size := 1 << 20; size > 0; {
				if _, err := f.Write(make([]byte, size)); errors.Is(err, unix.ENOSPC) {
					size /= 2
				} else if err != nil {
					t.Fatal(err)
				}
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			fill()
			w.succeeds(m, "unrestrictCodeExecution")
			w.mustBe(false)
			w.agent.kill()
			fill()
			w.startAgent()
			w.until("the agent is back", func() bool {
				out, _, code := w.cordon("agent", "status", "--data-dir", w.agentDir())
				return code == 0 && strings.Contains(out, m.ID)
			})
			w.mustBe(false)
			fill()
			w.succeeds(m, "restrictCodeExecution")
			w.mustBe(true)
		}
		if err := os.Remove(filepath.Join(w.agentDir(), "filler")); err != nil { // what was refused is stored at the end
			t.Fatal(err)
		}
	})
}
