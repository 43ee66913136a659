package cordon

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// The bounds of an application. Two secrets are what a rotation without a gap
// takes; certificates often overlap for longer than that.
const (
	MaxSecrets         = 2
	MaxCertificates    = 5
	MaxApplicationName = 120 // characters
)

// Application is a program that may get access tokens.
type Application struct {
	ClientID     string // GUID, lower case
	ObjectID     string // GUID of its service principal: the oid and sub of its tokens
	DisplayName  string
	Secrets      []Secret      // at most MaxSecrets, the oldest first
	Certificates []Certificate // at most MaxCertificates, in the order in which they were added
	Permissions  []Permission
	Created      time.Time
}

// SecretHash is the SHA-256 sum of a secret. Its text is hexadecimal, lower case.
type SecretHash [sha256.Size]byte

// MarshalText writes the sum.
func (h SecretHash) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, h[:]), nil }

// UnmarshalText reads the sum.
func (h *SecretHash) UnmarshalText(text []byte) error {
	if len(text) != hex.EncodedLen(len(h)) {
		return fmt.Errorf("read hash of a secret: it has %d digits", len(text))
	}
	_, err := hex.Decode(h[:], text)
	return err
}

// Secret is a client secret, as much of it as is kept.
type Secret struct {
	ID      string     // GUID; tells secrets of an application apart
	Hint    string     // its first characters
	Hash    SecretHash // of the secret, which has 256 random bits: no guessing finds it
	Created time.Time
	Expires *time.Time // nil: never
}

const hintLength = 3 // characters, as many as Entra ID shows

// NewSecret returns what is kept of a secret.
func NewSecret(id, value string, created time.Time, expires *time.Time) Secret {
	return Secret{ID: id, Hint: value[:min(hintLength, len(value))], Hash: sha256.Sum256([]byte(value)), Created: created, Expires: expires}
}

// Live reports whether the secret may be used at now.
func (s Secret) Live(now time.Time) bool { return s.Expires == nil || now.Before(*s.Expires) }

// CheckSecret reports whether value is one of the application's secrets, and
// whether that one is live. How long it takes does not depend on the
// application: for one that nobody has registered it may be called on the zero
// Application.
func (a Application) CheckSecret(value string, now time.Time) (known, live bool) {
	digest := sha256.Sum256([]byte(value))
	for i := range MaxSecrets {
		var s Secret
		if i < len(a.Secrets) {
			s = a.Secrets[i]
		}
		if subtle.ConstantTimeCompare(digest[:], s.Hash[:]) == 1 {
			known, live = true, live || s.Live(now)
		}
	}
	return known, live
}

// Certificate is a public key by which an application may prove who it is: that
// of an X.509 certificate, which is nothing but the envelope that programs and
// people know it by. Who has signed it does not matter.
type Certificate struct {
	DER     []byte // the certificate
	Subject string
	Begins  time.Time
	Expires time.Time
	Added   time.Time
}

// ParseCertificate reads a certificate, in PEM form or not. It is an error of
// kind Invalid if its key is one that no assertion can be signed with, or if it
// has expired at now.
func ParseCertificate(text []byte, now time.Time) (Certificate, error) {
	invalid := func(format string, args ...any) error { return Errorf(Invalid, CodeInvalidInput, format, args...) }
	der := text
	for rest := text; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type == "CERTIFICATE" { // the first: those behind it are who signed it
			der = block.Bytes
			break
		}
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return Certificate{}, invalid("This is no X.509 certificate. Give a PEM file that begins with -----BEGIN CERTIFICATE-----")
	}
	switch key := c.PublicKey.(type) {
	case *rsa.PublicKey:
		if n := key.N.BitLen(); n < 2048 || n > 8192 {
			return Certificate{}, invalid("The certificate has an RSA key of %d bits. Use one of 2048 to 8192", n)
		}
	case *ecdsa.PublicKey:
		if key.Curve != elliptic.P256() {
			return Certificate{}, invalid("The certificate has a key on the curve %s. Use P-256, or an RSA key", key.Curve.Params().Name)
		}
	default:
		return Certificate{}, invalid("The certificate has a key of the kind %s. Use an RSA key of at least 2048 bits, or a key on P-256", c.PublicKeyAlgorithm)
	}
	if !now.Before(c.NotAfter) {
		return Certificate{}, invalid("The certificate has expired at %s. Make a new one", c.NotAfter.UTC().Format(time.RFC3339))
	}
	return Certificate{DER: c.Raw, Subject: c.Subject.String(), Begins: c.NotBefore.UTC(), Expires: c.NotAfter.UTC(), Added: now}, nil
}

