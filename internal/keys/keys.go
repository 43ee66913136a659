// Package keys owns a server's key material: files in its data directory,
// readable by the server's user only.
//
//	order.key  Ed25519; signs orders. Who has it can release machines; it is not in the database, so that a copy of the database is not enough.
//	token.key  RSA 2048; signs access tokens, until token-TIME.key does from that time on; see [Tokens]
//	ca.key     ECDSA P-256; signs the server's TLS certificate
//	ca.crt     given to clients and agents
//
// The TLS certificate itself is made in memory at start and renewed while the
// server runs: what clients trust is the CA.
package keys

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/cordon-project/cordon/internal/durable"
)

// The files of a key ring.
const (
	orderFile = "order.key"
	tokenFile = "token.key"
	caKeyFile = "ca.key"
	// CAFile is the CA certificate that clients are given.
	CAFile = "ca.crt"
)

// Lifetimes. Clients such as Apple's refuse server certificates above 825 days.
const (
	caLife    = 20 * 365 * 24 * time.Hour
	leafLife  = 90 * 24 * time.Hour
	leafRenew = 30 * 24 * time.Hour // before its end
)

// Ring is a server's key material that stays the same.
type Ring struct {
	Order ed25519.PrivateKey
	ca    *x509.Certificate
	caKey crypto.Signer
}

// Create makes the files that are missing in dir and returns the ring. It is
// for a server's first start; a later one uses [Load], because a new order key
// would be one that no agent obeys.
func Create(dir string, now time.Time) (*Ring, error) {
	for name, generate := range map[string]func() (any, error){
		orderFile: func() (any, error) { _, k, err := ed25519.GenerateKey(rand.Reader); return k, err },
		tokenFile: func() (any, error) { return rsa.GenerateKey(rand.Reader, 2048) },
		caKeyFile: func() (any, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) },
	} {
		if _, err := os.Stat(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
			continue // an interrupted first start made it, or Load below says what is wrong with it
		}
		key, err := generate()
		if err != nil {
			return nil, fmt.Errorf("make %s: %w", name, err)
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return nil, fmt.Errorf("encode %s: %w", name, err)
		}
		if err := writePEM(filepath.Join(dir, name), "PRIVATE KEY", der, 0o600); err != nil {
			return nil, err
		}
	}
	if _, err := os.Stat(filepath.Join(dir, CAFile)); errors.Is(err, fs.ErrNotExist) {
		if err := createCA(dir, now); err != nil {
			return nil, err
		}
	}
	return Load(dir)
}

func createCA(dir string, now time.Time) error {
	key, err := loadKey[*ecdsa.PrivateKey](dir, caKeyFile)
	if err != nil {
		return err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return fmt.Errorf("draw serial number: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "Cordon local CA " + serial.Text(16)[:8]},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(caLife),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return fmt.Errorf("make CA certificate: %w", err)
	}
	return writePEM(filepath.Join(dir, CAFile), "CERTIFICATE", der, 0o644)
}

// Load reads the ring in dir, but for the token keys, which [OpenTokens] does. A
// missing file is an error that names it.
func Load(dir string) (*Ring, error) {
	order, err := loadKey[ed25519.PrivateKey](dir, orderFile)
	if err != nil {
		return nil, err
	}
	caKey, err := loadKey[*ecdsa.PrivateKey](dir, caKeyFile)
	if err != nil {
		return nil, err
	}
	der, err := readPEM(filepath.Join(dir, CAFile))
	if err != nil {
		return nil, err
	}
	ca, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", filepath.Join(dir, CAFile), err)
	}
	if !caKey.PublicKey.Equal(ca.PublicKey) {
		return nil, fmt.Errorf("%s does not belong to %s: restore both from the same backup", filepath.Join(dir, CAFile), caKeyFile)
	}
	return &Ring{Order: order, ca: ca, caKey: caKey}, nil
}

func loadKey[K any](dir, name string) (k K, err error) {
	path := filepath.Join(dir, name)
	der, err := readPEM(path)
	if err != nil {
		return k, err
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return k, fmt.Errorf("read %s: %w", path, err)
	}
	k, ok := key.(K)
	if !ok {
		return k, fmt.Errorf("read %s: it holds a %T, not a %T", path, key, k)
	}
	return k, nil
}

func readPEM(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read key material (restore it from a backup): %w", err)
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("read %s: it is not PEM", path)
	}
	return block.Bytes, nil
}

// writePEM writes the file durably and whole or not at all.
func writePEM(path, kind string, der []byte, mode fs.FileMode) error {
	if err := durable.Replace(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), mode); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// Certificates returns a source of TLS certificates for names (DNS names or IP
// addresses), signed by the ring's CA and renewed when they get old. It is safe
// for concurrent use.
func (r *Ring) Certificates(names []string, now func() time.Time) Source {
	var mu sync.Mutex
	var current *tls.Certificate
	return func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		mu.Lock()
		defer mu.Unlock()
		if current != nil && now().Before(current.Leaf.NotAfter.Add(-leafRenew)) {
			return current, nil
		}
		fresh, err := r.issue(names, now())
		if err != nil {
			return nil, err
		}
		current = fresh
		return current, nil
	}
}

func (r *Ring) issue(names []string, now time.Time) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make TLS key: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("draw serial number: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: names[0]}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(leafLife),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, n)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, r.ca, key.Public(), r.caKey)
	if err != nil {
		return nil, fmt.Errorf("make TLS certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read TLS certificate: %w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{der, r.ca.Raw}, PrivateKey: key, Leaf: leaf}, nil
}
