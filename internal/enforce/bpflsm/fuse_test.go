package bpflsm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// fuseVar makes a test program a FUSE server at the directory that it names: it
// has one file, program, with the content of the file on standard input.
const fuseVar = "CORDON_BPF_FUSE"

// Numbers of requests, from linux/fuse.h.
const (
	fuseLookup  = 1
	fuseForget  = 2
	fuseGetattr = 3
	fuseOpen    = 14
	fuseRead    = 15
	fuseRelease = 18
	fuseFlush   = 25
	fuseInit    = 26
)

// fuseMain serves until it is killed. It is a process of its own, as whoever
// starts a program from there waits for it.
func fuseMain(at string) error {
	content, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR, 0)
	if err != nil {
		return err
	}
	if err := unix.Mount("test", at, "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fd)); err != nil {
		return err
	}
	fmt.Println("ready")
	request := make([]byte, 1<<18)
	for {
		n, err := unix.Read(fd, request)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) {
			continue
		}
		if err != nil {
			return err
		}
		body, errno := fuseAnswer(request[:n], content)
		if body == nil && errno == 0 {
			continue // nobody waits
		}
		var out bytes.Buffer
		for _, v := range []any{uint32(16 + len(body)), -int32(errno), request[8:16], body} {
			_ = binary.Write(&out, binary.LittleEndian, v) // to memory
		}
		if _, err := unix.Write(fd, out.Bytes()); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
}

// fuseAnswer returns what follows the header of an answer.
func fuseAnswer(request, content []byte) (body []byte, errno unix.Errno) {
	le := binary.LittleEndian
	node := le.Uint64(request[16:])
	var out bytes.Buffer
	put := func(values ...any) {
		for _, v := range values {
			_ = binary.Write(&out, le, v) // to memory
		}
	}
	attr := func(node uint64) {
		mode, size := uint32(unix.S_IFDIR|0o755), uint64(0)
		if node != 1 {
			mode, size = unix.S_IFREG|0o755, uint64(len(content))
		}
		put(node, size, [4]uint64{}, [3]uint32{}, mode, uint32(1), [3]uint32{}, uint32(4096), uint32(0))
	}
	switch le.Uint32(request[4:]) {
	case fuseInit:
		put(uint32(7), uint32(31), uint32(1<<16), uint32(0), uint32(0), uint32(1<<16), [10]uint32{})
	case fuseLookup:
		if string(bytes.TrimRight(request[40:], "\x00")) != "program" {
			return nil, unix.ENOENT
		}
		put(uint64(2), uint64(0), uint64(60), uint64(60), uint64(0))
		attr(2)
	case fuseGetattr:
		put(uint64(60), uint64(0))
		attr(node)
	case fuseOpen:
		put(uint64(1), uint64(0))
	case fuseRead:
		from := min(le.Uint64(request[48:]), uint64(len(content)))
		to := min(from+uint64(le.Uint32(request[56:])), uint64(len(content)))
		return append([]byte{}, content[from:to]...), 0
	case fuseRelease, fuseFlush:
		return []byte{}, 0
	case fuseForget:
		return nil, 0
	default:
		return nil, unix.ENOSYS
	}
	return out.Bytes(), 0
}

// serveFuse mounts content as a file and returns its path.
func serveFuse(t *testing.T, content []byte) string {
	t.Helper()
	at := t.TempDir()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), fuseVar+"="+at)
	cmd.Stdin = bytes.NewReader(content)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = unix.Unmount(at, unix.MNT_DETACH)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	var said string
	if _, err := fmt.Fscan(out, &said); err != nil || said != "ready" {
		t.Fatalf("the FUSE server said %q: %v", said, err)
	}
	return filepath.Join(at, "program")
}
