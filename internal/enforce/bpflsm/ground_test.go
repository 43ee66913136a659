package bpflsm

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon"
)

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
