package trusted

import (
	"testing"

	"github.com/cordon-project/cordon"
)

func TestKeys(t *testing.T) {
	digest := func(b byte) (d cordon.Digest) { d[31] = b; return d }
	keys, flags, anySize := Keys(cordon.NewTrustSet([]cordon.TrustEntry{
		{Digest: digest(1), Size: 10, Origin: "dpkg:coreutils", Role: 3},
		{Digest: digest(2), Size: 10, Origin: "rule:udev"},
		{Digest: digest(3), Size: 300, Origin: Self},
		{Digest: digest(4), Size: 300, Origin: "dpkg:cordon"},
		{Digest: digest(5), Size: 10, Origin: "rpm:udev"},
	}, nil), digest(4), []string{"rule", "rpm"})
	want := map[Key]uint32{
		Key(digest(1)): runs | 3<<role, Key(digest(2)): runs | noCode, Key(digest(3)): runs | agent, Key(digest(4)): runs | agent, Key(digest(5)): runs | noCode | commands,
		{10}: runs, {300 & 0xff, 300 >> 8}: runs,
	}
	if len(keys) != len(want) || len(flags) != len(want) || anySize {
		t.Errorf("got %x, %v, %v", keys, flags, anySize)
	}
	for i, k := range keys {
		if flags[i] != want[k] {
			t.Errorf("%x: %#x, not %#x", k, flags[i], want[k])
		}
	}
	if keys, _, anySize := Keys(cordon.NewTrustSet([]cordon.TrustEntry{{Digest: digest(1), Size: -1}}, nil), digest(4), nil); len(keys) != 1 || !anySize {
		t.Errorf("of any size: got %x, %v", keys, anySize)
	}
}

func TestOnDisks(t *testing.T) {
	for origin, want := range map[string]uint32{
		"dpkg:grub-pc": disks, "rpm:grub2-tools": disks, "dpkg:lvm2": disks, "dpkg:coreutils": 0, "rule:grub:1": 0, "rule:udev": 0, "cordon": 0, "dpkg:lvm2-dbg": 0, "": 0, "grub": 0,
		"dpkg:udev": commands, "rpm:systemd-udev": commands, "dpkg:multipath-tools": commands, "dpkg:udevil": 0,
	} {
		if got := onDisks(origin); got != want {
			t.Errorf("%q: %v", origin, got)
		}
	}
}
