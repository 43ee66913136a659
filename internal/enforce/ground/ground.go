// Package ground tells what the mounted file systems lie on, and which of them keep
// what they once gave: only there can a program be trusted for longer than it takes
// to look at it.
package ground

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

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
func Disk(sys string, m mount.Mount) (name string, volume bool) {
	dir, err := filepath.EvalSymlinks(filepath.Join(sys, "dev/block", m.Number()))
	if err != nil {
		return "", false
	}
	return filepath.Base(dir), isVolume(dir)
}

// Several says whether file systems of a type are on devices of which the kernel tells none (s_bdev).
func Several(fstype string) bool { return fstype == "btrfs" || fstype == "zfs" }

// Device is the number of the device of a file system, as the kernel has it.
func Device(m mount.Mount) uint32 { return number(m.Major, m.Minor) }

// Find returns what is to be known of devices, as the kernel numbers them: the
// mounted volumes and arrays, and file systems that have a number of their own; what
// those are made of (slaves, in sysfs), with the disks that those are parts of; and
// the same of all devices of btrfs file systems, which mountinfo does not have. Of what
// lies on a file or a program, there is nothing. What zfs lies on is not known.
func Find(sys string, table []mount.Mount) (map[uint32]State, error) {
	found := make(map[uint32]State)
	named := make(map[string]map[uint32]bool) // the numbers of what is mounted from a device of a btrfs
	var relied []uint32
	add := func(dirs ...string) (sound bool, err error) {
		sound = len(dirs) > 0
		for _, dir := range dirs {
			devs, ok, err := madeOf(dir)
			if err != nil {
				return false, err
			}
			for _, dev := range devs {
				if ok {
					found[dev] = Stacked
				}
			}
			sound = sound && ok
		}
		return sound, nil
	}
	btrfs, err := filepath.Glob(filepath.Join(sys, "fs/btrfs/*/devices/*"))
	if err != nil {
		return nil, err
	}
	if _, err := add(btrfs...); err != nil {
		return nil, err
	}
	for _, m := range table {
		dev := number(m.Major, m.Minor)
		var sound bool
		dir, err := filepath.EvalSymlinks(filepath.Join(sys, "dev/block", m.Number()))
		switch {
		case err == nil && isVolume(dir):
			sound, err = add(dir)
		case err == nil:
		case !errors.Is(err, fs.ErrNotExist):
		case m.Type == "btrfs":
			id, members := membersOf(btrfs, m.Source)
			if named[id] == nil {
				named[id] = make(map[uint32]bool)
			}
			named[id][dev] = true
			sound, err = add(members...)
		default:
			sound, err = m.Type == "zfs", nil
		}
		if err != nil {
			return nil, err
		}
		if sound {
			relied = append(relied, dev)
		}
	}
	for _, dev := range relied {
		found[dev] = Relied
	}
	for id, devs := range named { // the name of a device can be had for another one, and nobody knows which is which
		for dev := range devs {
			if id != "" && len(devs) > 1 {
				delete(found, dev)
			}
		}
	}
	return found, nil
}

// membersOf returns those of the devices of btrfs file systems, in sysfs, that make
// up the one that is mounted from source, and its name there; all and "", if none is
// known by that name.
func membersOf(btrfs []string, source string) (id string, members []string) {
	if real, err := filepath.EvalSymlinks(source); err == nil {
		source = real
	}
	for _, device := range btrfs {
		if filepath.Base(device) == filepath.Base(source) {
			return filepath.Dir(device), slices.DeleteFunc(slices.Clone(btrfs), func(d string) bool { return filepath.Dir(d) != filepath.Dir(device) })
		}
	}
	return "", btrfs
}

// madeOf returns the device at dir in sysfs and all that it is made of, or a part
// of; sound says that there is no file or program among them.
func madeOf(dir string) (devs []uint32, sound bool, err error) {
	dir, err = filepath.EvalSymlinks(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil // gone
	}
	var dev uint32
	if err == nil {
		dev, err = deviceOf(dir)
	}
	if err != nil {
		return nil, false, err
	}
	devs, sound = []uint32{dev}, !Served(filepath.Base(dir))
	under, err := filepath.Glob(filepath.Join(dir, "slaves", "*"))
	if isPart(dir) {
		under = append(under, filepath.Dir(dir))
	}
	for _, u := range under {
		more, ok, bad := madeOf(u)
		devs, sound, err = append(devs, more...), sound && ok, errors.Join(err, bad)
	}
	return devs, sound, err
}

// isVolume is what volume of bpf/disk.h goes by.
func isVolume(dir string) bool {
	if isPart(dir) {
		dir = filepath.Dir(dir)
	}
	slaves, _ := filepath.Glob(filepath.Join(dir, "slaves", "*")) // the pattern is one
	return len(slaves) > 0 || strings.HasPrefix(filepath.Base(dir), "dm-")
}

// isPart says whether the device at dir in sysfs is a part of the disk above it.
func isPart(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "partition"))
	return err == nil
}

// deviceOf reads the number of the device at dir in sysfs.
func deviceOf(dir string) (uint32, error) {
	text, err := os.ReadFile(filepath.Join(dir, "dev"))
	if err != nil {
		return 0, err
	}
	var major, minor uint32
	if _, err := fmt.Sscanf(string(text), "%d:%d", &major, &minor); err != nil {
		return 0, fmt.Errorf("read the number of %s: %q: %w", dir, text, err)
	}
	return number(major, minor), nil
}

// number is how the kernel has the number of a device: 12 bits of major and 20 of
// minor, unlike stat(2).
func number(major, minor uint32) uint32 { return major<<20 | minor }
