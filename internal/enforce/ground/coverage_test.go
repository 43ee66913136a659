package ground

import (
	"os"
	"strings"
	"testing"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/enforce/mount"
)

func TestCoverage(t *testing.T) {
	const mountinfo = `22 1 8:1 / / rw - ext4 /dev/sda1 rw
23 22 8:1 /a /b\040c rw shared:1 - ext4 /dev/sda1 rw
24 22 8:1 / /c rw - ext4 /dev/sda1 rw
25 22 8:1 / /d rw - ext4 /dev/sda1 rw
26 22 0:5 / /proc rw - proc proc rw
27 22 7:3 / /snap rw - squashfs /dev/loop3 rw
28 22 0:40 / /mnt rw - fuse.sshfs x rw
29 22 0:41 / /o rw - overlay overlay rw
30 22 0:42 / /n rw - nfs4 x:/ rw
31 22 253:7 / /v rw - ext4 /dev/dm-7 rw
32 22 0:50 / /i rw - erofs /image ro
33 22 0:51 / /l rw - btrfs /dev/sdb rw
`
	standing := func(m mount.Mount) (string, bool) {
		return map[string]string{"8:1": "sda1", "7:3": "loop3", "253:7": "dm-7"}[m.Number()], m.Major == 253 || m.Type == "btrfs"
	}
	want := map[string]cordon.Answer{
		"files on ext4 (/, /b c, /c and 1 more)": cordon.Yes, "files on squashfs on loop (/snap)": cordon.No, "files on fuse.sshfs (/mnt)": cordon.No,
		"files on overlay (/o)": cordon.Yes, "files on nfs4 (/n)": cordon.No, "files on ext4 on a volume that came later (/v)": cordon.No, "files on erofs (/i)": cordon.No,
		"files on btrfs on a volume that came later (/l)": cordon.No,
	}
	got := Coverage(table(t, mountinfo), standing, true)
	for _, c := range got {
		if want[c.What] != c.Answer || c.Reason == "" {
			t.Errorf("got %+v", c)
		}
	}
	if len(got) != len(want) {
		t.Errorf("got %+v", got)
	}
	if got := Coverage(table(t, "29 22 0:41 / /o rw - overlay overlay rw\n"), standing, false); len(got) != 1 || got[0].Answer != cordon.No {
		t.Errorf("without the overlay's types: %+v", got)
	}
}

// The programs and this package name the same file systems.
func TestKeeps(t *testing.T) {
	text, err := os.ReadFile("../bpflsm/bpf/past.h")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "INLINE bool holds(")
	rest, _, _ = strings.Cut(rest, "return 1;")
	n := 0
	for line := range strings.Lines(rest) {
		if _, name, ok := strings.Cut(strings.TrimSpace(line), "/* "); ok && strings.Contains(line, "case ") {
			n++
			if name = strings.TrimSuffix(name, " */"); !Keeps(name) {
				t.Errorf("%s is missing here", name)
			}
		}
	}
	if n != 14 {
		t.Errorf("%d file systems there", n)
	}
}
