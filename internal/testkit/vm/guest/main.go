// Command guest is the VM harness's program in the guest: the first process of
// the initramfs, and the one that starts programs for the harness.
//
// As process 1 it loads the kernel modules that were given along and then
// either hands over to systemd on the disk, or stays and runs itself as
// "guest serve". It never waits for the harness without end: without the serial
// port it stops the machine, which ends QEMU.
package main

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	var err error
	switch {
	case len(os.Args) == 2 && os.Args[1] == "serve":
		err = serve()
	case os.Getpid() == 1:
		err = initialize()
		fmt.Println("cordon-vm:", err)
		unix.Sync()
		_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF) // nothing can be done where it fails
		time.Sleep(time.Minute)                          // process 1 must not return
	default:
		err = fmt.Errorf("this program belongs into the guest of the VM harness")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "cordon-vm:", err)
		os.Exit(1)
	}
}
