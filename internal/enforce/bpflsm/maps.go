package bpflsm

import (
	"crypto/rand"
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/enforce/bpflsm/trusted"
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

// newSet puts a trust set into a map of its own, which gets the name. anySize says that there are
// contents of which the size is not known; noAnonymous is [Config.DenyAnonymousOf].
func newSet(name string, set *cordon.TrustSet, self cordon.Digest, noAnonymous []string) (m *ebpf.Map, anySize bool, err error) {
	keys, flags, anySize := trusted.Keys(set, self, noAnonymous)
	// Never one that forgets (LRU), and of exactly this size: what does not fit is an error.
	m, err = ebpf.NewMap(&ebpf.MapSpec{Name: name, Type: ebpf.Hash, KeySize: 32, ValueSize: 4, MaxEntries: uint32(len(keys))})
	if err != nil {
		return nil, false, fmt.Errorf("make room for %d programs in the kernel: %w", set.Len(), err)
	}
	n, err := m.BatchUpdate(keys, flags, nil)
	if err == nil && n != len(keys) {
		err = fmt.Errorf("%d of %d arrived", n, len(keys))
	}
	if err != nil {
		_ = m.Close() // nobody knows it yet
		return nil, false, fmt.Errorf("hand %d programs to the kernel: %w", set.Len(), err)
	}
	return m, anySize, nil
}
