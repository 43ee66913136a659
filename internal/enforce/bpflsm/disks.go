package bpflsm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// diskStacked is STACKED of bpf/disk.h.
const diskStacked uint32 = 3

// closeDisks has nobody write to what lies beneath the volumes that are mounted
// now. What is mounted itself, and the disk that it is a part of, the programs
// find by themselves when code comes from there.
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

// beneath returns the devices, as the kernel numbers them, that mounted volumes
// and arrays are made of (slaves, in sysfs), the disks that those are parts of,
// and all devices of btrfs file systems, which mountinfo does not have.
func beneath(sys, mountinfo string) ([]uint32, error) {
	var found []uint32
	var add func(dir string, self bool) error
	add = func(dir string, self bool) error {
		dir, err := filepath.EvalSymlinks(dir)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // no disk, or gone
		}
		if err != nil {
			return err
		}
		if self {
			dev, err := deviceOf(dir)
			if err != nil || slices.Contains(found, dev) {
				return err
			}
			found = append(found, dev)
			if _, err := os.Stat(filepath.Join(dir, "partition")); err == nil {
				if err := add(filepath.Dir(dir), true); err != nil {
					return err
				}
			}
		}
		slaves, err := filepath.Glob(filepath.Join(dir, "slaves", "*"))
		for _, s := range slaves {
			err = errors.Join(err, add(s, true))
		}
		return err
	}
	for line := range strings.Lines(mountinfo) {
		if f := strings.Fields(line); len(f) > 2 {
			if err := add(filepath.Join(sys, "dev/block", f[2]), false); err != nil {
				return nil, err
			}
		}
	}
	members, err := filepath.Glob(filepath.Join(sys, "fs/btrfs/*/devices/*"))
	for _, m := range members {
		err = errors.Join(err, add(m, true))
	}
	return found, err
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
