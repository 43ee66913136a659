package keys

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"
)

// Source gives a TLS certificate for a handshake.
type Source = func(*tls.ClientHelloInfo) (*tls.Certificate, error)

// lookAgain is how long a certificate from files is used before the files are
// looked at again.
const lookAgain = 10 * time.Second

// File is a certificate in files that somebody else renews. A change is taken
// over without a restart; if the new files cannot be used the old certificate
// stays, and the log says why. It is safe for concurrent use.
type File struct {
	cert, key string
	now       func() time.Time
	log       *slog.Logger

	mu      sync.Mutex
	loaded  *tls.Certificate
	stamp   [2]stamp
	checked time.Time
}

// stamp is what changes when a file is written or replaced.
type stamp struct {
	modified time.Time
	size     int64
}

// OpenFile reads the certificate and its key, PEM files that belong together.
func OpenFile(cert, key string, now func() time.Time, log *slog.Logger) (*File, error) {
	f := &File{cert: cert, key: key, now: now, log: log}
	stamps, err := f.stamps()
	if err != nil {
		return nil, err
	}
	return f, f.load(stamps)
}

func (f *File) stamps() (s [2]stamp, err error) {
	for i, name := range []string{f.cert, f.key} {
		info, err := os.Stat(name)
		if err != nil {
			return s, fmt.Errorf("read TLS certificate: %w", err)
		}
		s[i] = stamp{info.ModTime(), info.Size()}
	}
	return s, nil
}

func (f *File) load(stamps [2]stamp) error {
	c, err := tls.LoadX509KeyPair(f.cert, f.key)
	if err != nil {
		return fmt.Errorf("read TLS certificate %s: %w", f.cert, err)
	}
	f.loaded, f.stamp, f.checked = &c, stamps, f.now()
	return nil
}

// Certificate is a [Source] that serves everybody this certificate.
func (f *File) Certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) { return f.current(), nil }

// current returns the certificate as the files have it.
func (f *File) current() *tls.Certificate {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now := f.now(); now.Sub(f.checked) >= lookAgain {
		f.checked = now
		stamps, err := f.stamps()
		if err == nil && stamps != f.stamp {
			err = f.load(stamps)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // between removal and renewal there is nothing to say
			f.log.Warn("TLS certificate not renewed, the one before stays", "err", err)
		}
	}
	return f.loaded
}

// Covers reports whether the certificate is valid for a DNS name or an IP address.
func (f *File) Covers(name string) bool { return covers(f.current().Leaf, name) }

// Choose returns a source that serves each client the first of the files whose
// certificate is valid for the host name that it asks for, and everybody else
// what the last source has.
func Choose(files []*File, last Source) Source {
	return func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		for _, f := range files {
			if c := f.current(); covers(c.Leaf, hello.ServerName) && hello.SupportsCertificate(c) == nil {
				return c, nil
			}
		}
		return last(hello)
	}
}

func covers(c *x509.Certificate, name string) bool {
	return name != "" && c.VerifyHostname(name) == nil
}
