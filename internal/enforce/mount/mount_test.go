package mount_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon/internal/enforce/mount"
)

const mountinfo = `22 27 0:21 / /proc rw,nosuid shared:12 - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 27 0:26 / /mnt/a\040b\134c rw - fuse.sshfs me@host:/ rw
31 27 0:27 / /tmp rw master:3 propagate_from:2 - tmpfs  rw
`

func TestParse(t *testing.T) {
	got, err := mount.Parse(mountinfo)
	want := []mount.Mount{{22, 0, 21, "/proc", "proc"}, {27, 254, 0, "/", "ext4"}, {30, 0, 26, `/mnt/a b\c`, "fuse.sshfs"}, {31, 0, 27, "/tmp", "tmpfs"}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
	for _, bad := range []string{"x", "1 2 3 4 5 6", "27 1 254 / / rw - ext4 /dev/vda rw", "27 1 a:b / / rw - ext4 d rw", "a 1 1:1 / / rw - ext4 d rw", "27 1 1:1 / / rw -", "27 1 1:1 / / rw - ext4", "27 1 1:1 / / rw -  d rw"} {
		if got, err := mount.Parse(bad); err == nil {
			t.Errorf("%q gave %v", bad, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(mountinfo)
	f.Add(`1 2 3:4 / /\0 rw - `)
	f.Fuzz(func(t *testing.T, s string) {
		table, err := mount.Parse(s)
		if err != nil {
			return
		}
		for _, m := range table {
			if m.Type == "" {
				t.Errorf("%q is of no type", s)
			}
		}
	})
}

// The kernel's own table is understood.
func TestTable(t *testing.T) {
	table, err := mount.Table()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.Open("/proc")
	if err != nil {
		t.Fatal(err)
	}
	id, err := mount.ID(dir)
	if err = errors.Join(err, dir.Close()); err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(table, func(m mount.Mount) bool { return m.Point == "/proc" && m.Type == "proc" && m.ID == id }) {
		t.Errorf("%d is not the mount of /proc in %v", id, table)
	}
}

func TestOf(t *testing.T) {
	const mountinfo = `22 1 8:1 / / rw - ext4 /dev/sda1 rw
23 22 8:2 / /home rw - xfs /dev/sda2 rw
24 23 0:50 / /home/u/a\040b rw - fuse.sshfs u@x: rw
25 22 0:51 / /srv rw - nfs x:/ rw
26 25 0:52 / /srv rw - tmpfs tmpfs rw
`
	table, err := mount.Parse(mountinfo)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"/usr/x.py": "ext4", "/home/u/x.py": "xfs", "/home/u/a bc/x": "xfs", "/homes/x": "ext4", "/srv/x": "tmpfs", "/home/u/a b/x": "fuse.sshfs", "(no file)": "", "": "",
	} {
		if m, ok := mount.Of(table, path); ok != (want != "") || m.Type != want {
			t.Errorf("%q: %v, %v", path, m, ok)
		}
	}
}

func TestOpen(t *testing.T) {
	dir := filepath.Clean(t.TempDir())
	for _, err := range []error{
		os.Mkdir(filepath.Join(dir, "a"), 0o755), os.WriteFile(filepath.Join(dir, "a/f"), []byte("text"), 0o600), os.Symlink("f", filepath.Join(dir, "a/l")),
		os.Symlink("a", filepath.Join(dir, "b")), unix.Mkfifo(filepath.Join(dir, "a/p"), 0o600), os.WriteFile(filepath.Join(dir, "large"), []byte("texts"), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	m := mount.Mount{Point: dir}
	for path, want := range map[string]bool{"a/f": true, "a/l": false, "b/f": false, "a": false, "a/p": false, "a/../a/f": false, "none": false, "": false, "large": false} {
		f, err := m.Open(dir+"/"+path, 4)
		if (err == nil) != want {
			t.Errorf("%s: %v", path, err)
		}
		if err == nil {
			if text, err := io.ReadAll(f); string(text) != "text" || err != nil {
				t.Errorf("%s: %q, %v", path, text, err)
			}
			_ = f.Close()
		}
	}
	if f, err := (mount.Mount{Point: "/"}).Open("/proc/version", 4096); err == nil {
		t.Error("another file system was entered")
		_ = f.Close()
	}
}
