package supervised

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"testing"
)

// What the service manager hears: that the process is ready, and a sign of life
// for each time that the process was found healthy, not before.
func TestSupervised(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "notify")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = manager.Close() }() // the test is over
	hear := func() string {
		b := make([]byte, 100)
		n, err := manager.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
	t.Setenv("NOTIFY_SOCKET", socket)
	Ready(slog.New(slog.DiscardHandler))
	if got := hear(); got != "READY=1" {
		t.Errorf("when ready it says %q", got)
	}

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if err := KeepAlive(ctx, func() { t.Error("asked, although nobody wants to know") }); err != nil {
		t.Error(err)
	}
	t.Setenv("WATCHDOG_USEC", "3000")
	asked, answer := make(chan bool), make(chan bool)
	ended := make(chan error)
	go func() {
		ended <- KeepAlive(ctx, func() { asked <- true; <-answer })
	}()
	Ready(slog.New(slog.DiscardHandler))
	for range 3 {
		<-asked
		// While the process does not answer nothing is said: the next message is ours.
		if got := hear(); got != "READY=1" {
			t.Errorf("before it is known to be healthy it says %q", got)
		}
		answer <- true
		if got := hear(); got != "WATCHDOG=1\nEXTEND_TIMEOUT_USEC=3000" {
			t.Errorf("when healthy it says %q", got)
		}
		Ready(slog.New(slog.DiscardHandler))
	}
	cancel()
	for {
		select {
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
			return
		case <-asked: // a tick came first, and another one may
			answer <- true
		}
	}
}
