package keys

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

var (
	now   = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	files = map[string]fs.FileMode{orderFile: 0o600, tokenFile: 0o600, caKeyFile: 0o600, CAFile: 0o644}
)

func create(t *testing.T, dir string) *Ring {
	t.Helper()
	r, err := Create(dir, now)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestFirstStart(t *testing.T) {
	dir := t.TempDir()
	made := create(t, dir)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != len(files) {
		t.Errorf("files: %v", entries)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		if want := files[e.Name()]; info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %v", e.Name(), info.Mode(), want)
		}
	}
	if n := token(t, dir).N.BitLen(); n != 2048 {
		t.Errorf("the token key has %d bits", n)
	}
	// A second start finds the same keys, also one that thinks it is the first.
	loaded, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	made1 := token(t, dir)
	for _, r := range []*Ring{loaded, create(t, dir)} {
		if !r.Order.Equal(made.Order) || !token(t, dir).Equal(made1) || !r.ca.Equal(made.ca) || !r.caKey.(*ecdsa.PrivateKey).Equal(made.caKey) {
			t.Error("the keys changed")
		}
	}
	second := t.TempDir()
	if other := create(t, second); other.Order.Equal(made.Order) || token(t, second).Equal(made1) || other.ca.Equal(made.ca) || other.ca.Subject.CommonName == made.ca.Subject.CommonName {
		t.Error("two servers have the same keys")
	}
}

// A first start that was interrupted goes on with what is there.
func TestInterruptedFirstStart(t *testing.T) {
	whole := t.TempDir()
	made := create(t, whole)
	for _, kept := range []string{orderFile, tokenFile, caKeyFile} {
		dir := t.TempDir()
		copyFile(t, filepath.Join(whole, kept), filepath.Join(dir, kept))
		if err := os.WriteFile(filepath.Join(dir, orderFile+".new"), []byte("-----BEGIN"), 0o600); err != nil {
			t.Fatal(err)
		}
		r := create(t, dir)
		if r.Order.Equal(made.Order) != (kept == orderFile) || token(t, dir).Equal(token(t, whole)) != (kept == tokenFile) || r.caKey.(*ecdsa.PrivateKey).Equal(made.caKey) != (kept == caKeyFile) {
			t.Errorf("%s was not kept, or another one was", kept)
		}
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// token returns the key that signs access tokens.
func token(t *testing.T, dir string) *rsa.PrivateKey {
	t.Helper()
	return openTokens(t, dir, new(time.Time)).Keys()[0]
}

// loadAll reads everything in dir.
func loadAll(dir string) error {
	_, err := Load(dir)
	if err == nil {
		_, err = OpenTokens(TokenConfig{Dir: dir})
	}
	return err
}

// A later start makes no keys: a new order key would be one that nobody obeys.
func TestLaterStart(t *testing.T) {
	for name := range files {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			create(t, dir)
			path := filepath.Join(dir, name)
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			err := loadAll(dir)
			if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "restore it from a backup") {
				t.Errorf("missing: %v", err)
			}
			for content, why := range map[string]string{
				"":               "it is not PEM",
				"garbage":        "it is not PEM",
				pemOf("X", "xx"): "",
			} {
				if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
				if err := loadAll(dir); err == nil || !strings.Contains(err.Error(), "read "+path+": "+why) {
					t.Errorf("%q: %v", content, err)
				}
			}
			if _, err := Create(dir, now); err == nil && loadAll(dir) == nil {
				t.Error("a broken file was taken for a missing one")
			}
			for other := range files {
				if other == name || other == CAFile {
					continue
				}
				copyFile(t, filepath.Join(dir, other), path)
				if err := loadAll(dir); err == nil || !strings.Contains(err.Error(), "read "+path+": ") {
					t.Errorf("%s in its place: %v", other, err)
				}
			}
		})
	}
}

func pemOf(kind, content string) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: []byte(content)}))
}

