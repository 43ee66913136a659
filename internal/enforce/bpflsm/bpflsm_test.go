package bpflsm

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/enforce"
	"github.com/cordon-project/cordon/internal/testkit/vm"
)

// Everything that enforces runs in guests only: on the machine itself these
// tests load nothing.
func eachKernel(t *testing.T, cfg vm.Config, body func(t *testing.T)) {
	for _, cfg.Kernel = range []string{"6.1", "6.12"} {
		cfg := cfg
		t.Run(cfg.Kernel, func(t *testing.T) {
			t.Parallel()
			vm.RunTest(t, cfg, body)
		})
	}
}

// guest is an enforcer for the whole guest with files of known standing.
type guest struct {
	*Enforcer
	dir     string
	program []byte // a trusted one, tiny: reading it takes no time in an emulator
	set     *cordon.TrustSet
	closed  bool
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func entry(content []byte) cordon.TrustEntry {
	return cordon.TrustEntry{Digest: sha256.Sum256(content), Size: int64(len(content)), Origin: "test"}
}

const trustedScript = "#!/bin/sh\nexit 0\n"

func openGuest(t *testing.T) *guest {
	t.Helper()
	return openGuestWith(t, Config{})
}

func openGuestWith(t *testing.T, cfg Config) *guest {
	t.Helper()
	cfg.Log = slog.New(slog.DiscardHandler)
	g := &guest{dir: t.TempDir()}
	canary, err := enforce.NewCanary()
	if err == nil {
		err = canary.WriteFile(filepath.Join(g.dir, "program"))
	}
	if err != nil {
		t.Fatal(err)
	}
	g.program = read(t, filepath.Join(g.dir, "program"))
	g.set = cordon.NewTrustSet([]cordon.TrustEntry{canary.Entry(), entry(read(t, "/bin/busybox")), entry(read(t, "/proc/self/exe")), entry([]byte(trustedScript))}, nil)
	if g.Enforcer, err = Open(cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if g.closed {
			return
		}
		if err := errors.Join(g.Apply(cordon.ModeOff, nil), g.Close()); err != nil {
			t.Error(err)
		}
	})
	return g
}

func (g *guest) apply(t *testing.T, mode cordon.Mode) {
	t.Helper()
	if err := g.Apply(mode, g.set); err != nil {
		t.Fatal(err)
	}
}

