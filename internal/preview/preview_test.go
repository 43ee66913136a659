package preview

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon"
)

// start runs a copy of sleep with a content of its own until the test ends.
func start(t *testing.T, path, mark string) cordon.Digest {
	t.Helper()
	program, err := os.ReadFile("/bin/sleep")
	if err != nil {
		t.Fatal(err)
	}
	program = append(program, mark...)
	if err := os.WriteFile(path, program, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it would sleep on
		_ = cmd.Wait()         // it was killed
	})
	return sha256.Sum256(program)
}

func TestScan(t *testing.T) {
	dir := t.TempDir()
	good := start(t, filepath.Join(dir, "good"), "1")
	evil := start(t, filepath.Join(dir, "evil\x1b\n"), "2")
	gone := start(t, filepath.Join(dir, "gone"), "3")
	second := exec.Command(filepath.Join(dir, "evil\x1b\n"), "1000")
	if err := second.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = second.Process.Kill() // it would sleep on
		_ = second.Wait()         // it was killed
	})
	if err := os.Remove(filepath.Join(dir, "gone")); err != nil {
		t.Fatal(err)
	}
	s := &Scanner{Proc: "/proc", Within: func(path string) bool { return filepath.Dir(path) == dir }, Owner: func(path string) string { return "dpkg:" + filepath.Base(path) }}
	set := cordon.NewTrustSet([]cordon.TrustEntry{{Digest: good, Size: -1}}, nil)
	for range 2 { // the second time from the cache
		files, total, err := s.Scan(t.Context(), set)
		if err != nil || total != 3 || len(files) != 2 {
			t.Fatalf("%+v, %d, %v", files, total, err)
		}
		if f := files[0]; f.Path != dir+`/evil\x1b\n` || f.SHA256 != evil.String() || f.Count != 2 || f.Owner != `dpkg:evil\x1b\n` || f.Reason == "" {
			t.Errorf("%+v", f)
		}
		if f := files[1]; f.Path != dir+"/gone (deleted)" || f.SHA256 != gone.String() || f.Count != 1 {
			t.Errorf("%+v", f)
		}
	}
	everything := cordon.NewTrustSet([]cordon.TrustEntry{{Digest: good, Size: -1}, {Digest: evil, Size: -1}, {Digest: gone, Size: -1}}, nil)
	if files, total, err := s.Scan(t.Context(), everything); err != nil || total != 0 || len(files) != 0 {
		t.Errorf("all is trusted, but %+v, %v", files, err)
	}
	// Libraries are told where they are judged.
	s.Within = func(string) bool { return true }
	_, programs, err := s.Scan(t.Context(), set)
	if err != nil {
		t.Fatal(err)
	}
	s.Mapped = true
	if _, all, err := s.Scan(t.Context(), set); err != nil || all <= programs {
		t.Errorf("%d uses with mappings, %d without, %v", all, programs, err)
	}
	if _, _, err := (&Scanner{Proc: dir + "/none"}).Scan(t.Context(), set); err == nil {
		t.Error("scanned without /proc")
	}
}

// What a process has mapped is of its own making.
func TestManyMappings(t *testing.T) {
	dir := t.TempDir()
	var maps bytes.Buffer
	for i := range 3 * maxMapped {
		fmt.Fprintf(&maps, "%x-%x r-xp 00000000 fe:00 7                   /lib/%s\n", i, i+1, strings.Repeat("x", 100))
		fmt.Fprintf(&maps, "%x-%x r--p 00000000 fe:00 7                   /lib/x\n%x-%x r-xp 00000000 00:00 0\n", i, i+1, i, i+1)
	}
	if err := os.WriteFile(filepath.Join(dir, "maps"), maps.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	links := mappings(dir)
	if len(links) != maxMapped || links[1] != filepath.Join(dir, "map_files/1-2") {
		t.Errorf("%d links, the second is %s", len(links), links[1])
	}
}

// What cannot be known to be on this machine is not touched: it might never answer.
func TestRemote(t *testing.T) {
	const local = "22 1 254:0 / / rw shared:1 - ext4 /dev/vda rw\n"
	const fuse = "23 22 0:50 / /mnt rw - fuse.sshfs somebody rw\n"
	long := "24 22 0:51 / /o rw - overlay overlay rw,lowerdir=" + strings.Repeat("/x:", 30_000) + "\n"
	for name, c := range map[string]struct {
		mounts      string
		disk, other bool
	}{
		"a FUSE file system":             {local + fuse, false, true},
		"none":                           {local, false, false},
		"one behind a line without end":  {local + long + fuse, true, true},
		"no list, the process has ended": {"", true, true},
	} {
		dir := t.TempDir()
		if err := os.MkdirAll(filepath.Join(dir, "ns"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("mnt:[1]", filepath.Join(dir, "ns/mnt")); err != nil {
			t.Fatal(err)
		}
		if c.mounts != "" {
			if err := os.WriteFile(filepath.Join(dir, "mountinfo"), []byte(c.mounts), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		s := &scan{remote: make(map[string]map[uint64]bool)}
		for range 2 { // also when it is asked again
			if disk, other := s.isRemote(dir, unix.Mkdev(254, 0)), s.isRemote(dir, unix.Mkdev(0, 50)); disk != c.disk || other != c.other {
				t.Errorf("%s: the disk is remote %v, the other one %v", name, disk, other)
			}
		}
	}
}
