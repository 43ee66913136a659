// Package desktop is what people sit at, for tests: terminals, and a message bus
// (a real dbus-daemon) on which a logind answers and a notification server shows.
package desktop

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// Session is a login of logind's. Class is "user" and State "active" if empty.
type Session struct {
	UID                     uint32
	Class, State, Type, TTY string
	Leader                  int
	Runtime                 string // the user's runtime directory; empty: [Bus.Runtime]
}

// Notification is what was shown.
type Notification struct {
	UID           uint32 // of who asked for it
	App           string
	Summary, Body string
	Urgency       byte
}

// Bus is a message bus that is the system's and everybody's session's at once.
type Bus struct {
	Address string            // for DBUS_SYSTEM_BUS_ADDRESS
	Runtime string            // a runtime directory whose bus this is
	Shown   chan Notification // what the notification server was asked to show

	t    testing.TB
	conn *dbus.Conn

	mu       sync.Mutex
	sessions []Session
}

const config = `<busconfig><type>session</type><listen>unix:path=%s</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/></policy></busconfig>`

// Start starts a bus that ends with the test, and skips the test where there is
// no dbus-daemon.
func Start(t testing.TB) *Bus {
	t.Helper()
	program, err := exec.LookPath("dbus-daemon")
	if errors.Is(err, exec.ErrNotFound) {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
	dir := Dir(t)
	b := &Bus{Address: "unix:path=" + dir + "/bus", Runtime: dir, Shown: make(chan Notification, 64), t: t}
	file := filepath.Join(dir, "bus.conf")
	if err := os.WriteFile(file, fmt.Appendf(nil, config, dir+"/bus"), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "--nofork", "--print-address=1", "--config-file="+file)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()         // it was killed
	})
	if _, err := out.Read(make([]byte, 1)); err != nil { // it listens when it says its address
		t.Fatal(err)
	}
	if b.conn, err = dbus.Connect(b.Address, dbus.WithAuth(dbus.AuthExternal(fmt.Sprint(os.Geteuid())))); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.conn.Close() }) // the bus goes too
	b.export(login{b}, "/org/freedesktop/login1", "org.freedesktop.login1.Manager")
	b.export(notifications{b}, "/org/freedesktop/Notifications", "org.freedesktop.Notifications")
	for _, name := range []string{"org.freedesktop.login1", "org.freedesktop.Notifications"} {
		if reply, err := b.conn.RequestName(name, dbus.NameFlagDoNotQueue); err != nil || reply != dbus.RequestNameReplyPrimaryOwner {
			t.Fatal(name, reply, err)
		}
	}
	return b
}

// Dir makes a directory that all users can reach, with a short name.
func Dir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "cd")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // the test is over
	return dir
}

func (b *Bus) export(v any, path dbus.ObjectPath, of string) {
	b.t.Helper()
	if err := b.conn.Export(v, path, of); err != nil {
		b.t.Fatal(err)
	}
}

