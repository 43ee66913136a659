package bpflsm

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/cilium/ebpf"

	"github.com/cordon-project/cordon"
)

// What follows is shared with bpf/cordon.bpf.c, which explains it.

// newNames returns how the names of the maps of one enforcer begin: is_ours of
// bpf/guard.h goes by it. No other has maps with such names, be it one that is in force as well.
func newNames() string { return rand.Text()[:6] + "_" }

// Indexes of the map settings.
const (
	settingWord uint32 = iota
	settingScope
	settingAsker
	settingAsked
	settingAskedFile
	settingPins
	settingPinsFile
	settingHome
	settingHomeFile
	settingReader
	settingAskedGround
)

// word is what changes at once: see the macros of the same names.
type word uint64

const (
	wordSlot     word = 1 << 2
	wordAnonDeny word = 1 << 3
	wordAnySize  word = 1 << 4
	wordScripts  word = 1 << 5
)

var modes = []cordon.Mode{cordon.ModeOff, cordon.ModeAudit, cordon.ModeEnforce}

func (w word) mode() cordon.Mode {
	if n := int(w & 3); n < len(modes) {
		return modes[n]
	}
	return cordon.ModeEnforce // nothing writes this; the programs refuse nothing under it, and it is seen to be wrong by the self-test
}

func (w word) withMode(m cordon.Mode) word {
	w &^= 3
	for i, mode := range modes {
		if m == mode {
			w |= word(i)
		}
	}
	return w
}

func (w word) slot() uint32   { return uint32(w>>2) & 1 }
func (w word) policy() uint32 { return uint32(w >> 32) }

// Indexes of the map counters.
const (
	countJudged uint32 = iota
	countRefused
	countWould
	countUnknown
	countHashed
	countWrites
	countDropped
	countGuarded
	counters
)

var hooks = map[uint8]string{1: "executed", 2: "asked for by an interpreter", 3: "mapped as code", 4: "made executable", 5: "loaded into the kernel", 6: "read by an interpreter", 7: "memory of a process", 8: "opened for writing", 9: "given a command that the kernel does not look into"}

// measured is MEASURED of bpf/cordon.bpf.c.
const measured = 16

// Of enum hook and enum reason.
const (
	hookInterpret = 6
	reasonUnseen  = 10
)

var reasons = map[uint8]string{
	1:  "it is not in the trust set",
	2:  "it is open for writing",
	3:  "it cannot be read",
	4:  "its file system may show something else the next time",
	5:  "it is in memory that may still be written to",
	6:  "it is no regular file",
	7:  "it was changed in memory",
	8:  "it is code without a file",
	9:  "it does not come from a file",
	10: "it was not seen before",
	11: "there is no trust set",
	12: "it was told to run code that is in no trusted file",
	13: "it was mapped by who could write to it, and its memory may still be filled by others: a copy of it can run",
	14: "nobody may change what a program has in memory",
	15: "a file system with programs is on this disk",
	16: "the kernel's integrity measurement (IMA) tells what it was, which need not be what it is",
	17: "a disk with programs may be what gets it",
}

// event is struct event.
type event struct {
	At                         uint64
	PID                        uint32
	Hook, Reason, Mode, Hashed uint8
	Digest                     cordon.Digest
	Comm                       [16]byte
	Path                       [512]byte
}

// key is struct key: a digest, or the size of a trusted content and zeros.
type key [32]byte

func sizeKey(size int64) (k key) {
	binary.LittleEndian.PutUint64(k[:], uint64(size))
	return k
}

// Flags of a key. The first has no meaning but that the key is there.
const (
	keyRuns        uint32 = 1
	keyAgent       uint32 = 2  // whoever executes this is the agent
	keyDisks       uint32 = 4  // whoever executes this may write to disks
	keyNoAnonymous uint32 = 8  // whoever executes this may not make code without a file
	keyCommands    uint32 = 16 // whoever executes this may give commands to disks
	keyRole               = 8  // how far the role is shifted
)

// originSelf is the origin of the agent's own program in trust sets.
const originSelf = "cordon"

// onDisks returns what programs that a package brings have to do to the disk
// that the system runs from: else an upgrade of the boot loader would fail, and
// udev would not find out which disk is which.
func onDisks(origin string) uint32 {
	_, name, packaged := strings.Cut(origin, ":")
	switch {
	case !packaged || strings.HasPrefix(origin, "rule:"):
	case strings.HasPrefix(name, "grub"), name == "lvm2":
		return keyDisks
	case slices.Contains([]string{"udev", "systemd-udev", "multipath-tools", "device-mapper-multipath"}, name):
		return keyCommands
	}
	return 0
}

// newSet puts a trust set into a map of its own, which gets the name. anySize says that there are
// contents of which the size is not known; noAnonymous is [Config.DenyAnonymousOf].
func newSet(name string, set *cordon.TrustSet, self cordon.Digest, noAnonymous []string) (m *ebpf.Map, anySize bool, err error) {
	keys := make([]key, 0, set.Len()+set.Len()/2)
	values := make([]uint32, 0, cap(keys))
	sizes := make(map[int64]struct{}, set.Len()/2)
	for e := range set.Entries() {
		flags := keyRuns | uint32(e.Role)<<keyRole
		if e.Origin == originSelf || e.Digest == self {
			flags |= keyAgent
		}
		flags |= onDisks(e.Origin)
		if class, _, _ := strings.Cut(e.Origin, ":"); slices.Contains(noAnonymous, class) {
			flags |= keyNoAnonymous
		}
		keys, values = append(keys, key(e.Digest)), append(values, flags)
		if _, there := sizes[e.Size]; e.Size < 0 {
			anySize = true
		} else if !there {
			sizes[e.Size] = struct{}{}
			keys, values = append(keys, sizeKey(e.Size)), append(values, keyRuns)
		}
	}
	// Never one that forgets (LRU), and of exactly this size: what does not fit is an error.
	m, err = ebpf.NewMap(&ebpf.MapSpec{Name: name, Type: ebpf.Hash, KeySize: 32, ValueSize: 4, MaxEntries: uint32(len(keys))})
	if err != nil {
		return nil, false, fmt.Errorf("make room for %d programs in the kernel: %w", set.Len(), err)
	}
	n, err := m.BatchUpdate(keys, values, nil)
	if err == nil && n != len(keys) {
		err = fmt.Errorf("%d of %d arrived", n, len(keys))
	}
	if err != nil {
		_ = m.Close() // nobody knows it yet
		return nil, false, fmt.Errorf("hand %d programs to the kernel: %w", set.Len(), err)
	}
	return m, anySize, nil
}
