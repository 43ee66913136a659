package bpflsm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cordon-project/cordon"
)

// diskStacked is STACKED of bpf/disk.h.
const diskStacked uint32 = 3

// closeDisks has the volumes that are mounted now relied on, and nobody write to
// what lies beneath them. One that comes later could lie on anything, and somebody
// could have that open for writing. What else is mounted, and the disk that it is a
// part of, the programs find by themselves when code comes from there.
func (e *Enforcer) closeDisks() error {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("find the disks beneath what is mounted: %w", err)
	}
	devs, err := beneath("/sys", string(mounts))
	if err != nil {
		return fmt.Errorf("find the disks beneath what is mounted: %w", err)
	}
	for _, dev := range devs {
		if err := e.maps["disks"].Put(dev, diskStacked); err != nil {
			return fmt.Errorf("close a disk to writers: %w", err)
		}
	}
	return nil
}

// inheritDisks takes over what an earlier agent's programs that are in force know
// of disks, and says whether there was something: who has opened one for writing
// may still have it open. It is called before ours are in force and again afterwards, as
// each notes only what is opened while it is.
func (e *Enforcer) inheritDisks() (known bool, err error) {
	for _, old := range e.elders {
		if !old.enforcing || old.maps["disks"] == nil || old.maps["written"] == nil {
			continue
		}
		known = true
		for _, name := range []string{"disks", "written"} {
			var dev, state, is uint32
			all := old.maps[name].Iterate()
			for all.Next(&dev, &state) {
				if e.maps[name].Lookup(dev, &is) == nil && is >= state {
					continue
				}
				if err := e.maps[name].Put(dev, state); err != nil {
					return known, fmt.Errorf("take over what is known of a disk: %w", err)
				}
			}
			if err := all.Err(); err != nil {
				return known, fmt.Errorf("take over what is known of disks: %w", err)
			}
		}
	}
	return known, nil
}

// lateVolume is a name for volumes that were not there when the machine was restricted.
const lateVolume = "a volume that came later"

// diskOf names the device with a number as in mountinfo, "" if it is none.
func (e *Enforcer) diskOf(number string) string {
	dir, err := filepath.EvalSymlinks(filepath.Join("/sys/dev/block", number))
	if err != nil {
		return ""
	}
	name := filepath.Base(dir)
	if !isVolume(dir) {
		return name
	}
	if w, err := e.word(); err != nil || w.mode() != cordon.ModeEnforce {
		return name
	}
	if isPart(dir) {
		dir = filepath.Dir(dir)
	}
	var state uint32
	if dev, err := deviceOf(dir); err != nil || e.maps["disks"].Lookup(dev, &state) != nil || state != diskStacked {
		return lateVolume
	}
	return name
}

// beneath returns the mounted volumes and arrays and what they are made of
// (slaves, in sysfs), as the kernel numbers devices, with the disks that those are
// parts of; and the same of all devices of btrfs file systems, which mountinfo does not
// have. Of what lies on a file or a program, there is nothing.
func beneath(sys, mountinfo string) ([]uint32, error) {
	var found []uint32
	add := func(dir string) error {
		devs, sound, err := madeOf(dir)
		for _, dev := range devs {
			if sound && !slices.Contains(found, dev) {
				found = append(found, dev)
			}
		}
		return err
	}
	for line := range strings.Lines(mountinfo) {
		f := strings.Fields(line)
		if len(f) < 3 {
			continue
		}
		dir, err := filepath.EvalSymlinks(filepath.Join(sys, "dev/block", f[2]))
		if errors.Is(err, fs.ErrNotExist) {
			continue // no disk, or gone
		}
		if err == nil && isVolume(dir) {
			err = add(dir)
		}
		if err != nil {
			return nil, err
		}
	}
	members, err := filepath.Glob(filepath.Join(sys, "fs/btrfs/*/devices/*"))
	for _, m := range members {
		err = errors.Join(err, add(m))
	}
	return found, err
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

// deviceOf reads the number of the device at dir in sysfs: 12 bits of major and
// 20 of minor, unlike those of stat(2).
func deviceOf(dir string) (uint32, error) {
	text, err := os.ReadFile(filepath.Join(dir, "dev"))
	if err != nil {
		return 0, err
	}
	var major, minor uint32
	if _, err := fmt.Sscanf(string(text), "%d:%d", &major, &minor); err != nil {
		return 0, fmt.Errorf("read the number of %s: %w", dir, err)
	}
	return major<<20 | minor, nil
}