func TestCAOfAnotherServer(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	create(t, dir)
	create(t, other)
	copyFile(t, filepath.Join(other, CAFile), filepath.Join(dir, CAFile))
	want := filepath.Join(dir, CAFile) + " does not belong to ca.key: restore both from the same backup"
	if _, err := Load(dir); err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
	// The same when the key got lost and was made anew.
	dir = t.TempDir()
	create(t, dir)
	if err := os.Remove(filepath.Join(dir, caKeyFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := Create(dir, now); err == nil || !strings.Contains(err.Error(), "does not belong to ca.key") {
		t.Errorf("got %v", err)
	}
}

func TestDirectoryThatCannotBeWritten(t *testing.T) {
	if _, err := Create(filepath.Join(t.TempDir(), "missing"), now); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "write ") {
		t.Errorf("got %v", err)
	}
}

func TestCertificateIsValidForItsNames(t *testing.T) {
	dir := t.TempDir()
	ring := create(t, dir)
	get := ring.Certificates([]string{"localhost", "127.0.0.1", "::1", "cordon.example.com", "10.1.2.3", "*.apps.example.com"}, func() time.Time { return now })
	cert, err := get(nil)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	caPEM, err := os.ReadFile(filepath.Join(dir, CAFile))
	if err != nil || !roots.AppendCertsFromPEM(caPEM) {
		t.Fatalf("CA file: %v", err)
	}
	verify := func(name string, at time.Time) error {
		_, err := cert.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: name, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
		return err
	}
	for _, name := range []string{"localhost", "127.0.0.1", "::1", "[::1]", "cordon.example.com", "CORDON.example.com", "10.1.2.3", "x.apps.example.com"} {
		if err := verify(name, now); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"example.com", "127.0.0.2", "evil.example.com"} {
		if err := verify(name, now); err == nil {
			t.Errorf("it is valid for %s", name)
		}
	}
	if err := verify("localhost", now.Add(leafLife+time.Second)); err == nil {
		t.Error("it never ends")
	}
	if life := cert.Leaf.NotAfter.Sub(cert.Leaf.NotBefore); life > 825*24*time.Hour {
		t.Errorf("it lives for %s, which some clients refuse", life)
	}
	if cert.Leaf.IsCA || ring.ca.NotAfter.Before(now.Add(19*365*24*time.Hour)) {
		t.Error("wrong kind or life of certificate")
	}

	// And a real handshake, by name and by address.
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{GetCertificate: get})
	if err != nil {
		t.Fatal(err)
	}
	var server sync.WaitGroup
	server.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.(*tls.Conn).Handshake() // the client says what it thinks of it
			_ = c.Close()                 // the client has seen enough
		}
	})
	defer server.Wait()
	defer func() { _ = l.Close() }() // ends the above
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", "localhost"} {
		c, err := tls.Dial("tcp", "127.0.0.1:"+port, &tls.Config{RootCAs: roots, ServerName: name, Time: func() time.Time { return now }})
		if err != nil {
			t.Errorf("%q: %v", name, err)
			continue
		}
		_ = c.Close() // nothing was sent
	}
	if _, err := tls.Dial("tcp", "127.0.0.1:"+port, &tls.Config{RootCAs: x509.NewCertPool(), Time: func() time.Time { return now }}); err == nil {
		t.Error("a client without the CA connects")
	}
}

func TestCertificateIsRenewed(t *testing.T) {
	clock := now
	get := create(t, t.TempDir()).Certificates([]string{"localhost"}, func() time.Time { return clock })
	serial := func() string {
		t.Helper()
		c, err := get(nil)
		if err != nil {
			t.Fatal(err)
		}
		if clock.Before(c.Leaf.NotBefore) || !clock.Before(c.Leaf.NotAfter) {
			t.Errorf("not valid at %s", clock)
		}
		return c.Leaf.SerialNumber.String()
	}
	first := serial()
	for clock = now; clock.Before(now.Add(leafLife - leafRenew)); clock = clock.Add(24 * time.Hour) {
		if serial() != first {
			t.Fatalf("renewed at %s", clock)
		}
	}
	clock = now.Add(leafLife - leafRenew)
	second := serial()
	if second == first {
		t.Error("not renewed in time")
	}
	if clock = clock.Add(time.Hour); serial() != second {
		t.Error("renewed at once again")
	}
	clock = now.Add(10 * 365 * 24 * time.Hour) // the server slept for ten years
	if serial() == second {
		t.Error("not renewed after its end")
	}
}

func TestCertificatesAtOnce(t *testing.T) {
	get := create(t, t.TempDir()).Certificates([]string{"localhost"}, func() time.Time { return now })
	certs := make([]*tls.Certificate, 8)
	var wg sync.WaitGroup
	for i := range certs {
		wg.Go(func() {
			var err error
			if certs[i], err = get(nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, c := range certs {
		if c != certs[0] {
			t.Error("several certificates were made")
		}
	}
}

func TestOrderKeySigns(t *testing.T) {
	dir := t.TempDir()
	ring := create(t, dir)
	if !ed25519.Verify(ring.Order.Public().(ed25519.PublicKey), []byte("x"), ed25519.Sign(ring.Order, []byte("x"))) {
		t.Error("the order key does not sign")
	}
	if err := token(t, dir).Validate(); err != nil {
		t.Error(err)
	}
}
