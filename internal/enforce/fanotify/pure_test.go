package fanotify

import (
	"crypto/sha256"
	"testing"

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

func TestTraits(t *testing.T) {
	for fstype, want := range map[string]trait{"fuse.sshfs": remote, "fuse": remote, "nfs4": remote, "tmpfs": timeless, "overlay": timeless, "ext4": 0, "proc": 0} {
		if got := traitOf(fstype); got != want {
			t.Errorf("%s is %d", fstype, got)
		}
	}
}
