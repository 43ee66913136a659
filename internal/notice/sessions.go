package notice

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// person is somebody who is logged in, with all their sessions.
type person struct {
	UID       uint32
	Bus       string   // socket of the bus of a graphical session; empty: there is none
	Terminals []string // of the other sessions, below /dev
}

// mostSessions is how many sessions are looked at.
const mostSessions = 512

// utmpFile has the sessions of a machine without logind (utmp(5)).
const utmpFile = "/run/utmp"

// people returns who is logged in.
func people(ctx context.Context) ([]person, error) {
	all, err := sessionsOfLogind(ctx)
	if err == nil {
		return gather(all), nil
	}
	data, noFile := readUtmp(utmpFile)
	if noFile != nil {
		return nil, errors.Join(err, noFile)
	}
	return gather(sessionsOfUtmp(data, utmpSize(runtime.GOARCH), ownerOf)), nil
}

// mostUtmp is how much of the file is read, in bytes: others than root may write to
// it where terminal emulators enter their sessions (utempter).
const mostUtmp = 1 << 20

func readUtmp(path string) (data []byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	return io.ReadAll(io.LimitReader(f, mostUtmp))
}

// session is one login.
type session struct {
	uid      uint32
	bus      string // of a graphical one
	terminal string
}

// gather puts the sessions of each user together, in order of their numbers.
func gather(all []session) []person {
	var everybody []person
	slices.SortStableFunc(all, func(a, b session) int { return cmp.Compare(a.uid, b.uid) })
	for _, s := range all {
		if s.bus == "" && s.terminal == "" {
			continue
		}
		if n := len(everybody); n == 0 || everybody[n-1].UID != s.uid {
			everybody = append(everybody, person{UID: s.uid})
		}
		p := &everybody[len(everybody)-1]
		if s.bus != "" {
			p.Bus = s.bus
		} else if !slices.Contains(p.Terminals, s.terminal) {
			p.Terminals = append(p.Terminals, s.terminal)
		}
	}
	return everybody
}

// Of org.freedesktop.login1(5).
const (
	login     = "org.freedesktop.login1"
	getAll    = "org.freedesktop.DBus.Properties.GetAll"
	loginPath = dbus.ObjectPath("/org/freedesktop/login1")
)

// sessionsOfLogind asks logind, if it runs.
func sessionsOfLogind(ctx context.Context) (all []session, err error) {
	conn, err := dbus.ConnectSystemBus(dbus.WithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("connect to the system bus: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	var list []struct {
		ID   string
		UID  uint32
		User string
		Seat string
		Path dbus.ObjectPath
	}
	// Nothing is started that does not run.
	call := conn.Object(login, loginPath).CallWithContext(ctx, login+".Manager.ListSessions", dbus.FlagNoAutoStart)
	if err := call.Store(&list); err != nil {
		return nil, fmt.Errorf("ask logind for sessions: %w", err)
	}
	properties := func(path dbus.ObjectPath, of string) (p map[string]dbus.Variant, err error) {
		err = conn.Object(login, path).CallWithContext(ctx, getAll, dbus.FlagNoAutoStart, login+"."+of).Store(&p)
		return p, err
	}
	running := sync.OnceValues(func() (map[int]process, error) { return processes("/proc") })
	for _, l := range list[:min(len(list), mostSessions)] {
		p, err := properties(l.Path, "Session")
		if err != nil {
			continue // it has ended since
		}
		s := session{uid: l.UID}
		// Not those of a greeter, a service manager or a cron job.
		if !strings.HasPrefix(text(p["Class"]), "user") || text(p["State"]) == "closing" {
			continue
		}
		switch text(p["Type"]) {
		case "x11", "wayland", "mir":
			if s.bus, err = busOf(p["User"], properties); err != nil {
				continue // so has the user
			}
		default:
			s.terminal = text(p["TTY"])
		}
		if leader, _ := p["Leader"].Value().(uint32); s.terminal == "" && text(p["Type"]) == "tty" && leader > 1 {
			// sshd's, which has a terminal only later, and where there is no utmp tells nobody.
			procs, err := running()
			if err != nil {
				return nil, fmt.Errorf("look for terminals: %w", err)
			}
			for _, terminal := range terminalsBelow(int(leader), procs) {
				all = append(all, session{uid: l.UID, terminal: terminal})
			}
			continue
		}
		all = append(all, s)
	}
	return all, nil
}

// busOf returns the socket of a user's session bus, where the service manager
// makes it. user is the property of a session: a number and a path.
func busOf(user dbus.Variant, properties func(dbus.ObjectPath, string) (map[string]dbus.Variant, error)) (string, error) {
	var u struct {
		UID  uint32
		Path dbus.ObjectPath
	}
	if err := user.Store(&u); err != nil {
		return "", err
	}
	p, err := properties(u.Path, "User")
	if err != nil {
		return "", err
	}
	dir := text(p["RuntimePath"])
	if !filepath.IsAbs(dir) {
		return "", errors.New("there is no runtime directory")
	}
	return filepath.Join(dir, "bus"), nil
}

// text is what a property says, empty if it is no text.
func text(v dbus.Variant) string {
	s, _ := v.Value().(string)
	return s
}

// utmpSize is the length of a record (struct utmp of glibc), which differs with
// the width of its times.
func utmpSize(arch string) int {
	if arch == "arm64" {
		return 400
	}
	return 384
}

// Where things are in a record, and the type of one of a user's session.
const (
	utmpLine    = 8
	utmpLineLen = 32
	userProcess = 7
)

// sessionsOfUtmp reads records of size bytes. A session belongs to who owns its
// terminal, and has ended if there is none.
func sessionsOfUtmp(data []byte, size int, owner func(terminal string) (uint32, error)) (all []session) {
	for r := range slices.Chunk(data, size) {
		if len(r) < size || binary.LittleEndian.Uint16(r) != userProcess || len(all) == mostSessions {
			continue
		}
		line, _, _ := strings.Cut(string(r[utmpLine:utmpLine+utmpLineLen]), "\x00")
		if !filepath.IsLocal(line) {
			continue
		}
		if uid, err := owner(line); err == nil { // else it is an X display, ":0", or has ended
			all = append(all, session{uid: uid, terminal: line})
		}
	}
	return all
}

// ownerOf returns who owns a terminal below /dev.
func ownerOf(terminal string) (uint32, error) {
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join("/dev", terminal), &st); err != nil {
		return 0, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFCHR {
		return 0, fs.ErrInvalid
	}
	return st.Uid, nil
}
