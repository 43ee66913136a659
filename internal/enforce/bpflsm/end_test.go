package bpflsm

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/testkit/vm"
)

const mapVar = "CORDON_BPF_MAP" // a file to map as code

// slow is how long the disk in memory takes for each request, in jiffies: longer
// than an enforcer needs to end.
const slow = 5000

// TestEnd has the enforcer end while the kernel hashes a file for one of its
// programs: who waits for that must not come back to programs that are gone.
func TestEnd(t *testing.T) {
	eachKernel(t, vm.Config{Modules: []string{"ext4", "scsi_debug", "sd_mod"}, Files: tools(t)}, func(t *testing.T) {
		t.Run("order of programs", testOrder)
		testEnd(t)
	})
}

func testEnd(t *testing.T) {
	g := openGuest(t)
	mapping := func(path string) *exec.Cmd {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), mapVar+"="+path)
		return cmd
	}
	disks, err := filepath.Glob("/sys/bus/scsi/drivers/sd/*/block/*")
	if err != nil || len(disks) != 1 {
		t.Fatalf("disks: %v, %v", disks, err)
	}
	path := put(t, filepath.Join(makeVolume(t, "ext4", "/dev/"+filepath.Base(disks[0])).at, "slow"), g.program)
	unix.Sync()
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	g.apply(t, cordon.ModeEnforce)
	allowed(t, "map a file", mapping(g.write(t, "quick", g.program)).Run()) // what else has to be hashed is
	delay := func(jiffies int) error {
		return os.WriteFile("/sys/bus/pseudo/drivers/scsi_debug/delay", fmt.Append(nil, jiffies), 0)
	}
	if err := delay(slow); err != nil {
		t.Fatal(err)
	}
	before, began := g.hashed(t), time.Now()
	cmd := mapping(path)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for g.hashed(t) == before {
		runtime.Gosched()
	}
	if err := errors.Join(g.Apply(cordon.ModeOff, nil), g.Close()); err != nil {
		t.Error(err)
	}
	g.closed = true
	ended := time.Since(began)
	for err := delay(1); err != nil; err = delay(1) { // refused while there are requests
		if !errors.Is(err, unix.EBUSY) {
			t.Fatal(err)
		}
		runtime.Gosched()
	}
	allowed(t, "map a file while the enforcer ends", cmd.Wait())
	t.Logf("the enforcer ended after %s, the file was hashed after %s", ended, time.Since(began))
}

// testOrder: the programs that may sleep are called last.
func testOrder(t *testing.T) {
	g := openGuestWith(t, Config{DenyAnonymous: true})
	g.apply(t, cordon.ModeEnforce)
	f := open(t, g.write(t, "good", g.program), os.O_RDONLY)
	before := g.Stats()
	_, err := mapFile(t, f, rx|unix.PROT_WRITE, unix.MAP_PRIVATE)
	mustFail(t, "map a trusted file to be written to", err, unix.EPERM)
	if now := g.Stats(); now.Refused != before.Refused+1 || now.Judged != before.Judged {
		t.Errorf("the program that may sleep was called before the other: %+v, then %+v", before, now)
	}
}

func (g *guest) hashed(t *testing.T) (n uint64) {
	t.Helper()
	var each []uint64
	if err := g.maps["counters"].Lookup(countHashed, &each); err != nil {
		t.Fatal(err)
	}
	for _, v := range each {
		n += v
	}
	return n
}

// mapMain maps the file at path as code.
func mapMain(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	_, err = unix.Mmap(int(f.Fd()), 0, 4096, rx, unix.MAP_PRIVATE)
	return errors.Join(err, f.Close())
}
