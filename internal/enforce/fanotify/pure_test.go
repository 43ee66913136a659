package fanotify

import (
	"crypto/sha256"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon"
)

func TestRule(t *testing.T) {
	known := cordon.FileID{Dev: 1, Ino: 2, Size: 10, Mtime: 3, Ctime: 4}
	copied := cordon.FileID{Dev: 1, Ino: 3, Size: 10, Mtime: 3, Ctime: 4}
	changed := known
	changed.Ctime++
	odd := copied
	odd.Size = 11
	digest := cordon.Digest(sha256.Sum256([]byte("program")))
	p := &policy{mode: cordon.ModeEnforce, set: cordon.NewTrustSet([]cordon.TrustEntry{{Digest: digest, Size: 10}}, []cordon.KnownFile{{ID: known, Digest: digest}})}
	cache := map[cordon.FileID]struct{}{copied: {}}
	for name, c := range map[string]struct {
		id    cordon.FileID
		on    trait
		cache map[cordon.FileID]struct{}
		want  ruling
	}{
		"known when the set was built":       {known, 0, nil, allow},
		"changed since":                      {changed, 0, nil, readIt},
		"a copy, never seen":                 {copied, 0, nil, readIt},
		"a copy, seen before":                {copied, 0, cache, allow},
		"a size that nothing trusted has":    {odd, 0, cache, refuse},
		"known, but its time proves nothing": {known, timeless, nil, readIt},
		"seen, but its time proves nothing":  {copied, timeless, cache, readIt},
		"known, but somebody else answers":   {known, remote, cache, refuse},
	} {
		if got, why := rule(p, c.id, c.on, c.cache); got != c.want || (got == refuse) != (why != "") {
			t.Errorf("%s: got %d %q, want %d", name, got, why, c.want)
		}
	}
}

const table = `22 27 0:21 / /proc rw,nosuid shared:12 - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 27 0:26 / /mnt/a\040b\134c rw - fuse.sshfs me@host:/ rw
31 27 0:27 / /tmp rw master:3 propagate_from:2 - tmpfs tmpfs rw
`

func TestParseMounts(t *testing.T) {
	got, err := parseMounts(strings.NewReader(table))
	if err != nil {
		t.Fatal(err)
	}
	want := []mount{{unix.Mkdev(0, 21), "/proc", "proc"}, {unix.Mkdev(254, 0), "/", "ext4"}, {unix.Mkdev(0, 26), `/mnt/a b\c`, "fuse.sshfs"}, {unix.Mkdev(0, 27), "/tmp", "tmpfs"}}
	if d := cmp.Diff(want, got, cmp.AllowUnexported(mount{})); d != "" {
		t.Error(d)
	}
	for _, m := range got {
		if want := map[string]trait{"fuse.sshfs": remote, "tmpfs": timeless}[m.fstype]; traitOf(m.fstype) != want {
			t.Errorf("%s is %d", m.fstype, traitOf(m.fstype))
		}
	}
	for _, bad := range []string{"x", "1 2 3 4 5 6", "27 1 254 / / rw - ext4 /dev/vda rw", "27 1 a:b / / rw - ext4 d rw", "27 1 1:1 / / rw -"} {
		if got, err := parseMounts(strings.NewReader(bad)); err == nil {
			t.Errorf("%q gave %v", bad, got)
		}
	}
}

func FuzzParseMounts(f *testing.F) {
	f.Add(table)
	f.Add(`1 2 3:4 / /\0 rw - `)
	f.Fuzz(func(t *testing.T, s string) {
		_, _ = parseMounts(strings.NewReader(s)) // must not panic
	})
}