func (g *guest) write(t *testing.T, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(g.dir, name)
	if err := os.WriteFile(path, content, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// evil returns a program of its own: the trusted one with something after its end.
func (g *guest) evil(name string) []byte { return append(append([]byte{}, g.program...), name...) }

func run(path string, args ...string) error {
	return exec.Command(path, args...).Run()
}

// refused runs f, which must fail with EPERM and be counted once as refused.
func (g *guest) refused(t *testing.T, what string, f func() error) {
	t.Helper()
	before := g.Stats().Refused
	if err := f(); !errors.Is(err, unix.EPERM) {
		t.Errorf("%s: got %v, want EPERM", what, err)
	}
	if n := g.Stats().Refused - before; n != 1 {
		t.Errorf("%s: counted %d times as refused", what, n)
	}
}

func allowed(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Errorf("%s: %v", what, err)
	}
}

// mapFile maps the file as code and keeps it so until the test ends.
func mapFile(t *testing.T, f *os.File, prot, flags int) ([]byte, error) {
	m, err := unix.Mmap(int(f.Fd()), 0, 4096, prot, flags)
	if err == nil {
		t.Cleanup(func() { _ = unix.Munmap(m) })
	}
	return m, err
}

func open(t *testing.T, path string, flags int) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, flags, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

const rx = unix.PROT_READ | unix.PROT_EXEC

func TestEnforcement(t *testing.T) {
	eachKernel(t, vm.Config{Modules: []string{"btrfs"}}, func(t *testing.T) {
		g := openGuest(t)
		evil := g.write(t, "evil", g.evil("evil"))
		good := g.write(t, "good", g.program)
		t.Run("modes", func(t *testing.T) { testModes(t, g, good, evil) })
		g.apply(t, cordon.ModeEnforce)
		t.Run("programs", func(t *testing.T) { testPrograms(t, g, good, evil) })
		t.Run("mappings", func(t *testing.T) { testMappings(t, g, good, evil) })
		t.Run("memory files", func(t *testing.T) { testMemoryFiles(t, g) })
		t.Run("changed files", func(t *testing.T) { testChanged(t, g) })
		t.Run("code is not written to", func(t *testing.T) { testCodeStays(t, g) })
		t.Run("overlay", func(t *testing.T) { testOverlay(t, g) })
		t.Run("namespaces", func(t *testing.T) { testNamespaces(t, g, good, evil) })
		t.Run("kernel code", func(t *testing.T) { testKernelCode(t, g) })
		t.Run("check", func(t *testing.T) { testCheck(t, g, evil) })
		t.Run("anonymous", func(t *testing.T) { testAnonymous(t, g) })
		t.Run("new sets", func(t *testing.T) { testNewSets(t, g, good, evil) })
		t.Run("tried again", func(t *testing.T) { testTriedAgain(t, g) })
		t.Run("flood", func(t *testing.T) { testFlood(t, g, evil) })
		t.Run("told at the end", func(t *testing.T) { testToldAtTheEnd(t, g) })
	})
}

func testModes(t *testing.T, g *guest, good, evil string) {
	allowed(t, "before anything", run(evil))
	if s := g.Stats(); s != (enforce.Stats{}) {
		t.Errorf("in mode off it counts %+v", s)
	}
	if err := g.Apply(cordon.ModeEnforce, cordon.NewTrustSet(nil, nil)); err == nil {
		t.Error("an empty set was taken")
	}
	g.apply(t, cordon.ModeAudit)
	allowed(t, "audit", run(evil))
	if s := g.Stats(); s.WouldRefuse != 1 || s.Refused != 0 { // the mapping is not reached twice: the program is static, but see below
		t.Logf("audit counts %+v", s)
	}
	if r := <-g.Refusals(); r.Path != evil || r.Mode != cordon.ModeAudit || !strings.Contains(r.Reason, "not in the trust set") || r.Digest != (cordon.Digest{}) && r.Digest != sha256.Sum256(read(t, evil)) {
		t.Errorf("audit tells %+v", r)
	}
	g.apply(t, cordon.ModeEnforce)
	g.refused(t, "enforce", func() error { return run(evil) })
	allowed(t, "trusted", run(good))
	g.apply(t, cordon.ModeOff)
	allowed(t, "off", run(evil))
}

func testPrograms(t *testing.T, g *guest, good, evil string) {
	allowed(t, "trusted", run(good))
	link := filepath.Join(g.dir, "link")
	if err := os.Link(good, link); err != nil {
		t.Fatal(err)
	}
	allowed(t, "another link to it", run(link))
	g.refused(t, "untrusted", func() error { return run(evil) })
	if err := os.Rename(evil, evil+"2"); err != nil {
		t.Fatal(err)
	}
	g.refused(t, "renamed", func() error { return run(evil + "2") })
	if err := os.Rename(evil+"2", evil); err != nil {
		t.Fatal(err)
	}
	allowed(t, "trusted script", run(g.write(t, "s.sh", []byte(trustedScript))))
	g.refused(t, "untrusted script", func() error { return run(g.write(t, "e.sh", []byte("#!/bin/sh\nexit 0 # other\n"))) })
	g.refused(t, "trusted script, nested untrusted interpreter", func() error {
		inner := g.write(t, "inner", []byte("#!/bin/sh\n"))
		return run(g.write(t, "outer", []byte("#!"+inner+"\n")))
	})
	g.refused(t, "deleted and executed by descriptor", func() error {
		path := g.write(t, "gone", g.evil("gone"))
		f := open(t, path, os.O_RDONLY)
		if err := os.Remove(path); err != nil {
			return err
		}
		return run(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	})
}

func testMappings(t *testing.T, g *guest, good, evil string) {
	e, ok := open(t, evil, os.O_RDONLY), open(t, good, os.O_RDONLY)
	g.refused(t, "library", func() error { _, err := mapFile(t, e, rx, unix.MAP_PRIVATE); return err })
	g.refused(t, "shared", func() error { _, err := mapFile(t, e, rx, unix.MAP_SHARED); return err })
	_, err := mapFile(t, ok, rx, unix.MAP_PRIVATE)
	allowed(t, "trusted library", err)
	g.refused(t, "made executable later", func() error {
		m, err := mapFile(t, e, unix.PROT_READ, unix.MAP_PRIVATE)
		if err != nil {
			return err
		}
		return unix.Mprotect(m, rx)
	})
	m, err := mapFile(t, ok, unix.PROT_READ, unix.MAP_PRIVATE)
	allowed(t, "map", err)
	allowed(t, "trusted, made executable later", unix.Mprotect(m, rx))
	g.refused(t, "changed in memory, made executable later", func() error {
		m, err := mapFile(t, ok, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
		if err != nil {
			return err
		}
		m[100] ^= 1
		return unix.Mprotect(m, rx)
	})
	g.refused(t, "mapped while it can be written to", func() error {
		w := open(t, g.write(t, "w", g.program), os.O_RDWR)
		_, err := mapFile(t, w, rx, unix.MAP_PRIVATE)
		return err
	})
}

func testMemoryFiles(t *testing.T, g *guest) {
	memfd := func(content []byte, seal int) *os.File {
		fd, err := unix.MemfdCreate("m", unix.MFD_ALLOW_SEALING|unix.MFD_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		f := os.NewFile(uintptr(fd), "m")
		t.Cleanup(func() { _ = f.Close() })
		if _, err := f.Write(content); err != nil {
			t.Fatal(err)
		}
		if seal != 0 {
			if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seal); err != nil {
				t.Fatal(err)
			}
		}
		return f
	}
	exe := func(f *os.File) error { return run(fmt.Sprintf("/proc/self/fd/%d", f.Fd())) }
	sealed := unix.F_SEAL_WRITE | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL
	g.refused(t, "memfd", func() error { return exe(memfd(g.evil("m"), 0)) })
	g.refused(t, "memfd that could be changed", func() error { return exe(memfd(g.program, 0)) })
	g.refused(t, "sealed memfd", func() error { return exe(memfd(g.evil("m"), sealed)) })
	allowed(t, "sealed memfd with a trusted content", exe(memfd(g.program, sealed)))
	g.refused(t, "memfd as a library", func() error { _, err := mapFile(t, memfd(g.evil("l"), 0), rx, unix.MAP_PRIVATE); return err })
	g.refused(t, "file without a name", func() error {
		fd, err := unix.Open(g.dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o755)
		if err != nil {
			return err
		}
		f := os.NewFile(uintptr(fd), "tmp")
		if _, err := f.Write(g.evil("t")); err != nil {
			return err
		}
		ro := open(t, fmt.Sprintf("/proc/self/fd/%d", fd), os.O_RDONLY)
		if err := f.Close(); err != nil {
			return err
		}
		return exe(ro)
	})
	g.refused(t, "System V segment", func() error {
		id, err := unix.SysvShmGet(unix.IPC_PRIVATE, 4096, 0o700|unix.IPC_CREAT)
		if err != nil {
			return err
		}
		_, _, errno := unix.Syscall(unix.SYS_SHMAT, uintptr(id), 0, 0o100000 /* SHM_EXEC */)
		return errno
	})
}

// A verdict is worth nothing once the file could have been changed.
func testChanged(t *testing.T, g *guest) {
	flip := func(b []byte) []byte { b = append([]byte{}, b...); b[len(b)-1] ^= 1; return b }
	restore := func(path string, fi os.FileInfo) {
		if err := os.Chtimes(path, fi.ModTime(), fi.ModTime()); err != nil {
			t.Fatal(err)
		}
	}
	prepare := func(name string) (string, os.FileInfo) {
		path := g.write(t, name, g.program)
		allowed(t, "before the change", run(path))
		fi, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return path, fi
	}
	t.Run("rename over", func(t *testing.T) {
		path, fi := prepare("rename")
		other := g.write(t, "rename.new", flip(g.program))
		if err := os.Rename(other, path); err != nil {
			t.Fatal(err)
		}
		restore(path, fi)
		g.refused(t, "replaced", func() error { return run(path) })
	})
	t.Run("mapped to be written to", func(t *testing.T) {
		path := g.write(t, "lent", g.program)
		f := open(t, path, os.O_RDWR)
		m, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ, unix.MAP_SHARED) // mprotect(2) makes it writable
		if err = errors.Join(err, unix.Munmap(m), f.Close()); err != nil {
			t.Fatal(err)
		}
		g.refused(t, "its memory may be lent", func() error { return run(path) })
		allowed(t, "a copy", run(g.write(t, "lent.copy", read(t, path))))
		f = open(t, g.write(t, "own", g.program), os.O_RDWR)
		m, err = unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
		if err = errors.Join(err, unix.Munmap(m), f.Close()); err != nil {
			t.Fatal(err)
		}
		allowed(t, "mapped for oneself only", run(f.Name()))
	})
	t.Run("script written in place", func(t *testing.T) {
		path := g.write(t, "place.sh", []byte(trustedScript))
		allowed(t, "before", run(path))
		fi, _ := os.Stat(path)
		f := open(t, path, os.O_WRONLY)
		if _, err := f.WriteAt([]byte("exit 1"), 10); err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
		restore(path, fi)
		g.refused(t, "written", func() error { return run(path) })
		f = open(t, path, os.O_WRONLY)
		if _, err := f.WriteAt([]byte("exit 0"), 10); err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
		allowed(t, "written back", run(path))
	})
	t.Run("through a shared mapping", func(t *testing.T) {
		// On tmpfs this need not move a file's times.
		path := g.write(t, "shared.sh", []byte(trustedScript))
		allowed(t, "before", run(path))
		f := open(t, path, os.O_RDWR)
		m, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
		m[12] ^= 1
		if err := run(path); err == nil {
			t.Error("it ran while it could be written to")
		}
		if err := unix.Munmap(m); err != nil {
			t.Fatal(err)
		}
		g.refused(t, "changed", func() error { return run(path) })
	})
	t.Run("truncated and put back", func(t *testing.T) {
		path := g.write(t, "trunc.sh", []byte(trustedScript))
		allowed(t, "before", run(path))
		if err := errors.Join(os.Truncate(path, 12), os.Truncate(path, int64(len(trustedScript)))); err != nil {
			t.Fatal(err)
		}
		g.refused(t, "zeros", func() error { return run(path) })
	})
	t.Run("a new file with an old number", func(t *testing.T) {
		for range 3 {
			path, _ := prepare("reuse")
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			evil := g.write(t, "reuse", flip(g.program))
			g.refused(t, "reused", func() error { return run(evil) })
			if err := os.Remove(evil); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func testCodeStays(t *testing.T, g *guest) {
	path := g.write(t, "lib", g.program)
	if _, err := mapFile(t, open(t, path, os.O_RDONLY), rx, unix.MAP_PRIVATE); err != nil {
		t.Fatal(err)
	}
	if _, err := os.OpenFile(path, os.O_RDWR, 0); !errors.Is(err, unix.ETXTBSY) {
		t.Errorf("code in use was opened for writing: %v", err)
	}
	if err := os.Truncate(path, 10); !errors.Is(err, unix.ETXTBSY) {
		t.Errorf("code in use was truncated: %v", err)
	}
	allowed(t, "replacing it by a rename", os.Rename(g.write(t, "lib.new", g.program), path))
	// A writer and a mapping race: never both.
	race := g.write(t, "race", g.program)
	for i := range 100 {
		if i%50 == 0 {
			race = g.write(t, fmt.Sprintf("race%d", i), g.program)
		}
		r := open(t, race, os.O_RDONLY)
		var w *os.File
		var both sync.WaitGroup
		both.Go(func() { w, _ = os.OpenFile(race, os.O_RDWR, 0) })
		m, err := unix.Mmap(int(r.Fd()), 0, 4096, rx, unix.MAP_PRIVATE)
		both.Wait()
		if err == nil && w != nil {
			t.Error("mapped as code while open for writing")
		}
		if err == nil {
			_ = unix.Munmap(m)
		}
		if w != nil {
			_ = w.Close()
		}
		_ = r.Close()
	}
}

func testOverlay(t *testing.T, g *guest) {
	base := t.TempDir()
	dir := func(name string) string {
		d := filepath.Join(base, name)
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
		return d
	}
	lower, upper, work, merged := dir("lower"), dir("upper"), dir("work"), dir("merged")
	put := func(d, name string, b []byte) {
		if err := os.WriteFile(filepath.Join(d, name), b, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	put(lower, "good", g.program)
	put(lower, "evil", g.evil("below"))
	put(lower, "s.sh", []byte(trustedScript))
	put(lower, "direct.sh", []byte(trustedScript))
	if err := unix.Mount("overlay", merged, "overlay", 0, "lowerdir="+lower+",upperdir="+upper+",workdir="+work); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Unmount(merged, unix.MNT_DETACH) }()
	at := func(name string) string { return filepath.Join(merged, name) }
	allowed(t, "trusted", run(at("good")))
	allowed(t, "trusted again", run(at("good")))
	g.refused(t, "untrusted", func() error { return run(at("evil")) })
	allowed(t, "script", run(at("s.sh")))
	put(merged, "s.sh", []byte("#!/bin/sh\nexit 1\n")) // copied up, same size
	g.refused(t, "changed through the overlay", func() error { return run(at("s.sh")) })
	put(merged, "s.sh", []byte(trustedScript))
	allowed(t, "changed back", run(at("s.sh")))
	fi, err := os.Stat(filepath.Join(upper, "s.sh"))
	if err != nil {
		t.Fatal(err)
	}
	put(upper, "s.sh", []byte("#!/bin/sh\nexit 1\n"))
	if err := os.Chtimes(filepath.Join(upper, "s.sh"), fi.ModTime(), fi.ModTime()); err != nil {
		t.Fatal(err)
	}
	g.refused(t, "changed below the overlay", func() error { return run(at("s.sh")) })
	allowed(t, "of the layer below", run(at("direct.sh")))
	put(lower, "direct.sh", []byte("#!/bin/sh\nexit 1\n"))
	g.refused(t, "changed in the layer below", func() error { return run(at("direct.sh")) })
	put(merged, "lib", g.program)
	if _, err := mapFile(t, open(t, at("lib"), os.O_RDONLY), rx, unix.MAP_PRIVATE); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{at("lib"), filepath.Join(upper, "lib")} {
		if _, err := os.OpenFile(path, os.O_RDWR, 0); !errors.Is(err, unix.ETXTBSY) {
			t.Errorf("%s is in use as code and was opened for writing: %v", path, err)
		}
	}
}

func testNamespaces(t *testing.T, g *guest, good, evil string) {
	in := func(path string) error {
		cmd := exec.Command(path)
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS}
		return cmd.Run()
	}
	allowed(t, "trusted", in(good))
	g.refused(t, "untrusted in new user, pid and mount namespaces", func() error { return in(evil) })
	mount := filepath.Join(g.dir, "new")
	if err := os.Mkdir(mount, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("t", mount, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Unmount(mount, unix.MNT_DETACH) }()
	g.refused(t, "on a file system that was just mounted", func() error { return run(g.write(t, "new/evil", g.evil("new"))) })
}

func testKernelCode(t *testing.T, g *guest) {
	// What is no module is refused before the kernel finds that out.
	load := func(path string) error { return unix.FinitModule(int(open(t, path, os.O_RDONLY).Fd()), "", 0) }
	g.refused(t, "module from a file", func() error { return load(g.write(t, "m.ko", []byte("no module"))) })
	if err := load(g.write(t, "t.ko", []byte(trustedScript))); !errors.Is(err, unix.ENOEXEC) {
		t.Errorf("a trusted file did not reach the kernel's own check: %v", err)
	}
	g.refused(t, "module from memory", func() error { return unix.InitModule(make([]byte, 4096), "") })
	g.refused(t, "kernel for kexec", func() error {
		f := open(t, g.write(t, "vmlinuz", []byte("no kernel")), os.O_RDONLY)
		_, _, errno := unix.Syscall6(unix.SYS_KEXEC_FILE_LOAD, f.Fd(), ^uintptr(0), 0, 0, 4 /* KEXEC_FILE_NO_INITRAMFS */, 0)
		return errno
	})
}

func testCheck(t *testing.T, g *guest, evil string) {
	const atExecveCheck = 0x10000
	check := func(path string) error {
		p, err := unix.BytePtrFromString(path)
		if err != nil {
			return err
		}
		argv := []*byte{p, nil}
		if _, _, errno := unix.Syscall6(unix.SYS_EXECVEAT, ^uintptr(99), uintptr(unsafe.Pointer(p)), uintptr(unsafe.Pointer(&argv[0])), uintptr(unsafe.Pointer(&argv[1])), atExecveCheck, 0); errno != 0 {
			return errno
		}
		return nil
	}
	if err := check("/bin/busybox"); errors.Is(err, unix.EINVAL) {
		t.Skip("this kernel has no AT_EXECVE_CHECK: it answers EINVAL")
	} else if err != nil {
		t.Errorf("trusted: %v", err)
	}
	g.refused(t, "untrusted", func() error { return check(evil) })
}

func testNewSets(t *testing.T, g *guest, good, evil string) {
	other := cordon.NewTrustSet([]cordon.TrustEntry{entry(read(t, "/proc/self/exe")), entry(read(t, evil))}, nil)
	allowed(t, "under the first", run(good))
	if err := g.Apply(cordon.ModeEnforce, other); err != nil {
		t.Fatal(err)
	}
	g.refused(t, "what the first allowed", func() error { return run(good) })
	allowed(t, "what the second allows", run(evil))
	g.apply(t, cordon.ModeEnforce)
	allowed(t, "back", run(good))
	g.refused(t, "back", func() error { return run(evil) })
	// A content of which only the digest is known.
	unsized := g.set.With(cordon.TrustEntry{Digest: sha256.Sum256(read(t, evil)), Size: -1})
	if err := g.Apply(cordon.ModeEnforce, unsized); err != nil {
		t.Fatal(err)
	}
	allowed(t, "known by digest only", run(evil))
	g.apply(t, cordon.ModeEnforce)
	// Sets change while programs start: always one of them counts.
	var flips sync.WaitGroup
	stop := make(chan struct{})
	flips.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			for _, s := range []*cordon.TrustSet{unsized.With(entry([]byte("x"))), g.set} {
				if err := g.Apply(cordon.ModeEnforce, s); err != nil {
					t.Error(err)
				}
			}
		}
	})
	never := g.write(t, "never", g.evil("never"))
	for range 8 {
		allowed(t, "trusted by all", run(good))
		if err := run(never); !errors.Is(err, unix.EPERM) {
			t.Errorf("trusted by none: %v", err)
		}
	}
	close(stop)
	flips.Wait()
}
