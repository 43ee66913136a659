// Package trusted says what a trust set is to the programs in the kernel: what they look
// up of a file, and what they find there.
package trusted

import (
	"encoding/binary"
	"slices"
	"strings"

	"github.com/cordon-project/cordon"
)

// Key is struct key: a digest, or the size of a trusted content and zeros.
type Key [32]byte

func sizeKey(size int64) (k Key) {
	binary.LittleEndian.PutUint64(k[:], uint64(size))
	return k
}

// Flags of a key. The first has no meaning but that the key is there.
const (
	runs     uint32 = 1
	agent    uint32 = 2  // whoever executes this is the agent
	disks    uint32 = 4  // whoever executes this may write to disks
	noCode   uint32 = 8  // whoever executes this may not make code without a file
	commands uint32 = 16 // whoever executes this may give commands to disks
	role            = 8  // how far the role is shifted
)

// Self is the origin of the agent's own program in trust sets.
const Self = "cordon"

// onDisks returns what programs that a package brings have to do to the disk
// that the system runs from: else an upgrade of the boot loader would fail, and
// udev would not find out which disk is which.
func onDisks(origin string) uint32 {
	_, name, packaged := strings.Cut(origin, ":")
	switch {
	case !packaged || strings.HasPrefix(origin, "rule:"):
	case strings.HasPrefix(name, "grub"), name == "lvm2":
		return disks
	case slices.Contains([]string{"udev", "systemd-udev", "multipath-tools", "device-mapper-multipath"}, name):
		return commands
	}
	return 0
}

// Keys returns the keys of a trust set, and the flags of each. anySize says that there are contents of
// which the size is not known. self is the agent's program; noAnonymous are the first words of the
// origins of what may not make code without a file.
func Keys(set *cordon.TrustSet, self cordon.Digest, noAnonymous []string) (keys []Key, flags []uint32, anySize bool) {
	keys = make([]Key, 0, set.Len()+set.Len()/2)
	flags = make([]uint32, 0, cap(keys))
	sizes := make(map[int64]struct{}, set.Len()/2)
	for e := range set.Entries() {
		may := runs | uint32(e.Role)<<role | onDisks(e.Origin)
		if e.Origin == Self || e.Digest == self {
			may |= agent
		}
		if class, _, _ := strings.Cut(e.Origin, ":"); slices.Contains(noAnonymous, class) {
			may |= noCode
		}
		keys, flags = append(keys, Key(e.Digest)), append(flags, may)
		if _, there := sizes[e.Size]; e.Size < 0 {
			anySize = true
		} else if !there {
			sizes[e.Size] = struct{}{}
			keys, flags = append(keys, sizeKey(e.Size)), append(flags, runs)
		}
	}
	return keys, flags, anySize
}
