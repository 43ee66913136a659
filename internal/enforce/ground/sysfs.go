package ground

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
)

// sysfs is what the kernel tells of devices. A directory of a device is named by its
// path there, without links.
type sysfs struct{ fs.FS }

// follow returns what a link leads to.
func (s sysfs) follow(link string) (string, error) {
	to, err := fs.ReadLink(s.FS, link)
	return path.Join(path.Dir(link), to), err
}

// links returns what the links in a directory lead to, nothing if it is not there.
func (s sysfs) links(dir string) (to []string, err error) {
	entries, err := fs.ReadDir(s.FS, dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for _, entry := range entries {
		d, bad := s.follow(path.Join(dir, entry.Name()))
		to, err = append(to, d), errors.Join(err, bad)
	}
	return to, err
}

// btrfs returns the devices of a btrfs that is mounted, by what it says it is
// called, and all that those are made of. The kernel gives that name to one at a
// time (another one to a copy, since Linux 6.7), and links devices by what they
// are, however they were named when it was mounted.
func (s sysfs) btrfs(fsid string) (devs []uint32, sound bool, err error) {
	if fsid == "" {
		return nil, false, nil // it was not asked: perhaps it cannot be reached
	}
	at := path.Join("fs/btrfs", fsid)
	members, err := s.links(at + "/devices")
	if err != nil {
		return nil, false, err
	}
	there, err := s.present(at + "/devinfo")
	if err != nil {
		return nil, false, err
	}
	sound = there > 0 && there == len(members)
	for _, dir := range members {
		more, ok, err := s.madeOf(dir)
		if err != nil {
			return nil, false, err
		}
		devs, sound = append(devs, more...), sound && ok
	}
	return devs, sound, nil
}

// present counts the devices of a btrfs that it has not missed when it was mounted.
func (s sysfs) present(devinfo string) (n int, err error) {
	entries, err := fs.ReadDir(s.FS, devinfo)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	for _, entry := range entries {
		missing, bad := fs.ReadFile(s.FS, path.Join(devinfo, entry.Name(), "missing"))
		if strings.TrimSpace(string(missing)) != "1" {
			n++
		}
		err = errors.Join(err, bad)
	}
	return n, err
}

// madeOf returns the device at dir and all that it is made of, or a part of; sound
// says that there is no file or program among them.
func (s sysfs) madeOf(dir string) (devs []uint32, sound bool, err error) {
	dev, err := s.device(dir)
	if err != nil {
		return nil, false, err
	}
	under, err := s.links(dir + "/slaves")
	if err != nil {
		return nil, false, err
	}
	if s.isPart(dir) {
		under = append(under, path.Dir(dir))
	}
	devs, sound = []uint32{dev}, !Served(path.Base(dir))
	for _, u := range under {
		more, ok, err := s.madeOf(u)
		if err != nil {
			return nil, false, err
		}
		devs, sound = append(devs, more...), sound && ok
	}
	return devs, sound, nil
}

// isVolume is what volume of the programs goes by (bpf/disk.h).
func (s sysfs) isVolume(dir string) bool {
	if s.isPart(dir) {
		dir = path.Dir(dir)
	}
	slaves, _ := fs.ReadDir(s.FS, dir+"/slaves") // it has none
	return len(slaves) > 0 || strings.HasPrefix(path.Base(dir), "dm-")
}

// isPart says whether a device is a part of the disk above it.
func (s sysfs) isPart(dir string) bool {
	_, err := fs.Stat(s.FS, dir+"/partition")
	return err == nil
}

// device reads the number of a device.
func (s sysfs) device(dir string) (uint32, error) {
	text, err := fs.ReadFile(s.FS, dir+"/dev")
	if err != nil {
		return 0, err
	}
	var major, minor uint32
	if _, err := fmt.Sscanf(string(text), "%d:%d", &major, &minor); err != nil {
		return 0, fmt.Errorf("read the number of %s: %q: %w", dir, text, err)
	}
	return number(major, minor), nil
}
