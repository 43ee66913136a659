package ground

import (
	"io/fs"
	"maps"
	"path"
	"path/filepath"
	"testing"
	"testing/fstest"

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

// fakeSys is a sysfs to be filled.
type fakeSys struct {
	*testing.T
	fstest.MapFS
}

func (s fakeSys) file(name, content string) { s.MapFS[name] = &fstest.MapFile{Data: []byte(content)} }

// device adds a device at a path, with files.
func (s fakeSys) device(at, number string, more ...string) {
	s.file("devices/"+at+"/dev", number+"\n")
	for _, name := range more {
		s.file("devices/"+at+"/"+name, "")
	}
	s.link(at, "dev/block/"+number)
}

// link has a name lead to a device.
func (s fakeSys) link(device, name string) {
	s.Helper()
	to, err := filepath.Rel(path.Dir(name), "devices/"+device)
	if err != nil {
		s.Fatal(err)
	}
	s.MapFS[name] = &fstest.MapFile{Data: []byte(to), Mode: fs.ModeSymlink}
}

// btrfs adds one with devices, of which more were missing.
func (s fakeSys) btrfs(fsid string, missing int, devices ...string) {
	s.Helper()
	for i, d := range devices {
		s.link(d, "fs/btrfs/"+fsid+"/devices/"+path.Base(d))
		s.file("fs/btrfs/"+fsid+"/devinfo/"+string('1'+rune(i))+"/missing", "0\n")
	}
	for i := range missing {
		s.file("fs/btrfs/"+fsid+"/devinfo/m"+string('1'+rune(i))+"/missing", "1\n")
	}
}

func machine(t *testing.T) fakeSys {
	s := fakeSys{t, fstest.MapFS{}}
	s.device("sda", "8:0")
	s.device("sda/sda1", "8:1", "partition")
	s.device("sda/sda2", "8:2", "partition")
	s.device("sdb", "8:16")
	s.device("sdc", "8:32")
	s.device("dm-0", "253:0") // a volume on an array of sda2 and sdb
	s.device("md0", "9:0")
	s.link("md0", "devices/dm-0/slaves/md0")
	s.link("sda/sda2", "devices/md0/slaves/sda2")
	s.link("sdb", "devices/md0/slaves/sdb")
	s.device("dm-1", "253:1") // a volume on a volume on a file, and on a disk
	s.device("dm-2", "253:2")
	s.device("loop0", "7:0")
	s.device("sdf", "8:80")
	s.link("dm-2", "devices/dm-1/slaves/dm-2")
	s.link("loop0", "devices/dm-2/slaves/loop0")
	s.link("sdf", "devices/dm-1/slaves/sdf")
	s.device("md1", "9:1") // an array with a part
	s.device("md1/md1p1", "259:0", "partition")
	s.device("sdd", "8:48")
	s.link("sdd", "devices/md1/slaves/sdd")
	s.device("sde", "8:64")
	s.btrfs("on-disk", 0, "sdc")
	s.btrfs("on-part", 0, "sda/sda1", "sdb")
	s.btrfs("degraded", 1, "sdd")
	s.btrfs("half-on-file", 0, "sde", "loop0")
	s.btrfs("on-volume", 0, "dm-0")
	s.btrfs("on-file-beneath", 0, "dm-1")
	s.btrfs("hidden", 0, "sdf", "sdd") // one of its devices has no link
	delete(s.MapFS, "fs/btrfs/hidden/devices/sdd")
	s.btrfs("odd", 0)
	return s
}

func TestFind(t *testing.T) {
	s := machine(t)
	const sda, sda1, sda2, sdb, sdc, sdd = 8 << 20, 8<<20 | 1, 8<<20 | 2, 8<<20 | 16, 8<<20 | 32, 8<<20 | 48
	stacked := func(relied uint32, beneath ...uint32) map[uint32]State {
		all := map[uint32]State{relied: Relied}
		for _, dev := range beneath {
			all[dev] = Stacked
		}
		return all
	}
	for what, c := range map[string]struct {
		mounts string
		fsid   map[uint64]string
		want   map[uint32]State
	}{
		"a part of a disk":             {"20 1 8:1 / / rw - ext4 /dev/sda1 rw\n", nil, nil},
		"a volume":                     {"20 1 253:0 / / rw - ext4 /dev/x rw\n21 20 253:0 /c /c rw - ext4 /dev/x rw\n", nil, stacked(253<<20, 9<<20, sda, sda2, sdb)},
		"a volume on a file":           {"20 1 253:1 / / rw - ext4 /dev/y rw\n", nil, nil},
		"a part of an array":           {"20 1 259:0 / / rw - ext4 /dev/md1p1 rw\n", nil, stacked(259<<20, 9<<20|1, sdd)},
		"in memory":                    {"20 1 0:38 / / rw - tmpfs tmpfs rw\n", nil, nil},
		"zfs":                          {"20 1 0:37 / / rw - zfs pool rw\n", nil, stacked(37)},
		"erofs on a file":              {"20 1 0:39 / / rw - erofs /image ro\n", nil, nil},
		"btrfs":                        {"20 1 0:35 / / rw - btrfs /dev/x rw\n", map[uint64]string{20: "on-disk"}, stacked(35, sdc)},
		"btrfs, asked by another":      {"20 1 0:35 / / rw - btrfs /dev/x rw\n21 20 0:35 /s /s rw - btrfs /dev/x rw\n", map[uint64]string{21: "on-disk"}, stacked(35, sdc)},
		"btrfs on a part and a disk":   {"20 1 0:35 / / rw - btrfs /dev/x rw\n", map[uint64]string{20: "on-part"}, stacked(35, sda1, sda, sdb)},
		"btrfs on a volume":            {"20 1 0:35 / / rw - btrfs /dev/x rw\n", map[uint64]string{20: "on-volume"}, stacked(35, 253<<20, 9<<20, sda, sda2, sdb)},
		"btrfs that misses a device":   {"20 1 0:35 / / rw - btrfs /dev/x rw\n", map[uint64]string{20: "degraded"}, stacked(35, sdd)},
		"btrfs, half on a file":        {"20 1 0:35 / / rw - btrfs /dev/sde rw\n", map[uint64]string{20: "half-on-file"}, nil},
		"btrfs on a file beneath":      {"20 1 0:35 / / rw - btrfs /dev/x rw\n", map[uint64]string{20: "on-file-beneath"}, nil},
		"btrfs with a device unseen":   {"20 1 0:35 / / rw - btrfs /dev/x rw\n", map[uint64]string{20: "hidden"}, nil},
		"btrfs without any":            {"20 1 0:35 / / rw - btrfs /dev/x rw\n", map[uint64]string{20: "odd"}, nil},
		"btrfs that sysfs has not":     {"20 1 0:35 / / rw - btrfs /dev/x rw\n", map[uint64]string{20: "none"}, nil},
		"btrfs that was not asked":     {"20 1 0:35 / / rw - btrfs /dev/sdc rw\n", nil, nil},
		"an answer of another mount":   {"20 1 0:35 / / rw - btrfs /dev/sdc rw\n", map[uint64]string{21: "on-disk"}, nil},
		"an answer of what is none":    {"20 1 0:35 / / rw - fuse.btrfs x rw\n", map[uint64]string{20: "on-disk"}, nil},
		"two btrfs, one covered":       {"20 1 0:35 / /a rw - btrfs /dev/sdc rw\n21 20 0:36 / /a rw - btrfs /dev/sdc rw\n", map[uint64]string{21: "on-disk"}, stacked(36, sdc)},
		"a disk beneath what is not":   {"20 1 0:35 / / rw - btrfs x rw\n21 20 253:1 / /y rw - ext4 y rw\n", map[uint64]string{20: "on-disk"}, stacked(35, sdc)},
		"a volume beneath one as well": {"20 1 0:35 / / rw - btrfs x rw\n21 20 253:0 / /y rw - ext4 y rw\n", map[uint64]string{20: "on-volume"}, map[uint32]State{35: Relied, 253 << 20: Relied, 9 << 20: Stacked, sda: Stacked, sda2: Stacked, sdb: Stacked}},
	} {
		got, err := find(sysfs{s}, table(t, c.mounts), c.fsid)
		if err != nil || !maps.Equal(got, c.want) {
			t.Errorf("%s: got %v, %v; want %v", what, got, err, c.want)
		}
	}
	s.file("devices/sdb/dev", "odd")
	if got, err := find(sysfs{s}, table(t, "20 1 253:0 / / rw - ext4 /dev/x rw\n"), nil); err == nil {
		t.Errorf("an unreadable number: got %#x", got)
	}
}

func TestReached(t *testing.T) {
	all := table(t, `20 1 8:1 / / rw - ext4 /dev/sda1 rw
21 20 0:35 / /a rw - btrfs x rw
22 20 0:36 / /b rw - btrfs x rw
23 22 0:40 / /b rw - fuse.sshfs x rw
24 20 0:41 / /c rw - nfs x rw
25 24 0:35 / /c/d rw - btrfs x rw
26 20 0:37 / /e/f rw - btrfs x rw
27 20 0:42 / /e rw - fuse x rw
28 20 0:43 / /g rw - autofs x rw
29 28 0:38 / /g rw - btrfs x rw
30 20 0:44 / /h rw - btrfs x rw
31 30 0:45 / /h rw - btrfs x rw
`)
	want := map[uint64]bool{20: true, 21: true, 29: true, 31: true}
	for _, m := range all {
		if got := reached(all, m); got != want[m.ID] {
			t.Errorf("%+v: %v", m, got)
		}
	}
	for _, point := range []string{"x", ""} {
		if reached(all, mount.Mount{ID: 20, Point: point}) {
			t.Errorf("%q is reached", point)
		}
	}
}
