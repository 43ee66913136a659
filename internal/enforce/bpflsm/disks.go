package bpflsm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"

	"github.com/cordon-project/cordon"
)

// Of enum disk of bpf/disk.h.
const (
	diskStacked uint32 = 3
	diskRelied  uint32 = 4
)

// closeDisks has the volumes that are mounted now relied on, and nobody write to
// what lies beneath them. One that comes later could lie on anything, and somebody
// could have that open for writing. What else is mounted, and the disk that it is a
// part of, the programs find by themselves when code comes from there. What an
// earlier restriction knew is forgotten: it may be other devices now.
func (e *Enforcer) closeDisks() error {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("find the disks beneath what is mounted: %w", err)
	}
	found, err := beneath("/sys", string(mounts))
	if err != nil {
		return fmt.Errorf("find the disks beneath what is mounted: %w", err)
	}
	known, err := knownDisks(e.maps["disks"])
	if err != nil {
		return err
	}
	for dev := range known {
		if err := e.maps["disks"].Delete(dev); err != nil {
			return fmt.Errorf("forget a disk: %w", err)
		}
	}
	for dev, state := range found {
		if err := e.maps["disks"].Put(dev, state); err != nil {
			return fmt.Errorf("close a disk to writers: %w", err)
		}
	}
	return nil
}

func knownDisks(m *ebpf.Map) (map[uint32]uint32, error) {
	known := make(map[uint32]uint32)
	var dev, state uint32
	all := m.Iterate()
	for all.Next(&dev, &state) {
		known[dev] = state
	}
	if err := all.Err(); err != nil {
		return nil, fmt.Errorf("read what is known of disks: %w", err)
	}
	return known, nil
}

// inheritDisks takes over what an earlier agent's programs that are in force know
// of disks, and says whether there was something: who has opened one for writing
// may still have it open. It is called before ours are in force and again afterwards, as
// each notes only what is opened while it is, and a file system may go in between.
func (e *Enforcer) inheritDisks() (known bool, err error) {
	for _, old := range e.elders {
		if !old.enforcing || old.maps["disks"] == nil || old.maps["written"] == nil {
			continue
		}
		known = true
		for _, name := range []string{"disks", "written"} {
			theirs, err := knownDisks(old.maps[name])
			if err != nil {
				return known, err
			}
			ours, err := knownDisks(e.maps[name])
			if err != nil {
				return known, err
			}
			for dev, state := range theirs {
				if is, ok := ours[dev]; ok && is >= state && (is != diskRelied || state == diskRelied) {
					continue
				}
				if err := e.maps[name].Put(dev, state); err != nil {
					return known, fmt.Errorf("take over what is known of a disk: %w", err)
				}
			}
		}
	}
	return known, nil
}

// lateVolume is a name for volumes that were not there when the machine was restricted.
const lateVolume = "a volume that came later"

// diskOf names the device with a number as in mountinfo that a file system is on, "" if it is on none.
func (e *Enforcer) diskOf(number, fs string) string {
	name := ""
	if dir, err := filepath.EvalSymlinks(filepath.Join("/sys/dev/block", number)); err == nil {
		if name = filepath.Base(dir); !isVolume(dir) {
			return name
		}
	} else if !slices.Contains(onSeveral, fs) {
		return ""
	}
	if w, err := e.word(); err != nil || w.mode() != cordon.ModeEnforce {
		return name
	}
	var state uint32
	if dev, err := numberOf(number); err != nil || e.maps["disks"].Lookup(dev, &state) != nil || state != diskRelied {
		return lateVolume
	}
	return name
}

// onSeveral are the file systems that are on devices of which the kernel tells none (s_bdev).
var onSeveral = []string{"btrfs", "zfs"}

// beneath returns what is to be known of devices, as the kernel numbers them: the
// mounted volumes and arrays, and file systems that have a number of their own; what
// those are made of (slaves, in sysfs), with the disks that those are parts of; and
// the same of all devices of btrfs file systems, which mountinfo does not have. Of what
// lies on a file or a program, there is nothing. What zfs lies on is not known.
func beneath(sys, mountinfo string) (map[uint32]uint32, error) {
	found := make(map[uint32]uint32)
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
					found[dev] = diskStacked
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
	for line := range strings.Lines(mountinfo) {
		before, after, _ := strings.Cut(line, " - ")
		f, g := strings.Fields(before), strings.Fields(after)
		if len(f) < 3 || len(g) < 2 {
			continue
		}
		dev, bad := numberOf(f[2])
		if bad != nil {
			return nil, bad
		}
		var sound bool
		dir, err := filepath.EvalSymlinks(filepath.Join(sys, "dev/block", f[2]))
		switch {
		case err == nil && isVolume(dir):
			sound, err = add(dir)
		case err == nil:
		case !errors.Is(err, fs.ErrNotExist):
		case g[0] == "btrfs":
			id, members := membersOf(btrfs, g[1])
			if named[id] == nil {
				named[id] = make(map[uint32]bool)
			}
			named[id][dev] = true
			sound, err = add(members...)
		default:
			sound, err = g[0] == "zfs", nil
		}
		if err != nil {
			return nil, err
		}
		if sound {
			relied = append(relied, dev)
		}
	}
	for _, dev := range relied {
		found[dev] = diskRelied
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
	devs, sound = []uint32{dev}, !served(filepath.Base(dir))
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
	dev, err := numberOf(string(text))
	if err != nil {
		return 0, fmt.Errorf("read the number of %s: %w", dir, err)
	}
	return dev, nil
}

// numberOf reads the number of a device: 12 bits of major and 20 of minor, unlike
// those of stat(2).
func numberOf(text string) (uint32, error) {
	var major, minor uint32
	if _, err := fmt.Sscanf(text, "%d:%d", &major, &minor); err != nil {
		return 0, fmt.Errorf("%q is no number of a device: %w", text, err)
	}
	return major<<20 | minor, nil
}
