package notice

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// Messenger is a messenger's process: it runs as the user it tells.
func Messenger() error {
	// Whatever the user's bus makes it do, it dies before the user's own programs.
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("1000"), 0) // then it is as any other
	var e errand
	if err := json.NewDecoder(io.LimitReader(os.Stdin, 1<<20)).Decode(&e); err != nil {
		return errors.New("a messenger is started by the notifier, not by hand")
	}
	ctx, cancel := context.WithTimeout(context.Background(), delivered)
	defer cancel() // what hangs all the same is ended by the notifier
	var errs []error
	for _, name := range e.To.Terminals {
		errs = append(errs, write(name, e.Text))
	}
	if e.To.Bus != "" {
		errs = append(errs, notify(ctx, e.To.Bus, e.Text))
	}
	return errors.Join(errs...)
}

// write puts the text on a terminal below /dev, without waiting for it.
func write(name string, t Text) (err error) {
	if !filepath.IsLocal(name) {
		return fmt.Errorf("%q is no terminal", name)
	}
	fd, err := unix.Open(filepath.Join("/dev", name), unix.O_WRONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open terminal %q: %w", name, err)
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	mode, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return fmt.Errorf("%q is no terminal: %w", name, err)
	}
	line := t.line(mode.Iflag&unix.IUTF8 != 0)
	if n, err := unix.Write(fd, []byte(line)); err != nil || n < len(line) {
		return fmt.Errorf("write to terminal %q: %w", name, errors.Join(err, errShort(n, line)))
	}
	return nil
}

func errShort(n int, line string) error {
	if n >= 0 && n < len(line) {
		return fmt.Errorf("it took %d bytes of %d", n, len(line))
	}
	return nil
}

// Urgencies (Desktop Notifications Specification).
const (
	normal   byte = 1
	critical byte = 2
)

// notify shows the text on the desktop whose session bus listens at socket.
func notify(ctx context.Context, socket string, t Text) (err error) {
	conn, err := dbus.Connect("unix:path="+dbus.EscapeBusAddressValue(socket), dbus.WithContext(ctx), dbus.WithAuth(dbus.AuthExternal(strconv.Itoa(os.Geteuid()))))
	if err != nil {
		return fmt.Errorf("connect to the session bus: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	urgency := normal
	if t.Urgent {
		urgency = critical
	}
	call := conn.Object("org.freedesktop.Notifications", "/org/freedesktop/Notifications").CallWithContext(ctx, "org.freedesktop.Notifications.Notify", 0,
		"Cordon", uint32(0), "security-high", t.Summary, markup.Replace(t.Body), []string{}, map[string]dbus.Variant{"urgency": dbus.MakeVariant(urgency)}, int32(-1))
	if call.Err != nil {
		return fmt.Errorf("show a notification: %w", call.Err)
	}
	return nil
}
