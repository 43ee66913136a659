package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cordon-project/cordon/internal/testkit/desktop"
)

// Who is logged in is told of a restriction, of what it refuses, and of its end:
// on the desktop, or on the terminal; once, and over a restart of the agent.
func TestNotices(t *testing.T) {
	confined(t, ordinary, func(t *testing.T) {
		const user = 1 // daemon, whom every machine has
		bus := desktop.Start(t)
		t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", bus.Address)
		tty := desktop.OpenTerminal(t, user, true, false)
		bus.Login(desktop.Session{UID: user, Type: "tty", TTY: tty.Name})
		bus.Login(desktop.Session{UID: 0, Type: "wayland"})

		w := newWorld(t)
		w.startServer()
		w.flags = []string{"--notice-contact", "security@example.org"}
		w.startAgent()
		m := w.theMachine()
		restrict := func() {
			t.Helper()
			w.succeeds(m, "restrictCodeExecution")
		}
		shown := func(summary, body string) {
			t.Helper()
			if n := bus.Await(); n.UID != 0 || n.Summary != summary || !strings.Contains(n.Body, body) {
				t.Fatalf("shown: %+v, want %q and %q\n%s", n, summary, body, w.logOf("agent"))
			}
		}
		restrict()
		shown("This machine is restricted", "Contact: security@example.org")
		tty.Await("Cordon: This machine is restricted. ")

		const evil = "evil\x1b[2J<b>\n"
		program, err := os.ReadFile(filepath.Join(w.scope, "untrusted"))
		if err == nil {
			err = os.WriteFile(filepath.Join(w.scope, evil), append(program, 1), 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			for _, name := range []string{"untrusted", evil} {
				if w.runs(name) {
					t.Fatalf("%q ran", name)
				}
			}
		}
		shown("A program was refused", `"`+w.scope+`/untrusted" is not trusted`)
		shown("A program was refused", `"`+w.scope+`/evil\x1b[2J&lt;b&gt;\n" is not trusted`)
		tty.Await(w.scope + `/evil\x1b[2J<b>\n" is not trusted`)

		// A restart is no new restriction.
		w.agent.stop(t)
		w.startAgent()
		w.until("the agent enforces again", func() bool { return !w.runs("untrusted") })
		shown("A program was refused", "/untrusted")
		w.succeeds(m, "unrestrictCodeExecution")
		shown("This machine is not restricted any more", "as they did before")
		text := tty.Await("not restricted any more")
		for what, want := range map[string]int{"is restricted.": 1, "/untrusted": 2, "/evil": 1, "canary": 0} {
			if n := strings.Count(text, what); n != want {
				t.Errorf("%q was told %d times: %s", what, n, text)
			}
		}

		w.agent.stop(t)
		w.flags = []string{"--notices", "off"}
		w.startAgent()
		restrict()
		if w.runs("untrusted") {
			t.Error("it ran")
		}
		w.agent.stop(t)
		select {
		case n := <-bus.Shown:
			t.Errorf("with --notices off: %+v", n)
		default:
		}
	})
}
