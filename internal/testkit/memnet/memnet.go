// Package memnet is a network in memory with one server on it, for tests.
//
// Its connections work under testing/synctest, where time passes only when
// everybody waits: they buffer without bound, so that nobody who writes has to
// wait for somebody who holds a lock. It can be cut, and it can go silent, as
// networks do.
package memnet

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// Network is a network in memory. Make one with [New].
type Network struct {
	incoming chan net.Conn
	closed   chan struct{}
	close    func()

	mu     sync.Mutex
	conns  []*conn
	down   bool
	silent bool
}

// New returns a network on which nobody has connected yet.
func New() *Network {
	n := &Network{incoming: make(chan net.Conn), closed: make(chan struct{})}
	n.close = sync.OnceFunc(func() {
		close(n.closed)
		n.Cut()
	})
	return n
}

var errRefused = errors.New("connection refused")

// DialContext connects to the server, whatever the address.
func (n *Network) DialContext(ctx context.Context, _, _ string) (net.Conn, error) {
	a, b := newStream(), newStream()
	client, server := &conn{network: n, in: a, out: b}, &conn{network: n, in: b, out: a}
	n.mu.Lock()
	if n.down {
		n.mu.Unlock()
		return nil, errRefused
	}
	n.conns = append(n.conns, client, server)
	n.mu.Unlock()
	select {
	case n.incoming <- server:
		return client, nil
	case <-n.closed:
		return nil, errRefused
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Cut breaks all connections. New ones can be made.
func (n *Network) Cut() {
	n.mu.Lock()
	conns := n.conns
	n.conns = nil
	n.mu.Unlock()
	for _, c := range conns {
		_ = c.Close() // it may be closed already
	}
}

// Down breaks all connections and refuses new ones, or ends that.
func (n *Network) Down(down bool) {
	n.mu.Lock()
	n.down = down
	n.mu.Unlock()
	if down {
		n.Cut()
	}
}

// Silence loses everything that is sent from now on without telling anybody,
// or ends that. What was lost stays lost.
func (n *Network) Silence(silent bool) {
	n.mu.Lock()
	n.silent = silent
	n.mu.Unlock()
}

// Accept, Close and Addr make the network the server's [net.Listener].
func (n *Network) Accept() (net.Conn, error) {
	select {
	case c := <-n.incoming:
		return c, nil
	case <-n.closed:
		return nil, net.ErrClosed
	}
}

// Close breaks all connections for good.
func (n *Network) Close() error {
	n.close()
	return nil
}

// Addr returns an address for which test certificates are valid.
func (n *Network) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 443} }

// stream carries bytes one way.
type stream struct {
	mu       sync.Mutex
	data     []byte
	err      error         // what a reader gets once data is read
	deadline time.Time     // of the reader
	changed  chan struct{} // closed and replaced whenever one of the above changes
}

func newStream() *stream { return &stream{changed: make(chan struct{})} }

func (s *stream) change(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *stream) read(b []byte) (int, error) {
	for {
		n, changed, deadline, err := s.try(b)
		if n > 0 || err != nil {
			return n, err
		}
		if deadline.IsZero() {
			<-changed
			continue
		}
		timer := time.NewTimer(time.Until(deadline))
		select {
		case <-changed:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// try reads what is there. If there is nothing, it says what to wait for.
func (s *stream) try(b []byte) (n int, changed <-chan struct{}, deadline time.Time, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case errors.Is(s.err, net.ErrClosed):
		err = s.err
	case !s.deadline.IsZero() && !time.Now().Before(s.deadline):
		err = os.ErrDeadlineExceeded
	case len(s.data) > 0:
		n = copy(b, s.data)
		s.data = s.data[n:]
	default:
		err = s.err
	}
	return n, s.changed, s.deadline, err
}

// conn is one end of a connection.
type conn struct {
	network *Network
	in, out *stream
}

func (c *conn) Read(b []byte) (int, error) { return c.in.read(b) }

// Write loses what it is given while the network is silent.
func (c *conn) Write(b []byte) (int, error) {
	c.network.mu.Lock()
	silent := c.network.silent
	c.network.mu.Unlock()
	var err error
	c.out.change(func() {
		if err = c.out.err; err == nil && !silent {
			c.out.data = append(c.out.data, b...)
		}
	})
	if err != nil {
		return 0, err
	}
	return len(b), nil
}

// Close ends both directions. What was written before still arrives.
func (c *conn) Close() error {
	c.in.change(func() { c.in.err, c.in.data = net.ErrClosed, nil })
	c.out.change(func() {
		if c.out.err == nil {
			c.out.err = io.EOF
		}
	})
	return nil
}

func (c *conn) LocalAddr() net.Addr  { return c.network.Addr() }
func (c *conn) RemoteAddr() net.Addr { return c.network.Addr() }

func (c *conn) SetReadDeadline(t time.Time) error {
	c.in.change(func() { c.in.deadline = t })
	return nil
}

// SetWriteDeadline has no effect: nothing that is written has to wait.
func (c *conn) SetWriteDeadline(time.Time) error { return nil }

func (c *conn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }
