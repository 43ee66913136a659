package ground_test

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/cordon-project/cordon/internal/enforce/ground"
	"github.com/cordon-project/cordon/internal/enforce/mount"
)

func table(t *testing.T, mountinfo string) []mount.Mount {
	t.Helper()
	all, err := mount.Parse(mountinfo)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestFind(t *testing.T) {
	sys := t.TempDir()
	device := func(path, number string, more ...string) {
		dir := filepath.Join(sys, "devices", path)
		if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(dir+"/dev", []byte(number+"\n"), 0o644), os.MkdirAll(sys+"/dev/block", 0o755), os.Symlink(dir, sys+"/dev/block/"+number)); err != nil {
			t.Fatal(err)
		}
		for _, name := range more {
			if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	link := func(to, from string) {
		if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(sys, from)), 0o755), os.Symlink(filepath.Join(sys, "devices", to), filepath.Join(sys, from))); err != nil {
			t.Fatal(err)
		}
	}
	device("sda", "8:0")
	device("sda/sda1", "8:1", "partition")
	device("sda/sda2", "8:2", "partition")
	device("sdb", "8:16")
	device("sdc", "8:32")
	device("dm-0", "253:0") // a volume on an array of sda2 and sdb
	device("md0", "9:0")
	link("md0", "devices/dm-0/slaves/md0")
	link("sda/sda2", "devices/md0/slaves/sda2")
	link("sdb", "devices/md0/slaves/sdb")
	link("sdc", "fs/btrfs/UUID/devices/sdc")
	device("dm-1", "253:1") // a volume on a volume on a file
	device("dm-2", "253:2")
	device("loop0", "7:0")
	device("md1", "9:1") // an array with a part
	device("md1/md1p1", "259:0", "partition")
	device("sdd", "8:48")
	link("dm-2", "devices/dm-1/slaves/dm-2")
	link("loop0", "devices/dm-2/slaves/loop0")
	link("sdd", "devices/md1/slaves/sdd")
	device("sde", "8:64") // a btrfs on a disk and on a file
	link("sde", "fs/btrfs/OTHER/devices/sde")
	link("loop0", "fs/btrfs/OTHER/devices/loop0")
	find := func(mountinfo string) (map[uint32]ground.State, error) { return ground.Find(sys, table(t, mountinfo)) }
	const mounts = "22 1 253:0 / / rw - ext4 /dev/x rw\n23 22 8:1 / /boot rw - ext4 /dev/sda1 rw\n24 22 0:35 / /data rw - btrfs /dev/sdc rw\n" +
		"25 22 253:1 / /a rw - ext4 /dev/y rw\n26 22 259:0 / /b rw - ext4 /dev/md1p1 rw\n27 22 253:0 /c /c rw - ext4 /dev/x rw\n" +
		"28 22 0:36 / /o rw - btrfs /dev/sde rw\n29 22 0:37 / /z rw - zfs pool rw\n30 22 0:38 / /t rw - tmpfs tmpfs rw\n31 22 0:39 / /e rw - erofs /image ro\n"
	got, err := find(mounts)
	want := map[uint32]ground.State{
		253 << 20: ground.Relied, 9 << 20: ground.Stacked, 8<<20 | 2: ground.Stacked, 8 << 20: ground.Stacked, 8<<20 | 16: ground.Stacked, // the volume, the array, and what it is on
		259 << 20: ground.Relied, 9<<20 | 1: ground.Stacked, 8<<20 | 48: ground.Stacked,
		35: ground.Relied, 8<<20 | 32: ground.Stacked, 8<<20 | 64: ground.Stacked, 37: ground.Relied,
	}
	if err != nil || !maps.Equal(got, want) {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
	const twice = "24 22 0:35 / /data rw - btrfs /dev/sdc rw\n25 22 0:35 /s /s rw - btrfs /dev/sdc rw\n"
	if got, err := find(twice); err != nil || got[35] != ground.Relied {
		t.Errorf("mounted twice: got %v, %v", got, err)
	}
	if got, err := find(twice + "26 22 0:40 / /f rw - btrfs /tmp/x/sdc rw\n"); err != nil || got[35] != 0 || got[40] != 0 {
		t.Errorf("another one says that it is on the same device: got %v, %v", got, err)
	}
	const unnamed = "24 22 0:35 / / rw - btrfs /dev/mapper/x rw\n"
	if got, err := find(unnamed); err != nil || got[35] != 0 {
		t.Errorf("one of two, one of which is on a file: got %v, %v", got, err)
	}
	if err := os.RemoveAll(sys + "/fs/btrfs/OTHER"); err != nil {
		t.Fatal(err)
	}
	if got, err := find(unnamed); err != nil || got[35] != ground.Relied {
		t.Errorf("the only one: got %v, %v", got, err)
	}
	if err := os.WriteFile(filepath.Join(sys, "devices/sdb/dev"), []byte("odd"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got, err := find("22 1 253:0 / / rw - ext4 /dev/x rw\n"); err == nil {
		t.Errorf("an unreadable number: got %#x", got)
	}
}
