package facts

import (
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon"
)

// BootClock returns the clock that counts from this start of the machine, see
// [cordon.BootTime].
func BootClock() (func() cordon.BootTime, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, fmt.Errorf("read boot id: %w", err)
	}
	read := func(t *unix.Timespec) error { return unix.ClockGettime(unix.CLOCK_BOOTTIME, t) }
	if err := read(new(unix.Timespec)); err != nil {
		return nil, fmt.Errorf("read boot clock: %w", err)
	}
	boot := strings.TrimSpace(string(id))
	return func() cordon.BootTime {
		var t unix.Timespec
		_ = read(&t) // it could be read above, and has no other reason to fail
		return cordon.BootTime{Boot: boot, At: time.Duration(t.Nano())}
	}, nil
}
