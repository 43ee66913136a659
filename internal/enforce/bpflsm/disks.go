package bpflsm

import (
	"errors"
	"fmt"
	"maps"

	"github.com/cilium/ebpf"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/enforce/ground"
	"github.com/cordon-project/cordon/internal/enforce/mount"
)

// closeDisks has the volumes that are mounted now relied on, and nobody write to
// what lies beneath them. One that comes later could lie on anything, and somebody
// could have that open for writing. What else is mounted, and the disk that it is a
// part of, the programs find by themselves when code comes from there.
//
// What was found is looked for again when the programs know it: meanwhile, a number
// may have become another's. From then on they see that by themselves.
func (e *Enforcer) closeDisks() error {
	var known map[uint32]ground.State
	for range 8 {
		found, err := ground.Find()
		if err != nil {
			return fmt.Errorf("find the disks beneath what is mounted: %w", err)
		}
		if known != nil && maps.Equal(found, known) {
			return nil
		}
		if err := e.tellDisks(found); err != nil {
			return err
		}
		known = found
	}
	return errors.New("find the disks beneath what is mounted: that changes all the time")
}

// tellDisks tells the programs of disks. What an earlier restriction knew is
// forgotten: it may be other devices now.
func (e *Enforcer) tellDisks(found map[uint32]ground.State) error {
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

func knownDisks(m *ebpf.Map) (map[uint32]ground.State, error) {
	known := make(map[uint32]ground.State)
	var dev uint32
	var state ground.State
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
				if is, ok := ours[dev]; ok && is >= state && (is != ground.Relied || state == ground.Relied) {
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

// standing is what the programs know of what a mounted file system is on.
func (e *Enforcer) standing(m mount.Mount) (disk string, late bool) {
	disk, volume := ground.Disk(m)
	if !volume && !ground.Several(m.Type) {
		return disk, false
	}
	if w, err := e.word(); err != nil || w.mode() != cordon.ModeEnforce {
		return disk, false
	}
	var state ground.State
	return disk, e.maps["disks"].Lookup(ground.Device(m), &state) != nil || state != ground.Relied
}
