package cli

import (
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"
)

// TestOnlyCertificatesAreSent: the private key that some keep in the same file
// never leaves the machine.
func TestOnlyCertificatesAreSent(t *testing.T) {
	block := func(kind, content string) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: []byte(content)}))
	}
	file := filepath.Join(t.TempDir(), "all.pem")
	text := "Bag Attributes\n" + block("PRIVATE KEY", "key") + block("CERTIFICATE", "leaf") + block("EC PARAMETERS", "p") + block("CERTIFICATE", "issuer")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := readCertificate(file); err != nil || got != block("CERTIFICATE", "leaf")+block("CERTIFICATE", "issuer") {
		t.Errorf("%v, sent is\n%s", err, got)
	}
}
