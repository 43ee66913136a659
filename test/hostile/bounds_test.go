package hostile

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// liveHeap is how much memory is in use, in bytes. The attackers' side of every
// connection is in it too.
func liveHeap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// post is the head of a request to one of the addresses that take a body.
func (w *world) post(path, rest string) string {
	return "POST " + strings.ReplaceAll(path, "$T", w.tenant) + " HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + w.token + "\r\nContent-Type: application/json\r\n" + rest
}

var takesBody = []string{
	"/api/machines/web-01.example.org/restrictCodeExecution", "/api/machines/web-01.example.org/runliveresponse",
	"/api/machines/web-01.example.org/tags", "/$T/oauth2/v2.0/token", "/agent/v1/enroll", "/agent/v1/sync", "/cordon/v1/apps", "/cordon/v1/trust", "/cordon/v1/groups", "/cordon/v1/groups/x/machines",
}

// TestSlow opens connections that take all the time in the world, at every point
// at which one can. Others are served meanwhile, the memory that they hold is
// bounded, and each of them is ended by the server.
func TestSlow(t *testing.T) {
	w := newWorld(t, impatient)
	w.enrol(make([]string, 200)...) // so that there are long answers
	before := liveHeap()
	var held, ended sync.WaitGroup // each attacker says when it is in place, and when it was thrown out
	attack := func(what string, f func(inPlace func()) error) {
		held.Add(1)
		ended.Go(func() {
			var once sync.Once
			inPlace := func() { once.Do(held.Done) }
			defer inPlace()
			if err := f(inPlace); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		})
	}
	for range 10 {
		attack("no handshake", func(inPlace func()) error {
			c, err := net.Dial("tcp", w.addr)
			if err != nil {
				return err
			}
			defer func() { _ = c.Close() }()            // the server may have
			_ = c.SetDeadline(time.Now().Add(patience)) // a connection that is open has one
			inPlace()
			return thrownOut(c)
		})
		attack("half a head", w.stall("GET /api/machines HTTP/1.1\r\nHost: x\r\nX-Half: "))
		attack("dripping body", func(inPlace func()) error {
			c, err := w.dial()
			if err != nil {
				return inHandshake(err)
			}
			defer func() { _ = c.Close() }() // the server may have
			drip := time.NewTicker(20 * time.Millisecond)
			defer drip.Stop()
			_, err = io.WriteString(c, w.post(takesBody[0], "Content-Length: 60000\r\n\r\n"))
			for inPlace(); err == nil; <-drip.C {
				_, err = io.WriteString(c, " ")
			}
			return unlessTimeout(err)
		})
	}
	for _, path := range takesBody { // 80 in all
		for range 10 {
			attack("half a body for "+path, w.stall(w.post(path, "Content-Length: 1000000000\r\n\r\n")+strings.Repeat(" ", 60<<10)))
		}
	}
	for range 5 {
		attack("never reading", w.neverReading)
	}
	slow := &http.Client{Transport: &http.Transport{TLSClientConfig: w.tls.Clone(), ForceAttemptHTTP2: true}}
	for range 50 {
		attack("half a body over HTTP/2", func(inPlace func()) error {
			r, _ := http.NewRequest("POST", "https://"+w.addr+takesBody[0], &blocked{inPlace: inPlace, closed: make(chan struct{})})
			r.ContentLength = 1000
			r.Header.Set("Authorization", "Bearer "+w.token)
			r.Header.Set("Content-Type", "application/json")
			answer, err := slow.Do(r)
			if err != nil {
				return nil // thrown out without an answer
			}
			defer func() { _ = answer.Body.Close() }() // only read
			if answer.ProtoMajor != 2 || answer.StatusCode != http.StatusBadRequest {
				return fmt.Errorf("%s %s", answer.Proto, answer.Status)
			}
			return nil
		})
	}
	held.Wait()
	w.honest()
	used := liveHeap() - before
	t.Logf("slow connections hold %d bytes", used)
	if used > 64<<20 {
		t.Errorf("%d bytes are held by slow connections", used)
	}
	ended.Wait()
	slow.CloseIdleConnections()
	w.honest()
}

// stall returns an attacker that sends something and then nothing more.
func (w *world) stall(sent string) func(inPlace func()) error {
	return func(inPlace func()) error {
		c, err := w.dial()
		if err != nil {
			return inHandshake(err)
		}
		defer func() { _ = c.Close() }() // the server may have
		_, err = io.WriteString(c, sent) // an early answer may be on its way already
		inPlace()
		if err != nil {
			return unlessTimeout(err)
		}
		return thrownOut(c)
	}
}

// neverReading asks again and again and takes no answer, until the server does
// not take any more either.
func (w *world) neverReading(inPlace func()) error {
	dialer := &net.Dialer{Control: func(_, _ string, c syscall.RawConn) error { // or the kernel would take megabytes for it
		var failed error
		err := c.Control(func(fd uintptr) { failed = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4096) })
		return errors.Join(err, failed)
	}}
	c, err := tls.DialWithDialer(dialer, "tcp", w.addr, w.tls)
	if err != nil {
		return inHandshake(err)
	}
	defer func() { _ = c.Close() }()            // the server may have
	_ = c.SetDeadline(time.Now().Add(patience)) // a connection that is open has one
	inPlace()
	for err == nil {
		_, err = io.WriteString(c, "GET /api/machines HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+w.token+"\r\n\r\n")
	}
	return unlessTimeout(err)
}

// blocked is a body whose rest never comes.
type blocked struct {
	inPlace func()
	begun   bool
	once    sync.Once
	closed  chan struct{}
}

