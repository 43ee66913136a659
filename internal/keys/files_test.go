package keys

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// issued writes a certificate of ring for names into two files.
func issued(t *testing.T, ring *Ring, dir string, names ...string) (cert, key string) {
	t.Helper()
	c, err := ring.issue(names, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	for name, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: c.Certificate[0]}, key: {Type: "PRIVATE KEY", Bytes: der}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

func hello(name string) *tls.ClientHelloInfo {
	return &tls.ClientHelloInfo{
		ServerName: name, SupportedVersions: []uint16{tls.VersionTLS13},
		SignatureSchemes: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256}, SupportedCurves: []tls.CurveID{tls.CurveP256},
	}
}

func TestChoose(t *testing.T) {
	ring, err := Create(t.TempDir(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	var files []*File
	for _, names := range [][]string{{"api.securitycenter.microsoft.com"}, {"*.security.microsoft.com", "login.example.org"}} {
		cert, key := issued(t, ring, t.TempDir(), names...)
		f, err := OpenFile(cert, key, time.Now, slog.Default())
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	source := Choose(files, ring.Certificates([]string{"localhost", "127.0.0.1"}, time.Now))
	for asked, want := range map[string]string{
		"api.securitycenter.microsoft.com": "api.securitycenter.microsoft.com",
		"API.SecurityCenter.Microsoft.com": "api.securitycenter.microsoft.com",
		"us.security.microsoft.com":        "*.security.microsoft.com",
		"login.example.org":                "*.security.microsoft.com",
		"localhost":                        "localhost",
		"unknown.example.org":              "localhost",
		"":                                 "localhost",
	} {
		c, err := source(hello(asked))
		if err != nil || c.Leaf.DNSNames[0] != want {
			t.Errorf("%q: got %v, %v", asked, c.Leaf.DNSNames, err)
		}
	}
}

func TestFileIsRenewedWithoutRestart(t *testing.T) {
	ring, err := Create(t.TempDir(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	dir, now := t.TempDir(), time.Now()
	var log bytes.Buffer
	cert, key := issued(t, ring, dir, "old.example.org")
	f, err := OpenFile(cert, key, func() time.Time { return now }, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	serves := func(want string) {
		t.Helper()
		if c, err := f.Certificate(nil); err != nil || c.Leaf.DNSNames[0] != want {
			t.Errorf("got %v, %v; want %s", c.Leaf.DNSNames, err, want)
		}
	}
	serves("old.example.org")
	issued(t, ring, dir, "new.example.org", "longer.example.org")
	serves("old.example.org") // not looked at on every handshake
	now = now.Add(lookAgain)
	serves("new.example.org")

	// Half written, then gone: what works stays.
	if err := os.WriteFile(cert, []byte("-----BEGIN"), 0o600); err != nil {
		t.Fatal(err)
	}
	now = now.Add(lookAgain)
	serves("new.example.org")
	if !strings.Contains(log.String(), "TLS certificate not renewed") {
		t.Errorf("nothing was said: %s", log.String())
	}
	if err := os.Remove(cert); err != nil {
		t.Fatal(err)
	}
	now = now.Add(lookAgain)
	serves("new.example.org")
	issued(t, ring, dir, "third.example.org")
	now = now.Add(lookAgain)
	serves("third.example.org")
}

func TestOpenFileNamesWhatIsWrong(t *testing.T) {
	ring, err := Create(t.TempDir(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	cert, key := issued(t, ring, t.TempDir(), "a.example.org")
	other, _ := issued(t, ring, t.TempDir(), "b.example.org")
	for name, pair := range map[string][2]string{"missing": {cert + ".no", key}, "no key": {cert, key + ".no"}, "not a pair": {other, key}, "swapped": {key, cert}} {
		if _, err := OpenFile(pair[0], pair[1], time.Now, slog.Default()); err == nil || !strings.Contains(err.Error(), "read TLS certificate") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
