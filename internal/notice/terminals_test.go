package notice

import (
	"os"
	"os/exec"
	"slices"
	"syscall"
	"testing"

	"github.com/cordon-project/cordon/internal/testkit/desktop"
)

func TestTerminalsBelow(t *testing.T) {
	const pts3, pts300, tty1 = 136<<8 | 3, 137<<8 | 44, 4<<8 | 1
	all := map[int]process{
		1: {}, 10: {parent: 1}, 11: {parent: 10}, // sshd and its children
		12: {11, pts3}, 13: {12, pts3}, 14: {13, 136<<8 | 9}, // a shell, sudo, what sudo shows on the shell's
		15: {10, pts300}, 16: {10, tty1},
		20: {1, 136<<8 | 7}, // of somebody else
		30: {parent: 31}, 31: {parent: 30},
	}
	for leader, want := range map[int][]string{10: {"pts/3", "pts/300"}, 11: {"pts/3"}, 13: {"pts/3"}, 20: {"pts/7"}, 30: nil, 99: nil} {
		if got := terminalsBelow(leader, all); !slices.Equal(got, want) {
			t.Errorf("below %d: %q, want %q", leader, got, want)
		}
	}
}

// sshd's sessions have no terminal for logind where there is no utmp.
func TestTerminalOfAProcess(t *testing.T) {
	bus := desktop.Start(t)
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", bus.Address)
	tty := desktop.OpenTerminal(t, 0, false, false)
	f, err := os.OpenFile("/dev/"+tty.Name, os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	shell := exec.Command("cat") // waits
	in, err := shell.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	shell.Stdout = f
	shell.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 1}
	if err := shell.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _, _, _ = in.Close(), f.Close(), shell.Wait() }() // the test is over
	bus.Login(desktop.Session{UID: 0, Type: "tty", Leader: shell.Process.Pid})
	bus.Login(desktop.Session{UID: 5, Type: "unspecified", Leader: shell.Process.Pid})
	bus.Login(desktop.Session{UID: 6, Type: "tty"})
	if got, err := people(t.Context()); err != nil || len(got) != 1 || got[0].UID != 0 || !slices.Equal(got[0].Terminals, []string{tty.Name}) {
		t.Errorf("%+v, %v, want %s", got, err, tty.Name)
	}
}

func FuzzStat(f *testing.F) {
	for _, s := range []string{"1 (init) S 0 1 1 34819 1 4194560", "7 (a) S 9 9 9 9 9) S 1 7 7 0 -1 0", ")", "", "1 (x) S y 1 1 0", "1 (x) S 1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, stat string) {
		if p, err := parseStat(stat); err == nil {
			pts(p.terminal)
		}
	})
}

func TestStat(t *testing.T) {
	for stat, want := range map[string]process{
		"12 (bash) S 11 12 12 34819 1 4194560 0": {11, 34819},
		"7 (a) S 9 9 9 9 9) R 1 7 7 0 -1 0":      {1, 0},
	} {
		if got, err := parseStat(stat); err != nil || got != want {
			t.Errorf("%q: %+v, %v", stat, got, err)
		}
	}
	for _, stat := range []string{"", ")", "1 (x) S 1", "1 (x) S y 1 1 0", "1 (x) S 1 1 1 z"} {
		if got, err := parseStat(stat); err == nil {
			t.Errorf("%q: %+v", stat, got)
		}
	}
}