func (b *blocked) Read(p []byte) (int, error) {
	if !b.begun {
		b.begun = true
		return copy(p, `{"Comment":`), nil
	}
	b.inPlace()
	<-b.closed
	return 0, io.EOF
}

func (b *blocked) Close() error {
	b.once.Do(func() { close(b.closed) })
	return nil
}

// thrownOut waits until the server ends the connection.
func thrownOut(c net.Conn) error {
	answer, err := io.ReadAll(c)
	if first, _, _ := bytes.Cut(answer, []byte("\r\n")); bytes.HasPrefix(first, []byte("HTTP/1.1 5")) {
		return errors.New(string(first))
	}
	return unlessTimeout(err)
}

// inHandshake passes on why there is no connection, unless the server has ended it
// already, which does not wait for long: on a machine that is busy a handshake may
// take longer.
func inHandshake(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		return nil
	}
	return err
}

// unlessTimeout passes on that it was the attacker who lost patience. Any other
// error means that the server has ended the connection.
func unlessTimeout(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return errors.New("the server would have waited for ever")
	}
	return nil
}

// TestHuge sends what has no end, and what would be huge if it were unpacked, all
// of it at once. The server must end it early, and must not take it into memory
// before: for an attack it may use what the longest honest message would cost.
func TestHuge(t *testing.T) {
	w := newWorld(t, asServed)
	const most, allowed = 64 << 20, 6 << 20 // bytes sent, bytes of memory
	type attack struct{ first, forever string }
	attacks := map[string]attack{
		"head":        {"GET /api/machines HTTP/1.1\r\nHost: x\r\nX-Long: ", strings.Repeat("x", 4096)},
		"many lines":  {"GET /api/machines HTTP/1.1\r\nHost: x\r\n", strings.Repeat("X-Many: x\r\n", 400)},
		"token":       {"GET /api/machines HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ", strings.Repeat("eyJ.", 1000)},
		"address":     {"GET /api/machines/", strings.Repeat("a/", 2000)},
		"query":       {"GET /api/machines?", strings.Repeat("$top=1&", 600)},
		"line breaks": {"", strings.Repeat("\r\n", 2000)},
		"nothing":     {"", strings.Repeat("\x00", 4096)},
	}
	for _, path := range takesBody {
		attacks["body of "+path] = attack{w.post(path, "Content-Length: 1000000000\r\n\r\n{"), strings.Repeat(" ", 4096)}
		attacks["chunks of "+path] = attack{w.post(path, "Transfer-Encoding: chunked\r\n\r\n"), "1000\r\n" + strings.Repeat("[", 4096) + "\r\n"}
		attacks["tiny chunks of "+path] = attack{w.post(path, "Transfer-Encoding: chunked\r\n\r\n"), strings.Repeat("1;x=y\r\n \r\n", 400)}
		attacks["bomb for "+path] = attack{w.post(path, fmt.Sprintf("Content-Encoding: gzip\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(bomb), bomb)), ""}
	}
	var all sync.WaitGroup
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for what, a := range attacks {
		all.Go(func() {
			status, sent, err := w.flood([]byte(a.first), []byte(a.forever), most)
			if err != nil || sent >= most || status >= 500 || status != 0 && status < 400 {
				t.Errorf("%s: answered %d after %d bytes: %v", what, status, sent, err)
			}
		})
	}
	all.Wait()
	runtime.ReadMemStats(&after)
	if used := int(after.TotalAlloc-before.TotalAlloc) / len(attacks); used > allowed {
		t.Errorf("an attack takes %d bytes of memory", used)
	} else {
		t.Logf("an attack takes %d bytes of memory", used)
	}
	w.honest()
}

// flood sends first, and then something for ever, until the server ends it. It
// returns the status of the answer, 0 if there was none, and how much was sent.
func (w *world) flood(first, forever []byte, most int) (status, sent int, err error) {
	c, err := w.dial()
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = c.Close() }() // the server may have
	sent, err = c.Write(first)
	for err == nil && len(forever) > 0 && sent < most {
		var n int
		n, err = c.Write(forever)
		sent += n
	}
	if err := unlessTimeout(err); err != nil {
		return 0, sent, err
	}
	answer, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return 0, sent, unlessTimeout(err)
	}
	defer func() { _ = answer.Body.Close() }() // only read
	return answer.StatusCode, sent, nil
}

// TestGone goes away at any time: over HTTP/2, where it costs nothing, hundreds
// of requests are made and dropped.
func TestGone(t *testing.T) {
	w := newWorld(t, asServed)
	a := w.attacker()
	var all sync.WaitGroup
	for n := range 300 {
		all.Go(func() {
			method, path := "GET", []string{"/api/machines", "/api/machineactions", "/cordon/v1/machines/" + a.machines[0], "/cordon/v1/actions/" + a.actions[0] + "/evidence", takesBody[0]}[n%5]
			if path == takesBody[0] {
				method = "POST"
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			r, _ := http.NewRequestWithContext(ctx, method, "https://"+w.addr+path, strings.NewReader(`{"Comment":"x"}`))
			r.Header.Set("Authorization", "Bearer "+w.token)
			r.Header.Set("Content-Type", "application/json")
			gone := time.AfterFunc(time.Duration(n)*100*time.Microsecond, cancel)
			defer gone.Stop()
			answer, err := w.http.Do(r)
			if err != nil {
				return
			}
			defer func() { _ = answer.Body.Close() }() // only read
			if answer.StatusCode >= 500 {
				t.Errorf("%s: %s", path, answer.Status)
			}
		})
	}
	all.Wait()
	w.honest()
}
