package bpflsm

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/enforce"
	"github.com/cordon-project/cordon/internal/testkit/vm"
)

// tools are the programs that make file systems in a guest, with what they need.
func tools(t *testing.T) map[string]string {
	t.Helper()
	if vm.Inside() != "" {
		return nil
	}
	files := map[string]string{}
	for name, dir := range map[string]string{"mke2fs": "/usr/sbin", "mkfs.xfs": "/usr/sbin", "mkfs.btrfs": "/usr/sbin", "mkfs.erofs": "/usr/bin"} {
		path := filepath.Join(dir, name)
		files["/sbin/"+name] = path
		out, err := exec.Command("ldd", path).Output()
		if err != nil {
			t.Fatalf("what %s needs (make deps installs it): %v", path, err)
		}
		for line := range strings.Lines(string(out)) {
			for f := range strings.FieldsSeq(line) {
				if filepath.IsAbs(f) {
					real, err := filepath.EvalSymlinks(f)
					if err != nil {
						t.Fatal(err)
					}
					files[f] = real
				}
			}
		}
	}
	return files
}

// volume is a mounted file system in memory.
type volume struct{ fs, dev, at string }

// makeVolume makes one on a compressed disk in memory, or on a file (loop); btrfs on more of them.
func makeVolume(t *testing.T, fs, dev string, more ...string) volume {
	t.Helper()
	args := map[string][]string{
		"ext4":  {"/sbin/mke2fs", "-q", "-t", "ext4", "-b", "4096", "-O", "verity", dev},
		"xfs":   {"/sbin/mkfs.xfs", "-q", dev},
		"btrfs": {"/sbin/mkfs.btrfs", "-q", "-f", dev},
	}[fs]
	if out, err := exec.Command(args[0], append(args[1:], more...)...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", fs, err, out)
	}
	v := volume{fs, dev, t.TempDir()}
	var options []string
	for _, m := range more {
		options = append(options, "device="+m)
	}
	if err := unix.Mount(dev, v.at, fs, 0, strings.Join(options, ",")); err != nil {
		t.Fatalf("mount %s: %v", fs, err)
	}
	t.Cleanup(func() { _ = unix.Unmount(v.at, unix.MNT_DETACH) })
	return v
}

func ramDisk(t *testing.T) string {
	t.Helper()
	n := strings.TrimSpace(string(read(t, "/sys/class/zram-control/hot_add")))
	at := "/sys/block/zram" + n
	if err := errors.Join(os.WriteFile(at+"/comp_algorithm", []byte("lz4"), 0), os.WriteFile(at+"/disksize", []byte("400M"), 0)); err != nil {
		t.Fatal(err)
	}
	return "/dev/zram" + n
}

