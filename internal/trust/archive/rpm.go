package archive

import (
	"bytes"
	"io"
	"path"
	"strings"

	"github.com/ProtonMail/go-crypto/openpgp"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/trust/rpm"
)

// rpm returns what a package file brings, by its header: rpm itself checks the
// payload against it, file by file.
func (v *verifier) rpm(r io.Reader, origin string, trusted bool) ([]content, error) {
	p, signed, err := rpm.ReadFile(r)
	if err != nil {
		return nil, err
	}
	if !trusted && !v.signs(signed) {
		return nil, unsigned("its header has no signature of a key that this machine had when it was restricted")
	}
	if p.Algo != rpm.SHA256 {
		return nil, unsigned("its files have no SHA-256 digests")
	}
	var all []content
	for _, f := range p.Files {
		if f.Mode&0o111 == 0 && !strings.Contains(f.Path, ".so") && !strings.Contains(f.Path, ".ko") && !isKeyring(f.Path) && !cordon.IsProgramText(f.Path) {
			continue
		}
		e := cordon.TrustEntry{Digest: cordon.Digest(f.Digest), Size: f.Size, Origin: originOf(f.Path, origin), Role: cordon.RoleOf(path.Base(f.Path))}
		all = append(all, content{e, isKeyring(f.Path)})
	}
	return all, nil
}

// signs reports whether one of our keys has signed the header.
func (v *verifier) signs(s rpm.Signed) bool {
	for _, sig := range s.Signatures {
		if _, err := openpgp.CheckDetachedSignature(v.keys, bytes.NewReader(s.Header), bytes.NewReader(sig), nil); err == nil {
			return true
		}
	}
	return false
}

// unsigned is the reason why nothing vouches for an archive.
type unsigned string

// Error is part of a sentence.
func (u unsigned) Error() string { return string(u) }

// Unwrap is ErrUnsigned.
func (u unsigned) Unwrap() error { return ErrUnsigned }
