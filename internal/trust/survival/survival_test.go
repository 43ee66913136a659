package survival

import (
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/fileid"
	"github.com/cordon-project/cordon/internal/trust/fixture"
)

// program is an ELF file as a linker would make it.
type program struct {
	interpreter     string
	needed          []string
	runpath, rpath  string
	machine         elf.Machine
	distinguishable string
}

func (p program) String() string {
	strtab := []byte{0}
	str := func(s string) uint64 {
		at := len(strtab)
		strtab = append(append(strtab, s...), 0)
		return uint64(at)
	}
	var dyn bytes.Buffer
	tag := func(t elf.DynTag, v uint64) {
		_ = binary.Write(&dyn, binary.LittleEndian, elf.Dyn64{Tag: int64(t), Val: v}) // into memory: cannot fail
	}
	for _, n := range p.needed {
		tag(elf.DT_NEEDED, str(n))
	}
	if p.runpath != "" {
		tag(elf.DT_RUNPATH, str(p.runpath))
	}
	if p.rpath != "" {
		tag(elf.DT_RPATH, str(p.rpath))
	}
	tag(elf.DT_NULL, 0)
	interp := append([]byte(p.interpreter), 0)
	machine := p.machine
	if machine == 0 {
		machine = elf.EM_X86_64
	}
	const ehsize, phsize, shsize = 64, 56, 64
	at := uint64(ehsize + phsize + 3*shsize)
	h := elf.Header64{Type: uint16(elf.ET_DYN), Machine: uint16(machine), Version: 1, Phoff: ehsize, Shoff: ehsize + phsize,
		Ehsize: ehsize, Phentsize: phsize, Phnum: 1, Shentsize: shsize, Shnum: 3, Shstrndx: 1}
	copy(h.Ident[:], elf.ELFMAG)
	h.Ident[elf.EI_CLASS], h.Ident[elf.EI_DATA], h.Ident[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1
	ph := elf.Prog64{Type: uint32(elf.PT_INTERP), Off: at + uint64(len(strtab)+dyn.Len()), Filesz: uint64(len(interp))}
	if p.interpreter == "" {
		ph.Type = uint32(elf.PT_NOTE)
	}
	var b bytes.Buffer
	for _, v := range []any{h, ph, elf.Section64{},
		elf.Section64{Type: uint32(elf.SHT_STRTAB), Off: at, Size: uint64(len(strtab))},
		elf.Section64{Type: uint32(elf.SHT_DYNAMIC), Link: 1, Off: at + uint64(len(strtab)), Size: uint64(dyn.Len())},
	} {
		_ = binary.Write(&b, binary.LittleEndian, v) // into memory: cannot fail
	}
	b.Write(strtab)
	b.Write(dyn.Bytes())
	b.Write(interp)
	b.WriteString(p.distinguishable)
	return b.String()
}

// machine is a small but complete machine.
type machine struct {
	*fixture.Root
	t     *testing.T
	proc  *fixture.Root
	agent []string
}

const loader = "/lib64/ld.so"

// exe is a program with a library of its own.
func exe(name string, more ...string) string {
	return program{interpreter: loader, needed: append(more, "libc.so.6"), distinguishable: name}.String()
}

func newMachine(t *testing.T) *machine {
	m := &machine{Root: fixture.NewRoot(t), proc: fixture.NewRoot(t), t: t, agent: []string{"/usr/bin/cordon"}}
	m.Write("usr/lib64/ld.so", program{}.String(), 0o755)
	m.Link("usr/lib64", "lib64")
	for _, dir := range []string{"usr/bin", "usr/sbin", "usr/lib/systemd"} {
		m.Write(dir+"/.keep", "", 0o644)
	}
	m.Link("usr/bin", "bin")
	m.Link("usr/sbin", "sbin")
	m.Link("usr/lib", "lib")
	m.lib("/usr/lib/triplet/libc.so.6")
	m.lib("/usr/lib/triplet/libpam.so.0", "libaudit.so.1")
	m.lib("/usr/lib/triplet/libaudit.so.1")
	m.Write("etc/ld.so.conf", "# comment\ninclude ld.so.conf.d/*.conf\nhwcap 0 nosegneg\n", 0o644)
	m.Write("etc/ld.so.conf.d/triplet.conf", "/usr/lib/triplet # ours\n", 0o644)
	m.Write("etc/ld.so.conf.d/self.conf", "include self.conf\n", 0o644)

	// systemd finds a library in a directory of its own, and that library needs
	// another one from there without saying where it is.
	m.Write("usr/lib/systemd/systemd", program{interpreter: loader, needed: []string{"libsd-core.so", "libsd-shared.so", "libc.so.6"},
		runpath: "$ORIGIN/private"}.String(), 0o755)
	m.lib("/usr/lib/systemd/private/libsd-core.so", "libsd-shared.so")
	m.lib("/usr/lib/systemd/private/libsd-shared.so")
	m.Link("/lib/systemd/systemd", "usr/sbin/init")
	m.Write("usr/lib/systemd/systemd-shutdown", exe("shutdown"), 0o755)
	for _, name := range []string{"bin/login", "bin/bash", "bin/zsh", "sbin/sshd", "bin/sudo", "bin/systemctl", "bin/dpkg", "bin/apt", "sbin/NetworkManager", "bin/python3.11", "bin/cordon"} {
		m.Write("usr/"+name, exe(name, "libpam.so.0"), 0o755)
	}
	m.Link("../bin/systemctl", "usr/sbin/reboot")
	m.Write("usr/lib/apt/methods/http", exe("http"), 0o755)
	m.Link("python3.11", "usr/bin/python3")
	m.Write("usr/bin/env", exe("env"), 0o755)
	m.Write("usr/bin/dnf", "#!/usr/bin/env python3\nimport dnf\n", 0o755)
	m.Write("usr/bin/yum", "#! /usr/bin/python3 -s\n", 0o755)
	m.Write("etc/shells", "# /etc/shells: valid login shells\n/bin/bash\n/bin/zsh\n/bin/none\n/usr/sbin/nologin\n", 0o644)
	m.Write("etc/passwd", "root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1::/:/usr/sbin/nologin\nann:x:1000:1000:Ann:/home/ann:/bin/zsh\n"+
		"git:x:1001:1001::/home/git:/usr/bin/git-shell\nmalformed\n", 0o644)
	m.Write("usr/bin/git-shell", "not in /etc/shells", 0o755)
	m.Write("usr/sbin/nologin", "lets nobody in", 0o755)
	m.Write("usr/bin/other", "is not needed", 0o755)
	m.Write("usr/sbin/dhclient", "runs in a container only", 0o755)

	m.process(1, "/usr/lib/systemd/systemd", "host")
	m.process(77, "/usr/sbin/NetworkManager (deleted)", "host")
	m.process(78, "/usr/bin/other", "host")
	m.process(79, "/usr/sbin/dhclient", "container")
	// Anybody can run something by that name, and must not keep the machine from
	// being restricted by it.
	m.Write("tmp/dhclient", "was put there by anybody", 0o755)
	if err := os.Chmod(m.Path("tmp"), 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	m.process(80, "/tmp/dhclient", "host")
	m.Write("srv/iwd", "can be replaced by anybody", 0o755)
	if err := os.Chmod(m.Path("srv/iwd"), 0o757); err != nil {
		t.Fatal(err)
	}
	m.process(81, "/srv/iwd (deleted)", "host")
	m.proc.Link("mnt:[host]", "self/ns/mnt")
	m.proc.Write("1/maps", "55d0 r-xp 00000000 fe:00 1 /usr/lib/systemd/systemd\n7f00 r-xp 00000000 fe:00 2 /usr/lib/triplet/libnss.so.2 (deleted)\n"+
		"7f10 r--p 00000000 fe:00 3 /usr/lib/locale/locale-archive\n7ffd r-xp 00000000 00:00 0 [vdso]\n7ffe rw-p 00000000 00:00 0\n", 0o444)
	m.lib("/usr/lib/triplet/libnss.so.2")
	return m
}

func (m *machine) lib(path string, needed ...string) {
	m.Write(path, program{needed: needed, distinguishable: path}.String(), 0o644)
}

func (m *machine) process(pid int, exe, ns string) {
	m.proc.Link(exe, fmt.Sprintf("%d/exe", pid))
	m.proc.Link("mnt:["+ns+"]", fmt.Sprintf("%d/ns/mnt", pid))
}

// set trusts every file of the machine but those, half of them by identity.
func (m *machine) set(untrusted ...string) *cordon.TrustSet {
	m.t.Helper()
	var entries []cordon.TrustEntry
	var known []cordon.KnownFile
	err := filepath.WalkDir(m.Dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		for _, u := range untrusted {
			if path == m.Path(u) {
				return nil
			}
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		d := cordon.Digest(sha256.Sum256(content))
		entries = append(entries, cordon.TrustEntry{Digest: d, Size: int64(len(content)), Origin: "test"})
		if len(entries)%2 == 0 {
			var st unix.Stat_t
			if err := unix.Lstat(path, &st); err != nil {
				return err
			}
			known = append(known, cordon.KnownFile{ID: fileid.FromStat(&st), Digest: d})
		}
		return nil
	})
	if err != nil {
		m.t.Fatal(err)
	}
	return cordon.NewTrustSet(entries, known)
}

func (m *machine) check(untrusted ...string) []string {
	m.t.Helper()
	missing, err := Check(m.t.Context(), m.Dir, m.set(untrusted...), Options{Proc: m.proc.Dir, Agent: m.agent})
	if err != nil {
		m.t.Fatal(err)
	}
	var out []string
	for _, x := range missing {
		out = append(out, x.String())
	}
	return out
}

func TestComplete(t *testing.T) {
	m := newMachine(t)
	if got := m.check(); got != nil {
		t.Errorf("missing: %s", strings.Join(got, "\n"))
	}
	if got := m.check("/usr/bin/other", "/usr/bin/git-shell", "/usr/sbin/nologin", "/usr/sbin/dhclient", "/tmp/dhclient", "/srv/iwd"); got != nil {
		t.Errorf("missing although nothing needs it: %s", strings.Join(got, "\n"))
	}
}

// TestEachMissing takes away the trust in every file that matters, one by one.
func TestEachMissing(t *testing.T) {
	m := newMachine(t)
	const content = ", but its content is not in the trust set"
	for path, role := range map[string]string{
		"/usr/lib/systemd/systemd":                 "PID 1",
		"/usr/lib64/ld.so":                         "PID 1",
		"/usr/lib/systemd/private/libsd-core.so":   "PID 1",
		"/usr/lib/systemd/private/libsd-shared.so": "PID 1",
		"/usr/lib/triplet/libc.so.6":               "PID 1",
		"/usr/lib/triplet/libnss.so.2":             "PID 1",
		"/usr/lib/systemd/systemd-shutdown":        "systemd's own helper",
		"/usr/bin/login":                           "logging in",
		"/usr/lib/triplet/libpam.so.0":             "logging in",
		"/usr/lib/triplet/libaudit.so.1":           "logging in",
		"/usr/sbin/sshd":                           "logging in over the network",
		"/usr/bin/sudo":                            "becoming root",
		"/usr/bin/systemctl":                       "stopping and starting the machine",
		"/usr/bin/dpkg":                            "installing packages",
		"/usr/bin/apt":                             "installing packages",
		"/usr/lib/apt/methods/http":                "installing packages",
		"/usr/bin/dnf":                             "installing packages",
		"/usr/bin/env":                             "installing packages",
		"/usr/bin/python3.11":                      "installing packages",
		"/usr/bin/bash":                            "the shell of root",
		"/usr/bin/zsh":                             "the shell of ann",
		"/usr/sbin/NetworkManager":                 "the network, process 77",
		"/usr/bin/cordon":                          "Cordon itself",
	} {
		want := []string{path + ": needed for " + role + content}
		if diff := cmp.Diff(want, m.check(path)); diff != "" {
			t.Errorf("%s: %s", path, diff)
		}
	}
	if got := m.check("/usr/bin/bash", "/usr/sbin/sshd"); len(got) != 2 {
		t.Errorf("not everything is reported: %v", got)
	}
}

func TestBroken(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(*machine)
		want []string
	}{
		"no agent": {func(m *machine) { m.Remove("usr/bin/cordon") }, []string{"/usr/bin/cordon: needed for Cordon itself, but it is not there"}},
		"no library": {func(m *machine) { m.Remove("usr/lib/triplet/libaudit.so.1") },
			[]string{"/usr/lib/triplet/libpam.so.0: needed for logging in, but its library libaudit.so.1 cannot be found"}},
		"library of another architecture": {func(m *machine) {
			m.Write("usr/lib/triplet/libaudit.so.1", program{machine: elf.EM_AARCH64}.String(), 0o644)
		}, []string{"/usr/lib/triplet/libpam.so.0: needed for logging in, but its library libaudit.so.1 cannot be found"}},
		"no interpreter": {func(m *machine) { m.Write("usr/bin/apt", "#!/usr/bin/perl -w\n", 0o755) },
			[]string{"/usr/bin/perl: needed for installing packages, but it is not there, and /usr/bin/apt begins with it"}},
		"broken ELF file": {func(m *machine) { m.Write("usr/bin/sudo", "\x7fELF?", 0o755) },
			[]string{"/usr/bin/sudo: needed for becoming root, but it is a broken ELF file: "}},
		"a loop for a program": {func(m *machine) { m.Remove("usr/bin/sudo"); m.Link("sudo", "usr/bin/sudo") },
			[]string{"/usr/bin/sudo: needed for becoming root, but it cannot be reached: "}},
		"a directory for a program": {func(m *machine) { m.Remove("usr/bin/sudo"); m.Write("usr/bin/sudo/x", "", 0o644) },
			[]string{"/usr/bin/sudo: needed for becoming root, but it cannot be read: not a regular file"}},
		"no PID 1": {func(m *machine) { m.Remove("usr/sbin/init"); m.proc.Remove("1/exe"); m.proc.Remove("1/maps") },
			[]string{"/sbin/init: needed for PID 1, but neither it nor the program of PID 1 can be found"}},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			c.do(m)
			got := m.check()
			if len(got) == len(c.want) {
				for i := range got {
					got[i] = got[i][:min(len(got[i]), len(c.want[i]))]
				}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestHidden says that PID 1 is found where the kernel does not show it, and that
// a machine without accounts has no shells.
func TestHidden(t *testing.T) {
	m := newMachine(t)
	m.proc.Remove("1/exe")
	m.proc.Remove("1/maps")
	m.Remove("etc/passwd")
	m.Remove("etc/shells")
	want := []string{"/usr/lib/systemd/systemd: needed for PID 1, but its content is not in the trust set"}
	if diff := cmp.Diff(want, m.check("/usr/lib/systemd/systemd", "/usr/bin/bash")); diff != "" {
		t.Error(diff)
	}
}

// TestNoShells says that without a list of shells every shell counts.
func TestNoShells(t *testing.T) {
	m := newMachine(t)
	m.Remove("etc/shells")
	want := []string{"/usr/bin/git-shell: needed for the shell of git, but its content is not in the trust set"}
	if diff := cmp.Diff(want, m.check("/usr/bin/git-shell")); diff != "" {
		t.Error(diff)
	}
}

// TestVariants says that the libraries for better processors count as well.
func TestVariants(t *testing.T) {
	m := newMachine(t)
	const path = "/usr/lib/triplet/glibc-hwcaps/x86-64-v3/libaudit.so.1"
	m.lib(path)
	want := []string{path + ": needed for logging in, but its content is not in the trust set"}
	if diff := cmp.Diff(want, m.check(path)); diff != "" {
		t.Error(diff)
	}
}

// TestRPath says that an old-style search path reaches the libraries of libraries.
func TestRPath(t *testing.T) {
	m := newMachine(t)
	m.Write("usr/bin/sudo", program{interpreter: loader, needed: []string{"liba.so"}, rpath: "/opt/sudo:/nowhere"}.String(), 0o755)
	m.lib("/opt/sudo/liba.so", "libb.so")
	m.lib("/opt/sudo/libb.so")
	want := []string{"/opt/sudo/libb.so: needed for becoming root, but its content is not in the trust set"}
	if diff := cmp.Diff(want, m.check("/opt/sudo/libb.so")); diff != "" {
		t.Error(diff)
	}
}

func TestErrors(t *testing.T) {
	m := newMachine(t)
	if _, err := Check(t.Context(), m.Dir, m.set(), Options{Proc: m.Path("none")}); err == nil || !strings.Contains(err.Error(), "list processes") {
		t.Errorf("no proc: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Check(ctx, m.Dir, m.set(), Options{Proc: m.proc.Dir}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	m.Remove("etc/passwd")
	m.Write("etc/passwd/x", "", 0o644)
	if _, err := Check(t.Context(), m.Dir, m.set(), Options{Proc: m.proc.Dir}); err == nil || !strings.Contains(err.Error(), "read accounts: /etc/passwd") {
		t.Errorf("passwd is a directory: %v", err)
	}
}

// FuzzLinkage reads files that claim to be programs.
func FuzzLinkage(f *testing.F) {
	f.Add([]byte(exe("x", "liba.so")))
	f.Add([]byte(program{runpath: "$ORIGIN/a:${LIB}", rpath: "/b"}.String()))
	f.Add([]byte("#!/bin/sh -e\n"))
	path := filepath.Join(f.TempDir(), "f")
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
		if l := readLinkage(path, "/f"); l == nil {
			t.Error("no linkage and no error")
		}
		if i, arg := scriptLine(b); i == "" && arg != "" || strings.ContainsAny(i+arg, "\n") {
			t.Errorf("interpreter %q, argument %q", i, arg)
		}
	})
}
