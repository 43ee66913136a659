package bpflsm

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon"
)

// testLies has root say, before the machine is restricted, that file systems on
// files lie on disks: none of that is believed.
func testLies(t *testing.T, g *guest) {
	g.apply(t, cordon.ModeOff)
	small := func(name string) string { return loopDisk(t, g.write(t, name, nil), 128<<20) }
	program := func(v volume) string { return put(t, filepath.Join(v.at, "program"), g.program) }
	lies := make(map[string]string) // programs
	sound := make(map[string]string)

	// A btrfs on a file, by the name of a disk whose own btrfs is mounted where nobody sees it.
	hidden := makeVolume(t, "btrfs", ramDisk(t))
	_ = open(t, program(hidden), os.O_RDONLY)
	if err := unix.Unmount(hidden.at, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	lies["the name of a disk"] = program(makeVolume(t, "btrfs", alias(t, small("named"), filepath.Base(hidden.dev))))
	sound["the name of a file"] = program(makeVolume(t, "btrfs", alias(t, ramDisk(t), "loop7")))

	// Of two devices.
	disk, file := ramDisk(t), small("half")
	lies["half on a file"] = program(makeVolume(t, "btrfs", disk, file))
	disk2, disk3 := ramDisk(t), ramDisk(t)
	both := makeVolume(t, "btrfs", disk2, disk3)
	sound["two disks"] = program(both)

	// The same file system as on a disk, on a file: Linux 6.7 gives it another name.
	original := makeVolume(t, "btrfs", ramDisk(t))
	sound["of which there is a copy"] = program(original)
	unix.Sync()
	twin := volume{"btrfs", loopDisk(t, copyOf(t, original.dev, filepath.Join(g.dir, "twin")), 400<<20), t.TempDir()}
	if err := unix.Mount(twin.dev, twin.at, "btrfs", 0, ""); err == nil {
		t.Cleanup(func() { _ = unix.Unmount(twin.at, unix.MNT_DETACH) })
		lies["a copy on a file"] = twin.at + "/program"
	} else {
		t.Logf("this kernel mounts no copy: %v", err)
	}

	// Another one on the same place, on top.
	covered := makeVolume(t, "btrfs", small("covered"))
	_ = program(covered)
	lies["covered by one on a disk"] = fmt.Sprintf("/proc/self/fd/%d/program", open(t, covered.at, os.O_RDONLY).Fd())
	top := makeVolume(t, "btrfs", ramDisk(t))
	sound["on top of one on a file"] = program(top)
	if err := unix.Mount(top.at, covered.at, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(covered.at, unix.MNT_DETACH) })

	// A volume on a file that seems to lie on nothing.
	dev, remove := linear(t, small("beneath"))
	on := makeVolume(t, "ext4", dev)
	t.Cleanup(func() {
		if err := unix.Unmount(on.at, 0); err != nil {
			t.Fatal(err)
		}
		remove()
	})
	lies["a volume, slaves covered"] = program(on)
	cover(t, "/sys/block/"+filepath.Base(dev)+"/slaves", "")

	// A table of mounts that says so.
	said := makeVolume(t, "btrfs", small("said"))
	lies["another file system, says a file"] = program(said)
	table := string(read(t, "/proc/self/mountinfo"))
	var lines []string
	for line := range strings.Lines(table) {
		if strings.Contains(line, " "+said.at+" ") {
			line = strings.Replace(line, " - btrfs ", " - zfs ", 1)
		}
		lines = append(lines, line)
	}
	changed := strings.Join(lines, "")
	if changed == table {
		t.Fatalf("%s is not in\n%s", said.at, table)
	}
	cover(t, "/proc/self/mountinfo", put(t, filepath.Join(t.TempDir(), "table"), []byte(changed)))

	g.apply(t, cordon.ModeEnforce)
	for what, path := range lies {
		g.refused(t, what, func() error { return run(path) })
	}
	for what, path := range sound {
		allowed(t, what, run(path))
	}
	g.apply(t, cordon.ModeOff)

	// The way to what the agent has mounted for itself.
	elsewhere, other := t.TempDir(), t.TempDir()
	if err := os.Mkdir(other+"/self", 0o755); err != nil {
		t.Fatal(err)
	}
	_ = put(t, other+"/self/mountinfo", []byte(changed))
	for n := range 256 {
		if err := os.Symlink(other, filepath.Join(elsewhere, fmt.Sprint(n))); err != nil {
			t.Fatal(err)
		}
	}
	cover(t, "/proc/self/fd", elsewhere)
	if err := g.Apply(cordon.ModeEnforce, g.set); err == nil {
		t.Error("descriptors in /proc that lead elsewhere are believed")
	}
}