func loopDisk(t *testing.T, file string, size int64) string {
	t.Helper()
	n, err := unix.IoctlRetInt(int(open(t, "/dev/loop-control", os.O_RDWR).Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		t.Fatal(err)
	}
	dev := fmt.Sprintf("/dev/loop%d", n)
	d, err := os.OpenFile(dev, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Truncate(file, size), unix.IoctlSetInt(int(d.Fd()), unix.LOOP_SET_FD, int(open(t, file, os.O_RDWR).Fd())), d.Close()); err != nil {
		t.Fatal(err)
	}
	return dev
}

// TestFileSystems has what is trusted run, and what is not refused, on the file
// systems that programs are installed on.
func TestFileSystems(t *testing.T) {
	eachKernel(t, vm.Config{Modules: []string{"lz4", "zram", "ext4", "xfs", "btrfs", "fuse", "loop", "scsi_debug", "sd_mod", "sg", "dm-mod", "erofs"}, Files: tools(t)}, testFileSystems)
}

func testFileSystems(t *testing.T) {
	g := openGuest(t)
	installer := append(read(t, "/bin/busybox"), "boot loader"...)
	e := entry(installer)
	e.Origin = "dpkg:grub-pc"
	e2 := entry(append(read(t, "/proc/self/exe"), "udev"...))
	e2.Origin = "dpkg:udev"
	g.set = g.set.With(e, e2)
	if err := os.WriteFile("/bin/busybox-grub", installer, 0o755); err != nil {
		t.Fatal(err)
	}
	var volumes []volume
	for _, fs := range []string{"ext4", "xfs", "btrfs"} {
		volumes = append(volumes, makeVolume(t, fs, ramDisk(t)))
	}
	image := g.write(t, "image", nil)
	loop := makeVolume(t, "ext4", loopDisk(t, image, 64<<20))
	bare := ramDisk(t)
	scsi := newSCSI(t)
	g.apply(t, cordon.ModeEnforce)
	t.Run("commands", func(t *testing.T) { testCommands(t, g, scsi, bare) })
	for _, v := range volumes {
		t.Run(v.fs, func(t *testing.T) { testVolume(t, g, v, bare) })
	}
	t.Run("btrfs subvolumes", func(t *testing.T) { testSubvolumes(t, g, volumes[2].at) })
	t.Run("fuse", func(t *testing.T) {
		path := serveFuse(t, g.program)
		if got := read(t, path); !bytes.Equal(got, g.program) {
			t.Fatalf("the server has %d bytes, not the %d of the program", len(got), len(g.program))
		}
		g.refused(t, "trusted content that a program shows", func() error { return run(path) })
		g.apply(t, cordon.ModeOff)
		allowed(t, "without a restriction", run(path))
		g.apply(t, cordon.ModeEnforce)
	})
	t.Run("loop", func(t *testing.T) { testLoop(t, g, loop, image) })
	t.Run("lies", func(t *testing.T) { testLies(t, g) })
	t.Run("erofs", func(t *testing.T) { testErofs(t, g, volumes[0]) })
	t.Run("numbers", func(t *testing.T) { testNumbers(t, g) })
	t.Run("coverage", func(t *testing.T) {
		all := g.Describe().Coverage
		for what, want := range map[string]cordon.Answer{
			"files on ext4 (" + volumes[0].at + ", " + scsi.at + ")": cordon.Yes,
			"files on xfs (" + volumes[1].at + ")":                   cordon.Yes,
			"files on btrfs (" + volumes[2].at + ")":                 cordon.Yes,
			"files on ext4 on loop (" + loop.at + ")":                cordon.No,
			"code without a file (JIT)":                              cordon.No,
			"programs and scripts that are executed":                 cordon.Unknown, // nobody proved it
			"everything while the agent is away":                     cordon.No,
			"other processes' memory (ptrace, /proc/PID/mem)":        cordon.Unknown,
		} {
			if !slices.ContainsFunc(all, func(c cordon.Coverage) bool { return c.What == what && c.Answer == want && c.Reason != "" }) {
				t.Errorf("%s: not %s in %+v", what, want, all)
			}
		}
	})
}

// TestInheritDisks has agents follow each other while somebody has a disk open for
// writing, and while another disk has programs that ran.
func TestInheritDisks(t *testing.T) {
	eachKernel(t, vm.Config{Modules: []string{"lz4", "zram", "ext4"}, Files: tools(t)}, testInheritDisks)
}

func testInheritDisks(t *testing.T) {
	_ = furnishAgents(t, t.TempDir())
	var programs [2]string
	var volumes [2]volume
	for i := range volumes {
		volumes[i] = makeVolume(t, "ext4", ramDisk(t))
		programs[i] = put(t, filepath.Join(volumes[i].at, "busybox"), read(t, "/bin/busybox"))
	}
	for n := range 3 {
		a, err := startAgent(t, "/proc/self/exe", homeDir)
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			_ = open(t, volumes[0].dev, os.O_RDWR) // and stays so
			allowed(t, "a program", run(programs[1], "true"))
		}
		when := fmt.Sprintf("agent %d: ", n)
		_, err = os.OpenFile(volumes[1].dev, os.O_RDWR, 0)
		mustFail(t, when+"open a disk with a program that ran", err, unix.EPERM)
		mustFail(t, when+"run a program of a disk that somebody has open", run(programs[0], "true"), unix.EPERM)
		allowed(t, when+"a program that ran before", run(programs[1], "true"))
		if n == 1 {
			a.tell(t, "die")
			_ = a.cmd.Wait() // killed
		}
	}
}

