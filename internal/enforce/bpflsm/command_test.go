package bpflsm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon/internal/enforce/ground"
)

// commandVar has a test program give a command to the disk that it names.
const commandVar = "CORDON_BPF_COMMAND"

// Requests of ioctl(2), from scsi/sg.h, scsi/scsi_ioctl.h and linux/nvme_ioctl.h.
const (
	sgIO        = 0x2285
	sendCommand = 1
	nvmeAdmin   = 0xc0484e41
	nvmeIO      = 0xc0484e43
	nvmeIO64    = 0xc0504e48
	nvmeRing    = 0xc0484e80 // of io_uring
)

// sgHeader is struct sg_io_hdr.
type sgHeader struct {
	id, direction            int32
	commandLen, senseMax     uint8
	vectors                  uint16
	size                     uint32
	data, command, sense     unsafe.Pointer
	timeout, flags           uint32
	pack                     int32
	user                     uintptr
	status, _, _, senseLen   uint8
	hostStatus, driverStatus uint16
	residual                 int32
	duration, info           uint32
}

func ioctl(f *os.File, request uintptr, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(arg)); errno != 0 {
		return errno
	}
	return nil
}

// block reads or writes a block of 512 bytes past the block layer, READ(10) or WRITE(10).
func block(path string, write bool, at uint32, data []byte) error {
	f, err := os.Open(path) // not for writing
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // it was only given commands
	command, sense := [10]byte{0: 0x28, 8: 1}, [32]byte{}
	h := sgHeader{id: 'S', direction: -3, commandLen: 10, senseMax: 32, size: 512, data: unsafe.Pointer(&data[0]), command: unsafe.Pointer(&command), sense: unsafe.Pointer(&sense), timeout: 10_000}
	if binary.BigEndian.PutUint32(command[2:], at); write {
		command[0], h.direction = 0x2a, -2
	}
	if err := ioctl(f, sgIO, unsafe.Pointer(&h)); err != nil {
		return err
	}
	if h.status != 0 || h.hostStatus != 0 || h.driverStatus != 0 {
		return errors.New("the disk did not do it")
	}
	return nil
}

// scsi is a disk in memory with two partitions, of which the first is mounted.
type scsi struct {
	volume
	disk, other, generic string
}

func newSCSI(t *testing.T) scsi {
	t.Helper()
	disks, err := filepath.Glob("/sys/bus/scsi/drivers/sd/*/block/*")
	if err != nil || len(disks) != 1 {
		t.Fatalf("disks: %v, %v", disks, err)
	}
	generic, err := filepath.Glob("/sys/class/scsi_generic/*")
	if err != nil || len(generic) != 1 {
		t.Fatalf("generic devices: %v, %v", generic, err)
	}
	disk := "/dev/" + filepath.Base(disks[0])
	table := make([]byte, 512)
	for i, first := range []uint32{64, 12288} { // of 16384 blocks
		entry := table[446+16*i:]
		entry[4] = 0x83
		binary.LittleEndian.PutUint32(entry[8:], first)
		binary.LittleEndian.PutUint32(entry[12:], 4096+8128*uint32(1-i))
	}
	copy(table[510:], "\x55\xaa")
	f := open(t, disk, os.O_RDWR)
	if _, err := f.WriteAt(table, 0); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Sync(), ioctl(f, unix.BLKRRPART, nil), f.Close()); err != nil {
		t.Fatal(err)
	}
	s := scsi{makeVolume(t, "ext4", disk+"1"), disk, disk + "2", "/dev/" + filepath.Base(generic[0])}
	for _, path := range []string{s.disk, s.dev, s.other, s.generic} {
		allowed(t, "without a restriction, by "+path, block(path, true, lastBlock, table))
	}
	return s
}

const lastBlock = 16383 // in the second partition