// copyOf writes what a device has to the file at path, with holes.
func copyOf(t *testing.T, dev, path string) string {
	t.Helper()
	from, to := open(t, dev, os.O_RDONLY), open(t, path, os.O_RDWR|os.O_CREATE)
	block, zeros := make([]byte, 1<<20), make([]byte, 1<<20)
	for at := int64(0); ; at += int64(len(block)) {
		n, err := from.ReadAt(block, at)
		if n > 0 && !bytes.Equal(block[:n], zeros[:n]) {
			if _, err := to.WriteAt(block[:n], at); err != nil {
				t.Fatal(err)
			}
		}
		if errors.Is(err, io.EOF) {
			return path
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// alias makes another node of a device, with another name.
func alias(t *testing.T, dev, name string) string {
	t.Helper()
	var st unix.Stat_t
	dir, err := os.MkdirTemp("/dev", "")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, name)
	if err := errors.Join(unix.Stat(dev, &st), unix.Mknod(path, unix.S_IFBLK|0o600, int(st.Rdev))); err != nil {
		t.Fatal(err)
	}
	return path
}

// cover mounts something over path until the test ends: a file, or an empty directory.
func cover(t *testing.T, path, with string) {
	t.Helper()
	fs, flags := "tmpfs", uintptr(0)
	if with != "" {
		fs, flags = "", unix.MS_BIND
	}
	if err := unix.Mount(with, path, fs, flags, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// testErofs has the same image on a disk, where its programs run, and as a file on
// a disk whose programs run, which is written to beneath the file system.
func testErofs(t *testing.T, g *guest, on volume) {
	g.apply(t, cordon.ModeOff)
	from, image := t.TempDir(), filepath.Join(on.at, "image") // the kernel takes none in memory
	_ = put(t, from+"/program", g.program)
	if out, err := exec.Command("/sbin/mkfs.erofs", image, from).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	mount := func(source string) (string, error) {
		at := t.TempDir()
		err := unix.Mount(source, at, "erofs", unix.MS_RDONLY, "")
		t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
		return at + "/program", err
	}
	disk := ramDisk(t)
	if err := os.WriteFile(disk, read(t, image), 0); err != nil {
		t.Fatal(err)
	}
	onDisk, err := mount(disk)
	if err != nil {
		t.Fatal(err)
	}
	onFile, err := mount(image)
	if errors.Is(err, unix.ENOTBLK) {
		t.Logf("this kernel mounts no file: %v", err) // Linux 6.12 does
	} else if err != nil {
		t.Fatal(err)
	}
	g.apply(t, cordon.ModeEnforce)
	allowed(t, "erofs on a disk", run(onDisk))
	if err != nil {
		return
	}
	g.refused(t, "erofs on a file", func() error { return run(onFile) })
	blocks := read(t, image)
	at := bytes.Index(blocks, g.program)
	if at < 0 {
		t.Fatal("the image does not have the program as it is")
	}
	f := open(t, image, os.O_WRONLY)
	if _, err := f.WriteAt([]byte{^g.program[len(g.program)-1]}, int64(at+len(g.program)-1)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Close(), os.WriteFile("/proc/sys/vm/drop_caches", []byte("1"), 0)); err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(read(t, onFile), g.program) {
		t.Error("what was written beneath is not seen")
	}
	g.refused(t, "erofs on a file that was written to", func() error { return run(onFile) })
}
