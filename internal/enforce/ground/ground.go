// Package ground tells what the mounted file systems lie on, and which of them keep
// what they once gave: only there can a program be trusted for longer than it takes
// to look at it.
package ground

import (
	"errors"
	"io/fs"
	"os"
	"path"

	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon/internal/enforce/mount"
)

// State is what is known of a device: enum disk of the programs in
// internal/enforce/bpflsm/bpf, as far as it is found here.
type State uint32

const (
	// Stacked is a device beneath a volume, or one: nobody may write to it.
	Stacked State = 3
	// Relied is one of those that has a mounted file system, whose files can be trusted.
	Relied State = 4
)

// Disk names the device that a file system is on, "" if the kernel tells of none,
// and says whether it is made of others.
func Disk(m mount.Mount) (name string, volume bool) {
	s := sysfs{os.DirFS("/sys")}
	dir, err := s.follow("dev/block/" + m.Number())
	if err != nil {
		return "", false
	}
	return path.Base(dir), s.isVolume(dir)
}

// Several says whether file systems of a type are on devices of which the kernel tells none (s_bdev).
func Several(fstype string) bool { return fstype == "btrfs" || fstype == "zfs" }

// Device is the number of the device of a file system, as the kernel has it.
func Device(m mount.Mount) uint32 { return number(m.Major, m.Minor) }

// number is how the kernel has the number of a device: 12 bits of major and 20 of
// minor, unlike stat(2).
func number(major, minor uint32) uint32 { return major<<20 | minor }

// Find returns what is to be known of devices, as the kernel numbers them: the
// mounted volumes and arrays, and file systems that have a number of their own; and
// what those are made of (slaves, in sysfs), with the disks that those are parts of.
// Of what lies on a file or a program, there is nothing. What zfs lies on is not
// known. Nothing that somebody has mounted over the kernel's own answers is believed.
func Find() (found map[uint32]State, err error) {
	proc, err := mount.Fresh("proc")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, proc.Close()) }()
	sys, err := mount.Fresh("sysfs")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, sys.Close()) }()
	table := func() ([]mount.Mount, error) {
		text, err := proc.ReadFile("self/mountinfo")
		if err != nil {
			return nil, err
		}
		return mount.Parse(string(text))
	}
	first, err := table()
	if err != nil {
		return nil, err
	}
	known := identify(first)
	defer func() { err = errors.Join(err, known.Close()) }()
	now, err := table() // with known's mounts held, their ids mean them
	if err != nil {
		return nil, err
	}
	return find(sysfs{sys.FS()}, now, known.fsid)
}

// find is called with how the btrfs are called that were asked, by the ids of mounts.
func find(sys sysfs, table []mount.Mount, fsid map[uint64]string) (map[uint32]State, error) {
	called := make(map[uint32]string)
	for _, m := range table {
		if id := fsid[m.ID]; id != "" {
			called[Device(m)] = id
		}
	}
	found := make(map[uint32]State)
	var relied []uint32
	for _, m := range table {
		var sound bool
		var under []uint32
		dir, err := sys.follow("dev/block/" + m.Number())
		switch {
		case err == nil && sys.isVolume(dir):
			under, sound, err = sys.madeOf(dir)
		case err == nil:
		case !errors.Is(err, fs.ErrNotExist):
		case m.Type == "btrfs":
			under, sound, err = sys.btrfs(called[Device(m)])
		default:
			sound, err = m.Type == "zfs", nil
		}
		if gone := errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV); err != nil && !gone {
			return nil, err
		} else if gone || !sound {
			continue
		}
		relied = append(relied, Device(m))
		for _, dev := range under {
			found[dev] = Stacked
		}
	}
	for _, dev := range relied {
		found[dev] = Relied
	}
	return found, nil
}
