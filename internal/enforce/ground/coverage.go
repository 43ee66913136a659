package ground

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/enforce/mount"
)

// keeping are the file systems that holds has, of the programs in
// internal/enforce/bpflsm/bpf, as mountinfo calls them.
var keeping = []string{
	"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "tmpfs", "devtmpfs", "rootfs", "ramfs", "squashfs", "erofs", "iso9660", "udf", "msdos", "vfat", "exfat", "zfs", "bcachefs",
}

// Keeps says whether file systems of a type keep what they once gave, as far as
// what they lie on does.
func Keeps(fstype string) bool { return slices.Contains(keeping, fstype) }

// pseudo are file systems that have no files of anybody's.
var pseudo = []string{
	"autofs", "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "efivarfs", "fusectl", "hugetlbfs", "mqueue", "nsfs", "proc", "pstore", "rpc_pipefs",
	"securityfs", "selinuxfs", "sysfs", "tracefs",
}

// Coverage says which files can be trusted, by the kinds of the mounted file
// systems. standing names the device that one is on, "" if it is on none, and says
// whether that came since the machine is restricted; overlay, that files below overlays are found.
func Coverage(table []mount.Mount, standing func(mount.Mount) (disk string, late bool), overlay bool) []cordon.Coverage {
	type kind struct {
		name   string
		answer cordon.Answer
		reason string
	}
	var kinds []kind
	at := make(map[kind][]string)
	for _, m := range table {
		if slices.Contains(pseudo, m.Type) {
			continue
		}
		k := kind{name: m.Type}
		disk, late := standing(m)
		switch {
		case k.name == "overlay" && overlay:
			k.answer, k.reason = cordon.Yes, "judged by the file below, refused where that cannot be relied on"
		case k.name == "overlay":
			k.answer, k.reason = cordon.No, "always refused: the overlay module's type information is missing"
		case !Keeps(k.name):
			k.answer, k.reason = cordon.No, "always refused: it may show something else the next time"
		case k.name == "erofs" && disk == "":
			k.answer, k.reason = cordon.No, "always refused: it lies on a file"
		case Served(disk):
			k.name += " on " + strings.TrimRight(disk, "0123456789")
			k.answer, k.reason = cordon.No, "always refused: the device is a file or a program"
		case late:
			k.name += " on a volume that came later"
			k.answer, k.reason = cordon.No, "refused: what lies beneath could be written to. It runs when the machine is restricted anew, unless that is a file"
		default:
			k.answer, k.reason = cordon.Yes, "judged by content, which is remembered until it can have changed"
		}
		if at[k] == nil {
			kinds = append(kinds, k)
		}
		if !slices.Contains(at[k], m.Point) {
			at[k] = append(at[k], m.Point)
		}
	}
	const most = 3
	all := make([]cordon.Coverage, len(kinds))
	for i, k := range kinds {
		points := at[k]
		more := ""
		if n := len(points) - most; n > 0 {
			points, more = points[:most], fmt.Sprintf(" and %d more", n)
		}
		all[i] = cordon.Coverage{What: fmt.Sprintf("files on %s (%s%s)", k.name, strings.Join(points, ", "), more), Answer: k.answer, Reason: k.reason}
	}
	return all
}

// Served says whether a device is a file, another machine or a program: served of
// the programs goes by the same.
func Served(device string) bool {
	return strings.HasPrefix(device, "loop") || strings.HasPrefix(device, "nbd") || strings.HasPrefix(device, "ublk")
}