// Thumbprint is the SHA-1 sum of the certificate in upper-case hexadecimal, the
// name that Entra ID gives it. Nothing but the choice among an application's
// certificates rests on it.
func (c Certificate) Thumbprint() string {
	sum := sha1.Sum(c.DER)
	return strings.ToUpper(hex.EncodeToString(sum[:]))
}

// ThumbprintS256 is the SHA-256 sum of the certificate in upper-case hexadecimal.
func (c Certificate) ThumbprintS256() string {
	sum := sha256.Sum256(c.DER)
	return strings.ToUpper(hex.EncodeToString(sum[:]))
}

// Live reports whether the certificate may be used at now.
func (c Certificate) Live(now time.Time) bool { return !now.Before(c.Begins) && now.Before(c.Expires) }

// administers reports whether the application can be used, now, to manage
// applications.
func (a Application) administers(now time.Time) bool {
	return slices.Contains(a.Permissions, ApplicationReadWriteAll) &&
		(slices.ContainsFunc(a.Secrets, func(s Secret) bool { return s.Live(now) }) ||
			slices.ContainsFunc(a.Certificates, func(c Certificate) bool { return c.Live(now) }))
}

// Clone returns an application that shares nothing with a that can be written.
func (a Application) Clone() Application {
	a.Secrets, a.Certificates, a.Permissions = slices.Clone(a.Secrets), slices.Clone(a.Certificates), slices.Clone(a.Permissions)
	return a
}

// checkApplicationName returns name as it is kept.
func checkApplicationName(name string) (string, error) {
	name = strings.TrimSpace(name)
	switch {
	case name == "":
		return "", Errorf(Invalid, CodeMissingParameter, "The application needs a name")
	case !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl):
		return "", Errorf(Invalid, CodeInvalidInput, "The name of an application has no control characters and is valid UTF-8")
	case utf8.RuneCountInString(name) > MaxApplicationName:
		return "", Errorf(Invalid, CodeInvalidInput, "The name of the application has %d characters, allowed are %d", utf8.RuneCountInString(name), MaxApplicationName)
	case guid.MatchString(name):
		return "", Errorf(Invalid, CodeInvalidInput, "The name of the application looks like a client id. Choose a name that tells people what it is")
	}
	return name, nil
}

// checkPermissions returns the permissions of a list in the order of
// [AllPermissions], each once and in its own spelling.
func checkPermissions(list []Permission) ([]Permission, error) {
	wanted := make(map[Permission]bool)
	for _, p := range list {
		i := slices.IndexFunc(AllPermissions(), func(known Permission) bool { return strings.EqualFold(string(known), string(p)) })
		if i < 0 {
			return nil, Errorf(Invalid, CodeInvalidInput, "There is no permission %.64q. There are %s", string(p), joinPermissions(AllPermissions()))
		}
		wanted[AllPermissions()[i]] = true
	}
	return ordered(wanted), nil
}

func ordered(wanted map[Permission]bool) []Permission {
	found := []Permission{}
	for _, p := range AllPermissions() {
		if wanted[p] {
			found = append(found, p)
			delete(wanted, p)
		}
	}
	for p := range wanted { // of an edition that knew more
		found = append(found, p)
	}
	slices.Sort(found[len(found)-len(wanted):])
	return found
}
