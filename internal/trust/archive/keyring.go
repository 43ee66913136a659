package archive

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"

	"github.com/cordon-project/cordon"
)

// keyringDirs are where distributions and administrators keep the keys that vouch
// for packages, below the root: apt-secure(8), sources.list(5) on Signed-By, and
// the places from which dnf and zypper import.
var keyringDirs = []string{
	"/etc/apt/trusted.gpg.d", "/etc/apt/keyrings", "/usr/share/keyrings",
	"/etc/pki/rpm-gpg", "/usr/share/distribution-gpg-keys", "/usr/lib/rpm/gnupg/keys",
}

const maxKeyring = 4 << 20 // bytes

// isKeyring reports whether a file at this path is read as a keyring.
func isKeyring(path string) bool {
	dir := filepath.Dir(path)
	for _, k := range keyringDirs {
		if dir == k || strings.HasPrefix(dir, k+"/") {
			return true
		}
	}
	return false
}

// keyring is one file of keys.
type keyring struct {
	digest cordon.Digest
	data   []byte
}

// keyrings reads all files of keys there are. What cannot be read is none.
func keyrings(root string) ([]keyring, error) {
	var all []keyring
	for _, dir := range keyringDirs {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			if !d.Type().IsRegular() {
				return nil // the target of a link is in one of the directories too, or is none of the system's
			}
			info, err := d.Info()
			if err != nil || info.Size() > maxKeyring {
				return nil
			}
			data, err := os.ReadFile(path)
			if err != nil {
				return nil
			}
			all = append(all, keyring{sha256.Sum256(data), data})
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("read keyrings: %w", err)
		}
	}
	return all, nil
}

// keys parses a keyring, binary or armored, several blocks included. What is
// not understood is left out: it vouches for nothing.
func (k keyring) keys() openpgp.EntityList {
	if !bytes.Contains(k.data, []byte("-----BEGIN PGP PUBLIC KEY BLOCK-----")) {
		list, _ := openpgp.ReadKeyRing(bytes.NewReader(k.data))
		return list
	}
	var list openpgp.EntityList
	for rest := bytes.NewReader(k.data); ; {
		block, err := armor.Decode(rest)
		if err != nil {
			return list
		}
		more, err := openpgp.ReadKeyRing(block.Body)
		if err != nil {
			return list
		}
		list = append(list, more...)
		if _, err := io.Copy(io.Discard, block.Body); err != nil {
			return list
		}
	}
}
