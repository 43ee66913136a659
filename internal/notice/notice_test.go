package notice

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon/internal/testkit/desktop"
	"github.com/cordon-project/cordon/internal/testkit/locked"
)

// The test program is its own notifier and messenger, as cordon is.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "agent" {
		var err error
		switch os.Args[2] {
		case NotifierArg:
			err = Notifier(slog.New(slog.NewTextHandler(os.Stderr, nil)))
		case MessengerArg:
			err = Messenger()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func start(t *testing.T, contact string) (*Notices, *locked.Buffer) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a messenger cannot become another user: this is not root")
	}
	said := new(locked.Buffer) // what an agent writes
	n, err := Start(Config{Contact: contact, Now: time.Now, Log: slog.New(slog.NewTextHandler(said, nil))}, "/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n, said
}

// daemon is the number of a user that all machines have (a message bus wants to
// know its users).
const daemon = 1

// Everybody is told in the way that their session has, as themselves.
func TestNotices(t *testing.T) {
	bus := desktop.Start(t)
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", bus.Address)
	of0, of1, of2 := desktop.OpenTerminal(t, 0, false, false), desktop.OpenTerminal(t, 54321, true, false), desktop.OpenTerminal(t, 54321, true, true)
	other := desktop.OpenTerminal(t, 0, true, false)
	bus.Login(desktop.Session{UID: daemon, Type: "wayland"})
	bus.Login(desktop.Session{UID: 54321, Type: "tty", TTY: of2.Name}) // stopped, and first
	bus.Login(desktop.Session{UID: 54321, Type: "tty", TTY: other.Name})
	bus.Login(desktop.Session{UID: 54321, Type: "tty", TTY: of1.Name})
	bus.Login(desktop.Session{UID: 0, Type: "tty", TTY: of0.Name})

	n, said := start(t, "ask <us>")
	n.Changed(true)
	if got := bus.Await(); got.UID != daemon || got.App != "Cordon" || got.Summary != "This machine is restricted" || got.Urgency != critical || !strings.HasSuffix(got.Body, " Contact: ask &lt;us&gt;") {
		t.Errorf("shown: %+v", got)
	}
	of0.Await("Contact: ask <us>")
	of1.Await("Contact: ask <us>")

	const evil = "/home/ü\x1b[2J<b>"
	n.Refused(evil)
	n.Refused(evil)
	n.Changed(false)
	if got := bus.Await(); got.UID != daemon || !strings.Contains(got.Body, `"/home/ü\x1b[2J&lt;b&gt;" is not trusted`) || got.Urgency != normal {
		t.Errorf("shown: %+v", got)
	}
	if got := bus.Await(); got.Summary != "This machine is not restricted any more" {
		t.Errorf("shown: %+v", got)
	}
	if got := of0.Await("any more. "); !strings.Contains(got, `"/home/\u00fc\x1b[2J<b>" is not trusted`) || strings.Count(got, "A program was refused") != 1 {
		t.Errorf("root's terminal: %q", got)
	}
	if got := of1.Await("any more. "); !strings.Contains(got, `"/home/ü\x1b[2J<b>" is not trusted`) {
		t.Errorf("the user's terminal: %q", got)
	}
	select {
	case text := <-other.Shows():
		t.Errorf("a terminal of somebody else shows %q", text)
	default:
	}
	if said.String() != "" {
		t.Errorf("the log: %s", said)
	}
}

// Whoever's desktop hangs or terminal stands still: others are told, and so is
// what comes after.
func TestNobodyHoldsUpOthers(t *testing.T) {
	bus := desktop.Start(t)
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", bus.Address)
	hangs := desktop.Dir(t)
	l, err := net.Listen("unix", filepath.Join(hangs, "bus")) // takes connections and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }() // the test is over
	if err := os.Chmod(filepath.Join(hangs, "bus"), 0o666); err != nil {
		t.Fatal(err)
	}
	stopped, tty := desktop.OpenTerminal(t, daemon, false, true), desktop.OpenTerminal(t, 0, false, false)
	bus.Login(desktop.Session{UID: daemon, Type: "x11", Runtime: hangs})
	bus.Login(desktop.Session{UID: daemon, Type: "tty", TTY: stopped.Name, Runtime: hangs})
	bus.Login(desktop.Session{UID: 0, Type: "tty", TTY: tty.Name})
	n, said := start(t, "")
	n.Changed(true)
	unprivileged(t, l) // while it hangs: it ends when its time is over
	tty.Await("is restricted")
	n.Changed(false)
	tty.Await("any more")
	if said.String() != "" {
		t.Errorf("the log: %s", said)
	}
}

// What cannot be told is dropped and counted; nobody waits for it.
func TestNoticesAreDropped(t *testing.T) {
	n, said := start(t, "")
	stop(t, n.PID())
	for range 1000 {
		n.Changed(true)
	}
	if !strings.Contains(said.String(), "dropped=") {
		t.Fatal("a pipe took a thousand lines")
	}
	if err := n.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = n.cmd.Wait() // it was killed
	n.Refused("/x")
	if text := said.String(); !strings.Contains(text, `summary="A program was refused" err="broken pipe"`) {
		t.Errorf("the log ends: %s", text[max(0, len(text)-500):])
	}
}

func TestOff(t *testing.T) {
	var n *Notices
	n.Changed(true)
	n.Refused("/x")
	if err := n.Close(); err != nil {
		t.Error(err)
	}
}

func TestNotByHand(t *testing.T) {
	for _, arg := range []string{NotifierArg, MessengerArg} {
		out, err := exec.Command("/proc/self/exe", "agent", arg).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "not by hand") {
			t.Errorf("%s: %v, %s", arg, err, out)
		}
	}
}

func TestWriteOnlyToTerminals(t *testing.T) {
	for _, name := range []string{"null", "../tmp", "", "pts/none", "pts"} {
		if err := write(name, freed("")); err == nil {
			t.Errorf("wrote to %q", name)
		}
	}
}

// stop keeps a child of this process from running.
func stop(t *testing.T, pid int) {
	t.Helper()
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Wait4(pid, nil, unix.WUNTRACED, nil); err != nil { // until then its threads may go on
		t.Fatal(err)
	}
}

// unprivileged checks who it is that connects: nobody but the user, with nothing
// of the notifier's.
func unprivileged(t *testing.T, l net.Listener) {
	t.Helper()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() }) // the test is over
	f, err := conn.(*net.UnixConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }() // a copy
	cred, err := unix.GetsockoptUcred(int(f.Fd()), unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		t.Fatal(err)
	}
	proc := fmt.Sprintf("/proc/%d", cred.Pid)
	status, err := os.ReadFile(proc + "/status")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Uid:\t1\t1\t1\t1\n", "Gid:\t65534\t65534\t65534\t65534\n", "Groups:\t \n", "CapPrm:\t0000000000000000\n", "CapEff:\t0000000000000000\n", "CapAmb:\t0000000000000000\n"} {
		if !strings.Contains(string(status), want) {
			t.Errorf("the messenger is not only the user, %q is not in:\n%s", want, status)
		}
	}
	for fd := range 16 {
		if to, err := os.Readlink(fmt.Sprintf("%s/fd/%d", proc, fd)); err == nil && fd > 2 && strings.HasPrefix(to, "pipe:") {
			t.Errorf("the messenger has the notifier's pipe: descriptor %d, %s", fd, to)
		}
	}
	if env, err := os.ReadFile(proc + "/environ"); err != nil || len(env) > 0 {
		t.Errorf("the messenger's environment: %q, %v", env, err)
	}
}
