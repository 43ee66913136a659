// Package channel is what the VM harness and its program in the guest say to
// each other, over one virtio serial port. It owns the messages; both ends
// encode them with encoding/gob, one stream for each direction and boot.
package channel

import "syscall"

// Port is the name of the serial port in the guest.
const Port = "cordon.vm"

// Chunk is how many bytes of a stream one message carries at most.
const Chunk = 128 << 10

// Kind says what a message is.
type Kind uint8

// The kinds, with the direction and the fields that they use beside ID.
const (
	_      Kind = iota
	Hello       // from the guest, once: it can run programs; Data: uname -r
	Start       // to the guest: Program
	Stdin       // to the guest: Data; an empty one ends the input
	Taken       // from the guest: one Stdin was written or the reader is gone; the next may come
	Kill        // to the guest: end the program and its process group
	Stdout      // from the guest: Data
	Stderr      // from the guest: Data
	Exit        // from the guest, last: Code, or Errno and Data where it did not start
	Reset       // to the guest, only without systemd: sync and restart the machine
)

// Message is one message. ID numbers the program that it concerns.
type Message struct {
	Kind    Kind
	ID      uint32
	Program Program
	Data    []byte
	Code    int
	Errno   syscall.Errno
}

// Program is what to start.
type Program struct {
	Args []string // Args[0] is looked up in PATH if it has no slash
	Env  []string // in addition to the guest's own
	Dir  string   // default: the home directory of the user
	User bool     // as the ordinary user instead of root
}

// The ordinary user in the guest.
const (
	UserName = "user"
	UserID   = 1000
	UserHome = "/home/" + UserName
)

// Parameters of the kernel command line that the guest's program reads.
const (
	ParamSystem  = "cordonvm.system"  // switch to the disk and its init
	ParamInstall = "cordonvm.install" // first copy InitPayload to the disk
)

// Places in the initramfs.
const (
	// InitPayload is a tree that is put over the root of the disk.
	InitPayload = "/payload"
	// InitModules has the kernel modules, InitOrder their names, one a line, in
	// the order in which they are loaded.
	InitModules = "/modules"
	InitOrder   = "/modules/order"
	// GuestProgram is where the guest's own program lies on the disk.
	GuestProgram = "/usr/local/lib/cordon-vm/guest"
)