func testCommands(t *testing.T, g *guest, s scsi, bare string) {
	got := make([]byte, 512)
	for i, path := range []string{s.disk, s.other, s.generic} {
		// Nothing was judged that lies there.
		want := bytes.Repeat([]byte{byte('a' + i)}, 512)
		err := errors.Join(block(path, true, lastBlock, want), block(s.disk, false, lastBlock, got))
		if refused := errors.Is(err, unix.EPERM); refused != (path == s.generic) || !refused && (err != nil || !bytes.Equal(got, want)) {
			t.Errorf("%s, without programs: %v, there is %q", path, err, got[:1])
		}
	}
	program := filepath.Join(s.at, "program")
	if err := os.WriteFile(program, g.program, 0o755); err != nil {
		t.Fatal(err)
	}
	allowed(t, "a program on the disk", run(program))
	for _, path := range []string{s.disk, s.dev, s.other, s.generic} {
		g.refused(t, path, func() error { return block(path, true, lastBlock, got) })
	}
	request := func(path string, request uintptr) func() error {
		return func() error { return ioctl(open(t, path, os.O_RDONLY), request, unsafe.Pointer(&got[0])) }
	}
	g.refused(t, "SCSI_IOCTL_SEND_COMMAND", request(s.disk, sendCommand))
	g.refused(t, "the same by /dev/sg", request(s.generic, sendCommand))
	g.refused(t, "/dev/sg opened for writing", func() error {
		_, err := os.OpenFile(s.generic, os.O_RDWR, 0)
		return err
	})
	for _, r := range []uintptr{nvmeAdmin, nvmeIO, nvmeIO64} {
		g.refused(t, "NVMe by a character device", request("/dev/null", r))
		g.refused(t, "NVMe by a block device", request(s.disk, r))
	}
	for _, err := range []error{request("/dev/null", sendCommand)(), request(bare, sgIO)(), request(bare, nvmeIO)(), request("/dev/null", 0x4e44)()} {
		if errors.Is(err, unix.EPERM) {
			t.Errorf("what concerns no disk with programs: %v", err)
		}
	}
	if _, err := unix.IoctlGetInt(int(open(t, s.disk, os.O_RDONLY).Fd()), unix.BLKSSZGET); err != nil {
		t.Errorf("other requests: %v", err)
	}
	give := func(program string, disk string) error {
		cmd := exec.Command(program)
		cmd.Env = append(os.Environ(), commandVar+"="+disk)
		out, err := cmd.CombinedOutput()
		if strings.Contains(string(out), unix.EPERM.Error()) {
			return unix.EPERM
		}
		return err
	}
	udev := g.write(t, "udev", append(read(t, "/proc/self/exe"), "udev"...))
	plain := g.write(t, "plain", read(t, "/proc/self/exe"))
	allowed(t, "by a program of udev", give(udev, s.disk))
	g.refused(t, "by any other", func() error { return give(plain, s.disk) })
	// A disk beneath a volume: who was running before the agent, as this process, goes on.
	var st unix.Stat_t
	if err := unix.Stat(bare, &st); err != nil {
		t.Fatal(err)
	}
	number := unix.Major(st.Rdev)<<20 | unix.Minor(st.Rdev)
	if err := g.maps["disks"].Put(number, ground.Stacked); err != nil {
		t.Fatal(err)
	}
	if err := request(bare, sgIO)(); !errors.Is(err, unix.ENOTTY) {
		t.Errorf("beneath a volume, by who was running before: %v", err)
	}
	g.refused(t, "beneath a volume, by who came later", func() error { return give(plain, bare) })
	if err := g.maps["disks"].Delete(number); err != nil {
		t.Fatal(err)
	}
	// The kernel itself keeps the device mapper from a disk with a mounted file system.
	for path, want := range map[string]error{s.dev: unix.EBUSY, s.disk: unix.EBUSY, s.other: nil} {
		if err := tableOver(t, path); !errors.Is(err, want) {
			t.Errorf("a device mapper table over %s: %v, want %v", path, err, want)
		}
	}
	g.refused(t, "NVMe by io_uring", func() error { return ringCommand(t, nvmeRing) })
	if err := ringCommand(t, 0); err != nil {
		t.Errorf("another command by io_uring: %v", err)
	}
}

// mapper asks the device mapper for something (dm-ioctl.h).
func mapper(t *testing.T, request uintptr, name string, table []byte) error {
	t.Helper()
	b := make([]byte, 312+len(table)) // struct dm_ioctl
	for i, v := range []uint32{4, 0, 0, uint32(len(b)), 312, 1} {
		binary.LittleEndian.PutUint32(b[4*i:], v)
	}
	copy(b[48:], name)
	copy(b[312:], table)
	return ioctl(open(t, "/dev/mapper/control", os.O_RDWR), 0xc138fd00+request, unsafe.Pointer(&b[0]))
}

