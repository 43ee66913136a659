package port_test

import (
	"errors"
	"io"
	"net"
	"syscall"
	"testing"

	"github.com/cordon-project/cordon/internal/testkit/port"
)

// taken reports whether the kernel would give the address to nobody else: to
// bind it is refused to whoever does not share.
func taken(t *testing.T, address string) bool {
	t.Helper()
	alone := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var failed error
		err := c.Control(func(fd uintptr) { failed = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 0) })
		return errors.Join(err, failed)
	}}
	l, err := alone.Listen(t.Context(), "tcp", address)
	if err == nil {
		err = l.Close()
	}
	if err != nil && !errors.Is(err, syscall.EADDRINUSE) {
		t.Fatal(err)
	}
	return err != nil
}

// A server comes and goes at a kept address, and nobody else gets it meanwhile.
func TestKeep(t *testing.T) {
	address, release, err := port.Keep()
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if !taken(t, address) {
			t.Error("the port is free while there is no server")
		}
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		client, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		server, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		// The client first, or the server's end would have the port for a while (TIME-WAIT).
		err = client.Close()
		_, eof := io.ReadAll(server)
		if err := errors.Join(err, eof, server.Close(), l.Close()); err != nil {
			t.Error(err)
		}
	}
	again, second, err := port.Keep()
	if err != nil || again == address {
		t.Errorf("kept twice: %s, %v", again, err)
	}
	if err := errors.Join(release(), second()); err != nil {
		t.Error(err)
	}
}
