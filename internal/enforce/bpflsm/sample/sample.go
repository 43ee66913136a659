// Package sample reads what the programs in the kernel tell of a refusal. They tell
// of some only; all are counted elsewhere.
package sample

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/enforce"
)

// Parse reads one, and when it was (CLOCK_MONOTONIC, in nanoseconds).
func Parse(record []byte) (r enforce.Refusal, at int64, err error) {
	var ev event
	if _, err := binary.Decode(record, binary.LittleEndian, &ev); err != nil {
		return r, 0, fmt.Errorf("read what was refused: %w", err)
	}
	return ev.refusal(), int64(ev.At), nil
}

// hooks are those of enum hook of bpf/cordon.bpf.c, by where a refusal was.
var hooks = map[uint8]string{1: "executed", 2: "asked for by an interpreter", 3: "mapped as code", 4: "made executable", 5: "loaded into the kernel", 6: "read by an interpreter", 7: "memory of a process", 8: "opened for writing", 9: "given a command that the kernel does not look into"}

// Measured is the reason not to trust what the kernel's integrity measurement (IMA)
// has measured.
const Measured = 16

// Others of these, of enum hook and enum reason.
const (
	hookInterpret = 6
	reasonUnseen  = 10
)

// reasons are those of enum reason.
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

func (ev *event) refusal() enforce.Refusal {
	var now unix.Timespec
	at := time.Now()
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) == nil {
		at = at.Add(time.Duration(int64(ev.At) - now.Nano()))
	}
	path, _, _ := bytes.Cut(ev.Path[:], []byte{0})
	r := enforce.Refusal{At: at, Path: string(path), PID: int32(ev.PID), Mode: modeOf(ev.Mode), Reason: reasons[ev.Reason]}
	if ev.Hashed != 0 {
		r.Digest = ev.Digest
	}
	if r.Path == "" {
		r.Path = "(no file)"
	}
	r.Unseen = ev.Hook == hookInterpret && ev.Reason == reasonUnseen
	if how := hooks[ev.Hook]; ev.Hook != 1 {
		r.Reason += ", " + how
	}
	return r
}

// modeOf knows no other mode than these to tell of a refusal.
func modeOf(mode uint8) cordon.Mode {
	if mode == 1 {
		return cordon.ModeAudit
	}
	return cordon.ModeEnforce
}
