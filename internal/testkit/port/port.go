// Package port keeps TCP ports of the loopback address for tests whose servers
// come, go and come back at one address.
//
// A port that was free a moment ago may be somebody else's now: many tests run
// at once, and each connection takes a port too. A socket that is bound and does
// not listen keeps a port without being in its server's way, since two sockets may
// have one address if both say SO_REUSEADDR, as package net does, and neither
// listens yet (socket(7)); and who asks for any port never gets one that is kept.
package port

import (
	"errors"
	"fmt"
	"syscall"
)

// Keep returns an address of 127.0.0.1 with a port that nobody but the caller
// knows, in the form HOST:PORT, and keeps the port until release.
func Keep() (address string, release func() error, err error) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", nil, fmt.Errorf("keep port: %w", err)
	}
	release = func() error { return syscall.Close(fd) }
	err = syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1)
	if err == nil {
		err = syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
	}
	var at syscall.Sockaddr
	if err == nil {
		at, err = syscall.Getsockname(fd)
	}
	if err != nil {
		return "", nil, errors.Join(fmt.Errorf("keep port: %w", err), release())
	}
	return fmt.Sprintf("127.0.0.1:%d", at.(*syscall.SockaddrInet4).Port), release, nil
}