// Login adds a session.
func (b *Bus) Login(s Session) {
	b.t.Helper()
	if s.Class == "" {
		s.Class = "user"
	}
	if s.State == "" {
		s.State = "active"
	}
	if s.Runtime == "" {
		s.Runtime = b.Runtime
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sessions = append(b.sessions, s)
	user := dbus.ObjectPath(fmt.Sprintf("/org/freedesktop/login1/user/_%d", s.UID))
	b.export(properties{"RuntimePath": dbus.MakeVariant(s.Runtime)}, user, "org.freedesktop.DBus.Properties")
	b.export(properties{
		"Class": dbus.MakeVariant(s.Class), "State": dbus.MakeVariant(s.State), "Type": dbus.MakeVariant(s.Type), "TTY": dbus.MakeVariant(s.TTY),
		"Leader": dbus.MakeVariant(uint32(s.Leader)),
		"User": dbus.MakeVariant(struct {
			UID  uint32
			Path dbus.ObjectPath
		}{s.UID, user}),
	}, sessionPath(len(b.sessions)-1), "org.freedesktop.DBus.Properties")
}

func sessionPath(n int) dbus.ObjectPath {
	return dbus.ObjectPath(fmt.Sprintf("/org/freedesktop/login1/session/_%d", n))
}

type properties map[string]dbus.Variant

// GetAll is org.freedesktop.DBus.Properties.GetAll.
func (p properties) GetAll(string) (map[string]dbus.Variant, *dbus.Error) { return p, nil }

type login struct{ *Bus }

type listed struct {
	ID   string
	UID  uint32
	User string
	Seat string
	Path dbus.ObjectPath
}

// ListSessions is org.freedesktop.login1.Manager.ListSessions. One of them has
// ended in the meantime.
func (l login) ListSessions() ([]listed, *dbus.Error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := []listed{{ID: "gone", Path: "/org/freedesktop/login1/session/gone"}}
	for i, s := range l.sessions {
		all = append(all, listed{fmt.Sprint(i), s.UID, fmt.Sprint("u", s.UID), "", sessionPath(i)})
	}
	return all, nil
}

type notifications struct{ *Bus }

// Notify is org.freedesktop.Notifications.Notify.
func (n notifications) Notify(sender dbus.Sender, app string, _ uint32, _, summary, body string, _ []string, hints map[string]dbus.Variant, _ int32) (uint32, *dbus.Error) {
	shown := Notification{App: app, Summary: summary, Body: body}
	shown.Urgency, _ = hints["urgency"].Value().(byte)
	if err := n.conn.BusObject().Call("org.freedesktop.DBus.GetConnectionUnixUser", 0, string(sender)).Store(&shown.UID); err != nil {
		return 0, dbus.MakeFailedError(err)
	}
	n.Shown <- shown
	return 1, nil
}

// Terminal is a pseudo-terminal that shows text.
type Terminal struct {
	Name string // below /dev

	t     testing.TB
	shows chan string
	text  string // of shows, so far
}

// OpenTerminal makes a terminal that a user is logged in at. A stopped one takes
// nothing any more, as after Ctrl-S.
func OpenTerminal(t testing.TB, uid int, utf8, stopped bool) *Terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = master.Close() }) // the test is over
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	tty := &Terminal{Name: fmt.Sprint("pts/", number), t: t, shows: make(chan string, 1024)}
	slave, err := os.OpenFile("/dev/"+tty.Name, os.O_RDWR|unix.O_NOCTTY, 0) // held, or it hangs up
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = slave.Close() }) // the test is over
	mode, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
	if err == nil && utf8 {
		mode.Iflag |= unix.IUTF8
		err = unix.IoctlSetTermios(int(slave.Fd()), unix.TCSETS, mode)
	}
	if err == nil && stopped {
		err = unix.IoctlSetInt(int(slave.Fd()), unix.TCXONC, unix.TCOOFF)
	}
	if err == nil {
		err = slave.Chown(uid, -1)
	}
	if err == nil {
		err = slave.Chmod(0o600) // as after mesg n
	}
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(tty.shows)
		for buf := make([]byte, 4096); ; {
			n, err := master.Read(buf)
			if err != nil {
				return
			}
			tty.shows <- string(buf[:n])
		}
	}()
	return tty
}

// Await waits until the terminal has shown want, and returns all that it has
// shown so far.
func (tty *Terminal) Await(want string) string {
	tty.t.Helper()
	late := time.After(time.Minute)
	for !strings.Contains(tty.text, want) {
		select {
		case more := <-tty.shows:
			tty.text += more
		case <-late:
			tty.t.Fatalf("waited a minute for %q on %s, which shows %q", want, tty.Name, tty.text)
		}
	}
	return tty.text
}

// Await waits for the next notification.
func (b *Bus) Await() Notification {
	b.t.Helper()
	select {
	case n := <-b.Shown:
		return n
	case <-time.After(time.Minute):
		b.t.Fatal("waited a minute for a notification")
		panic("unreachable")
	}
}

// Shows yields what the terminal shows, as far as Await has not taken it.
func (tty *Terminal) Shows() <-chan string { return tty.shows }