const (
	mapperCreate, mapperRemove, mapperResume, mapperLoad = 3, 4, 6, 9
)

// linearTable is a table over the first sectors of a device.
func linearTable(path string, sectors uint64) []byte {
	table := make([]byte, 40+64) // struct dm_target_spec and what is for the target
	binary.LittleEndian.PutUint64(table[8:], sectors)
	copy(table[24:], "linear")
	copy(table[40:], path+" 0")
	return table
}

// tableOver has the device mapper make a volume of a device, and takes it back.
func tableOver(t *testing.T, path string) error {
	t.Helper()
	if err := mapper(t, mapperCreate, "over", nil); err != nil {
		t.Fatal(err)
	}
	err := mapper(t, mapperLoad, "over", linearTable(path, 8))
	if err := mapper(t, mapperRemove, "over", nil); err != nil {
		t.Fatal(err)
	}
	return err
}

// linear makes a volume of a device, which gets the lowest free number.
func linear(t *testing.T, path string) (dev string, remove func()) {
	t.Helper()
	sectors, err := strconv.ParseUint(strings.TrimSpace(string(read(t, "/sys/block/"+filepath.Base(path)+"/size"))), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	before, err := filepath.Glob("/sys/block/dm-*")
	name := "v" + filepath.Base(path)
	if err = errors.Join(err, mapper(t, mapperCreate, name, nil), mapper(t, mapperLoad, name, linearTable(path, sectors)), mapper(t, mapperResume, name, nil)); err != nil {
		t.Fatal(err)
	}
	remove = sync.OnceFunc(func() {
		if err := mapper(t, mapperRemove, name, nil); err != nil {
			t.Error(err)
		}
	})
	after, err := filepath.Glob("/sys/block/dm-*")
	if after = slices.DeleteFunc(after, func(d string) bool { return slices.Contains(before, d) }); err != nil || len(after) != 1 {
		t.Fatalf("which it is: %v, %v", after, err)
	}
	return "/dev/" + filepath.Base(after[0]), remove
}

// ringCommand gives a command to /dev/null by io_uring(7), which takes any.
func ringCommand(t *testing.T, op uint32) error {
	t.Helper()
	return ring(t, 46 /* IORING_OP_URING_CMD */, open(t, "/dev/null", os.O_RDWR), op, nil)
}

// ring has the kernel do something with f by io_uring(7).
func ring(t *testing.T, what byte, f *os.File, at uint32, data []byte) error {
	t.Helper()
	var params [30]uint32 // struct io_uring_params
	fd, _, errno := unix.Syscall(425 /* io_uring_setup */, 1, uintptr(unsafe.Pointer(&params)), 0)
	if errno != 0 {
		t.Fatal(errno)
	}
	defer func() { _ = unix.Close(int(fd)) }() // the test's own
	shared := func(offset int64) []byte {
		m, err := unix.Mmap(int(fd), offset, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Munmap(m) })
		return m
	}
	submissions, entries := shared(0), shared(0x10000000)
	number := binary.LittleEndian
	entries[0] = what
	number.PutUint32(entries[4:], uint32(f.Fd()))
	number.PutUint32(entries[8:], at)
	number.PutUint64(entries[16:], uint64(uintptr(unsafe.Pointer(unsafe.SliceData(data)))))
	number.PutUint32(entries[24:], uint32(len(data)))
	sq, cq := params[10:20], params[20:30] // offsets: head, tail, …, the sixth that of the array
	number.PutUint32(submissions[sq[6]:], 0)
	number.PutUint32(submissions[sq[1]:], 1)
	if _, _, errno := unix.Syscall6(426 /* io_uring_enter */, fd, 1, 1, 1 /* GETEVENTS */, 0, 0); errno != 0 {
		t.Fatal(errno)
	}
	runtime.KeepAlive(data)
	// The completions are in the same mapping; cq[5] is where they begin.
	if result := int32(number.Uint32(submissions[cq[5]+8:])); result < 0 {
		return unix.Errno(-result)
	}
	return nil
}
