package notice

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cordon-project/cordon/internal/testkit/desktop"
)

func TestLogind(t *testing.T) {
	bus := desktop.Start(t)
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", bus.Address)
	if got, err := people(t.Context()); err != nil || len(got) != 0 {
		t.Errorf("nobody: %v, %v", got, err)
	}
	for _, s := range []desktop.Session{
		{UID: 1001, Type: "tty", TTY: "pts/7"},
		{UID: 1000, Type: "wayland", TTY: "tty2", Runtime: "/run/user/1000"},
		{UID: 1000, Type: "tty", TTY: "pts/3", Runtime: "/run/user/1000"},
		{UID: 0, Type: "tty", TTY: "tty1", Class: "user-early"},
		{UID: 1001, Type: "unspecified", TTY: "pts/8"},
		{UID: 1001, Type: "tty", TTY: "pts/9", State: "closing"},
		{UID: 1001, Type: "unspecified"},
		{UID: 110, Type: "x11", Class: "greeter", Runtime: "/run/user/110"},
		{UID: 1002, Type: "unspecified", Class: "manager"},
		{UID: 1003, Type: "x11", Runtime: "not absolute"},
	} {
		bus.Login(s)
	}
	want := []person{
		{UID: 0, Terminals: []string{"tty1"}},
		{UID: 1000, Bus: "/run/user/1000/bus", Terminals: []string{"pts/3"}},
		{UID: 1001, Terminals: []string{"pts/7", "pts/8"}},
	}
	if got, err := people(t.Context()); err != nil || !cmp.Equal(got, want) {
		t.Errorf("%v\n%s", err, cmp.Diff(want, got))
	}
}

func record(size int, kind uint16, line string) []byte {
	r := make([]byte, size)
	binary.LittleEndian.PutUint16(r, kind)
	copy(r[utmpLine:utmpLine+utmpLineLen], line)
	for i := utmpLine + utmpLineLen; i < size; i++ {
		r[i] = 0xff // user, host and times are not looked at
	}
	return r
}

func owner(line string) (uint32, error) {
	if uid, ok := map[string]uint32{"tty1": 0, "pts/0": 1000, "pts/1": 1001, "pts/2": 1000}[line]; ok {
		return uid, nil
	}
	return 0, fs.ErrNotExist
}

func TestUtmp(t *testing.T) {
	for _, arch := range []string{"amd64", "arm64"} {
		size := utmpSize(arch)
		data := slices.Concat(record(size, 2, "~"), record(size, userProcess, "pts/0"), record(size, userProcess, "tty1"), record(size, 8, "pts/1"),
			record(size, userProcess, "pts/9"), record(size, userProcess, "../etc/passwd"), record(size, userProcess, ":0"), record(size, userProcess, "pts/2"), record(size, userProcess, "pts/0"),
			record(size, userProcess, "pts/1")[:size-1])
		want := []person{{UID: 0, Terminals: []string{"tty1"}}, {UID: 1000, Terminals: []string{"pts/0", "pts/2"}}}
		if got := gather(sessionsOfUtmp(data, size, owner)); !cmp.Equal(got, want) {
			t.Errorf("%s: %s", arch, cmp.Diff(want, got))
		}
	}
}

// Who may write into the file cannot have all of the memory for it.
func TestHugeUtmp(t *testing.T) {
	path := filepath.Join(t.TempDir(), "utmp")
	if err := os.WriteFile(path, record(384, userProcess, "tty1"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 1<<40); err != nil {
		t.Fatal(err)
	}
	data, err := readUtmp(path)
	if err != nil || len(data) != mostUtmp {
		t.Fatalf("%d bytes, %v", len(data), err)
	}
	if all := sessionsOfUtmp(data, 384, owner); len(all) != 1 {
		t.Errorf("%v", all)
	}
}

func TestOwner(t *testing.T) {
	tty := desktop.OpenTerminal(t, 0, false, false)
	if uid, err := ownerOf(tty.Name); err != nil || uid != 0 {
		t.Error(uid, err)
	}
	for _, name := range []string{"pts/none", "pts"} {
		if uid, err := ownerOf(name); err == nil {
			t.Errorf("%s belongs to %d", name, uid)
		}
	}
}

func FuzzUtmp(f *testing.F) {
	f.Add(record(384, userProcess, "pts/0"), 384)
	f.Add(record(400, userProcess, "../x"), 400)
	f.Add([]byte{7}, 384)
	f.Fuzz(func(t *testing.T, data []byte, size int) {
		if size < 384 || size > 400 {
			return
		}
		asked := 0
		for _, s := range sessionsOfUtmp(data, size, func(line string) (uint32, error) {
			if asked++; !strings.HasPrefix(filepath.Join("/dev", line), "/dev") {
				t.Errorf("asks for %q", line)
			}
			if asked%2 == 0 {
				return 0, errors.New("gone")
			}
			return 1, nil
		}) {
			if s.uid != 1 || s.terminal == "" || len(s.terminal) > utmpLineLen {
				t.Errorf("got %+v", s)
			}
		}
		if asked > len(data)/size {
			t.Errorf("%d sessions in %d bytes", asked, len(data))
		}
	})
}
