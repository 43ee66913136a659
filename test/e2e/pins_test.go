package e2e

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Commands of bpf(2).
const (
	bpfMapCreate = 0
	bpfMapUpdate = 2
	bpfObjPin    = 6
)

// bpf calls bpf(2); attr is the part of its union that command has.
func bpf[A any](command uintptr, attr A) (fd uint32, err error) {
	r, _, errno := unix.Syscall(unix.SYS_BPF, command, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	if errno != 0 {
		return 0, errno
	}
	return uint32(r), nil
}

type (
	createAttr struct{ kind, keySize, valueSize, entries uint32 }
	updateAttr struct {
		fd         uint64
		key, value unsafe.Pointer
		flags      uint64
	}
	pinAttr struct {
		path unsafe.Pointer
		fd   uint64
	}
)

// An agent that could not lift what BPF LSM has in force does not start. What an
// earlier agent left is a map here, with the number that says what is in force,
// pinned where agents pin theirs.
func TestOverPins(t *testing.T) {
	confined(t, ordinary, func(t *testing.T) {
		if err := unix.Mount("bpf", "/sys/fs/bpf", "bpf", 0, ""); err != nil {
			t.Fatal(err)
		}
		fd, err := bpf(bpfMapCreate, createAttr{kind: 2 /* array */, keySize: 4, valueSize: 8, entries: 16})
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS) {
			t.Skipf("no BPF map can be made: %v", err)
		}
		pins := "/sys/fs/bpf/cordon/1"
		path := append([]byte(pins+"/settings"), 0)
		if err == nil {
			err = os.MkdirAll(pins, 0o700)
		}
		if err == nil {
			_, err = bpf(bpfObjPin, pinAttr{unsafe.Pointer(&path[0]), uint64(fd)})
		}
		if err != nil {
			t.Fatal(err)
		}
		put := func(mode uint64) {
			key := uint32(0)
			if _, err := bpf(bpfMapUpdate, updateAttr{fd: uint64(fd), key: unsafe.Pointer(&key), value: unsafe.Pointer(&mode)}); err != nil {
				t.Fatal(err)
			}
		}
		dir := t.TempDir()
		agent := func(enforcer string) *exec.Cmd {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			t.Cleanup(cancel)
			return exec.CommandContext(ctx, os.Getenv(binaryVar), "agent", "--server", "https://127.0.0.1:1", "--enrollment-token", "x", "--notices", "off",
				"--data-dir", dir, "--rules", filepath.Join(dir, "rules"), "--enforcer", enforcer, "--scope", "mount:"+dir)
		}
		put(2) // enforce
		for _, enforcer := range []string{"auto", "bpf", "fanotify", "none"} {
			out, err := agent(enforcer).CombinedOutput()
			var ended *exec.ExitError
			if !errors.As(err, &ended) || !strings.Contains(string(out), "this machine is restricted by BPF LSM") || !strings.Contains(string(out), "unrestrict the machine before") {
				t.Errorf("--enforcer %s: %v\n%s", enforcer, err, out)
			}
		}
		put(1) // audit: nothing is restricted
		a := agent("none")
		a.Cancel = func() error { return a.Process.Signal(unix.SIGTERM) }
		if err := a.Start(); err != nil {
			t.Fatal(err)
		}
		for err = unix.ENOENT; err != nil && t.Context().Err() == nil && a.Process.Signal(unix.Signal(0)) == nil; {
			err = exec.Command(os.Getenv(binaryVar), "agent", "status", "--data-dir", dir).Run()
		}
		if err := errors.Join(err, a.Process.Signal(unix.SIGTERM), a.Wait()); err != nil {
			t.Errorf("without a restriction: %v", err)
		}
	})
}
