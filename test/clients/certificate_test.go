package clients

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// file is a path in the world's directory.
func (w *world) file(name string) string { return filepath.Join(w.dir, name) }

// makeCertificate makes a certificate for [certifiedNames], as somebody has
// one who has a CA already: gov.crt, gov.key, and the CA's other-ca.crt.
func (w *world) makeCertificate() {
	w.Helper()
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Another CA"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: ca.NotBefore, NotAfter: ca.NotAfter, DNSNames: certifiedNames}
	caKey, err1 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	key, err2 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err := errors.Join(err1, err2); err != nil {
		w.Fatal(err)
	}
	caDER, err1 := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	der, err2 := x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), caKey)
	keyDER, err3 := x509.MarshalPKCS8PrivateKey(key)
	err := errors.Join(err1, err2, err3)
	for name, block := range map[string]*pem.Block{
		"other-ca.crt": {Type: "CERTIFICATE", Bytes: caDER}, "gov.crt": {Type: "CERTIFICATE", Bytes: der}, "gov.key": {Type: "PRIVATE KEY", Bytes: keyDER},
	} {
		err = errors.Join(err, os.WriteFile(w.file(name), pem.EncodeToMemory(block), 0o600))
	}
	if err != nil {
		w.Fatal(err)
	}
}

// TestNames: one server has a certificate for every name that programs have
// built in, each from the CA that it was meant to come from.
func TestNames(t *testing.T) {
	w := newWorld(t)
	other := x509.NewCertPool()
	text, err := os.ReadFile(w.file("other-ca.crt"))
	if err != nil || !other.AppendCertsFromPEM(text) {
		t.Fatal(err)
	}
	own := x509.NewCertPool()
	if text, err = os.ReadFile(w.boot.CAFile); err != nil || !own.AppendCertsFromPEM(text) {
		t.Fatal(err)
	}
	for _, c := range []struct {
		names []string
		roots *x509.CertPool
	}{{builtInNames, own}, {certifiedNames, other}} {
		for _, name := range c.names {
			conn, err := tls.Dial("tcp", name+":443", &tls.Config{RootCAs: c.roots})
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			_ = conn.Close() // nothing was sent
		}
	}
	if conn, err := tls.Dial("tcp", ownName+":443", &tls.Config{RootCAs: own, ServerName: "graph.microsoft.com"}); err == nil {
		_ = conn.Close() // nothing was sent
		t.Error("the server has a certificate for a name that it was not told to serve")
	}
}