func testVolume(t *testing.T, g *guest, v volume, bare string) {
	at := func(name string, content []byte) string {
		path := filepath.Join(v.at, name)
		if err := os.WriteFile(path, content, 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good, evil := at("good", g.program), at("evil", g.evil(v.fs))
	allowed(t, "trusted", run(good))
	g.refused(t, "untrusted", func() error { return run(evil) })
	script := at("s.sh", []byte(trustedScript))
	allowed(t, "script", run(script))
	fi, err := os.Stat(script)
	if err != nil {
		t.Fatal(err)
	}
	f := open(t, script, os.O_WRONLY)
	if _, err := f.WriteAt([]byte("exit 1"), 10); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Close(), os.Chtimes(script, fi.ModTime(), fi.ModTime())); err != nil {
		t.Fatal(err)
	}
	g.refused(t, "written in place, times as before", func() error { return run(script) })
	for range 3 {
		if err := os.Remove(good); err != nil {
			t.Fatal(err)
		}
		path := at("reuse", g.evil(v.fs+"2"))
		g.refused(t, "perhaps with an inode number used again", func() error { return run(path) })
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		good = at("good", g.program)
		allowed(t, "trusted again", run(good))
	}
	g.refused(t, "the device opened for writing", func() error {
		_, err := os.OpenFile(v.dev, os.O_RDWR, 0)
		return err
	})
	_ = open(t, v.dev, os.O_RDONLY)
	_ = open(t, bare, os.O_RDWR)
	allowed(t, "the device written to by a boot loader's installer", run("/bin/busybox-grub", "dd", "if=/dev/null", "of="+v.dev, "conv=notrunc"))
	if err := run("/bin/busybox", "dd", "if=/dev/null", "of="+v.dev, "conv=notrunc"); err == nil {
		t.Error("anybody else could write to the device")
	}
}

// Files of two subvolumes have the same device and inode number for the kernel.
func testSubvolumes(t *testing.T, g *guest, at string) {
	dir := open(t, at, os.O_RDONLY)
	var paths [2]string
	for i, content := range [][]byte{g.program, g.evil("subvolume")} {
		name := fmt.Sprintf("sub%d", i)
		var args struct {
			fd   int64
			name [4088]byte
		}
		copy(args.name[:], name)
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, dir.Fd(), 0x5000940e /* BTRFS_IOC_SUBVOL_CREATE */, uintptr(unsafe.Pointer(&args))); errno != 0 {
			t.Fatal(errno)
		}
		paths[i] = filepath.Join(at, name, "program")
		if err := os.WriteFile(paths[i], content, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	var st [2]unix.Stat_t
	if err := errors.Join(unix.Stat(paths[0], &st[0]), unix.Stat(paths[1], &st[1])); err != nil || st[0].Ino != st[1].Ino {
		t.Fatalf("the numbers differ: %d, %d, %v", st[0].Ino, st[1].Ino, err)
	}
	for range 2 {
		allowed(t, "trusted", run(paths[0]))
		g.refused(t, "untrusted, same number", func() error { return run(paths[1]) })
	}
}

// A volume, or a file system with a number of its own, is relied on as long as it is
// what it was when the machine was restricted.
func testNumbers(t *testing.T, g *guest) {
	g.apply(t, cordon.ModeOff)
	image := func(name string) string { return loopDisk(t, g.write(t, name, nil), 128<<20) } // btrfs wants 110 MiB
	program := func(v volume) string {
		path := filepath.Join(v.at, "program")
		if err := os.WriteFile(path, g.program, 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	unmount := func(v volume) {
		if err := unix.Unmount(v.at, 0); err != nil {
			t.Fatal(err)
		}
	}
	numberOf := func(v volume) uint64 {
		var st unix.Stat_t
		if err := unix.Stat(v.at, &st); err != nil {
			t.Fatal(err)
		}
		return st.Dev
	}
	filed := makeVolume(t, "btrfs", image("filed"))
	later, other := makeVolume(t, "btrfs", ramDisk(t)), makeVolume(t, "ext4", image("other"))
	_, _, _ = program(filed), program(later), program(other)
	unmount(later)
	unmount(other)
	dev, remove := linear(t, ramDisk(t))
	on := makeVolume(t, "ext4", dev)
	_ = program(on)
	for _, mode := range []cordon.Mode{cordon.ModeAudit, cordon.ModeEnforce} {
		g.apply(t, mode)
		before := g.Stats().WouldRefuse
		allowed(t, fmt.Sprintf("on a volume, %v", mode), run(on.at+"/program"))
		if n := g.Stats().WouldRefuse - before; n != 0 {
			t.Errorf("on a volume, %v: it would be refused %d times", mode, n)
		}
	}
	g.refused(t, "btrfs on a file", func() error { return run(filed.at + "/program") })
	if err := unix.Mount(later.dev, later.at, "btrfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	g.refused(t, "btrfs that was mounted later", func() error { return run(later.at + "/program") })
	number := numberOf(on)
	unmount(on)
	remove()
	again, _ := linear(t, other.dev)
	if err := unix.Mount(again, on.at, "ext4", 0, ""); err != nil {
		t.Fatal(err)
	}
	if got := numberOf(on); got != number {
		t.Fatalf("the other volume has another number: %#x, not %#x", got, number)
	}
	g.refused(t, "another volume with the number of one that was relied on", func() error { return run(on.at + "/program") })
}

// A file is the disk: nothing there is trusted, but what fs-verity vouches for.
func testLoop(t *testing.T, g *guest, v volume, image string) {
	plain, sealed := filepath.Join(v.at, "plain"), filepath.Join(v.at, "sealed")
	for _, path := range []string{plain, sealed} {
		if err := os.WriteFile(path, g.program, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	g.refused(t, "trusted content on a loop device", func() error { return run(plain) })
	arg := struct {
		version, algorithm, block, saltSize uint32
		salt                                uint64
		sigSize, reserved                   uint32
		sig                                 uint64
		more                                [11]uint64
	}{version: 1, algorithm: 1 /* SHA-256 */, block: 4096}
	f, err := os.Open(sealed)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.FS_IOC_ENABLE_VERITY, uintptr(unsafe.Pointer(&arg))); errno != 0 {
		t.Fatal(errno)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	allowed(t, "with fs-verity", run(sealed))
	unix.Sync()
	blocks := read(t, image)
	n := 0
	for at := bytes.Index(blocks, g.program); at >= 0; at = bytes.Index(blocks, g.program) {
		n++
		blocks[at+len(g.program)-1] ^= 1
	}
	if err := errors.Join(os.WriteFile(image, blocks, 0o600), os.WriteFile("/proc/sys/vm/drop_caches", []byte("1"), 0)); err != nil {
		t.Fatal(err)
	}
	if err := run(sealed); err == nil || n < 2 {
		t.Errorf("changed beneath at %d places, it ran", n)
	}
}

// What is a choice is answered as it was chosen, and no where there is no choice.
func TestCoverageOfChoices(t *testing.T) {
	const jit, text = "code without a file (JIT)", "program text that interpreters read"
	called := enforce.Finding{Answer: cordon.Yes, Reason: "seen"}
	for _, c := range []struct {
		cfg       Config
		jit, text cordon.Answer
	}{
		{Config{}, cordon.No, cordon.No},
		{Config{DenyAnonymous: true, TrustedScripts: true}, cordon.Yes, cordon.Yes},
		{Config{DenyAnonymous: true, TrustedScripts: true, Scope: enforce.Scope{Mount: "/srv"}}, cordon.No, cordon.No},
	} {
		got := map[string]cordon.Answer{}
		for _, line := range (&Enforcer{cfg: c.cfg, called: called}).coverage() {
			got[line.What] = line.Answer
		}
		if got[jit] != c.jit || got[text] != c.text {
			t.Errorf("%+v: %+v", c.cfg, got)
		}
	}
}
