package archive

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"

	"github.com/cordon-project/cordon"
)

// listsDir is where apt keeps what apt-get update fetched.
const listsDir = "/var/lib/apt/lists"

const (
	maxRelease = 64 << 20 // bytes
	maxLine    = 1 << 20  // bytes
)

// list is what a signed Release file says of one package list.
type list struct {
	digest cordon.Digest
	size   int64
}

// searchLists takes out of wanted every archive that a package list with a valid
// signature has.
func (v *verifier) searchLists(ctx context.Context, wanted map[cordon.Digest]string) error {
	dir := filepath.Join(v.root, listsDir)
	files, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read apt's lists: %w", err)
	}
	for _, f := range files {
		prefix, inline := strings.CutSuffix(f.Name(), "InRelease")
		if !inline {
			var ok bool
			if prefix, ok = strings.CutSuffix(f.Name(), "Release"); !ok {
				continue
			}
		}
		text, err := v.release(filepath.Join(dir, f.Name()), inline)
		if err != nil {
			return err
		}
		for path, l := range parseRelease(text) {
			// apt names the file by its URL with / for _ (URItoFileName).
			at := filepath.Join(dir, prefix+strings.ReplaceAll(path, "/", "_"))
			if err := l.search(ctx, at, wanted); err != nil {
				return err
			}
			if len(wanted) == 0 {
				return nil
			}
		}
	}
	return nil
}

// release returns the text of a Release file if the signature is valid, else nothing.
func (v *verifier) release(path string, inline bool) ([]byte, error) {
	data, err := readBounded(path, maxRelease)
	if err != nil {
		return nil, fmt.Errorf("read apt's lists: %w", err)
	}
	if inline {
		block, _ := clearsign.Decode(data)
		if block == nil {
			return nil, nil
		}
		if _, err := block.VerifySignature(v.keys, nil); err != nil {
			return nil, nil
		}
		return block.Plaintext, nil
	}
	sig, err := readBounded(path+".gpg", maxRelease)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read apt's lists: %w", err)
	}
	check := openpgp.CheckDetachedSignature
	if bytes.HasPrefix(sig, []byte("-----BEGIN")) {
		check = openpgp.CheckArmoredDetachedSignature
	}
	if _, err := check(v.keys, bytes.NewReader(data), bytes.NewReader(sig), nil); err != nil {
		return nil, nil
	}
	return data, nil
}

func readBounded(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	return io.ReadAll(io.LimitReader(f, most))
}

// parseRelease returns the package lists that a Release file names, by path.
func parseRelease(text []byte) map[string]list {
	lists, within := map[string]list{}, false
	for line := range strings.Lines(string(text)) {
		line = strings.TrimRight(line, "\r\n")
		if !strings.HasPrefix(line, " ") {
			within = line == "SHA256:"
			continue
		}
		f := strings.Fields(line)
		if !within || len(f) != 3 || filepath.Base(f[2]) != "Packages" {
			continue
		}
		size, err := strconv.ParseInt(f[1], 10, 64)
		if d, ok := parseDigest(f[0]); ok && err == nil {
			lists[f[2]] = list{d, size}
		}
	}
	return lists
}

func parseDigest(s string) (d cordon.Digest, ok bool) {
	if len(s) != hex.EncodedLen(len(d)) {
		return d, false
	}
	_, err := hex.Decode(d[:], []byte(s))
	return d, err == nil
}

// search looks for the archives in one list on disk, in whichever form apt
// keeps it. What it finds counts only if the list is the signed one.
func (l list) search(ctx context.Context, path string, wanted map[cordon.Digest]string) error {
	for _, ending := range []string{"", ".gz", ".xz", ".zst"} {
		f, err := os.Open(path + ending)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read apt's lists: %w", err)
		}
		found, err := l.scan(ctx, f, ending, wanted)
		_ = f.Close() // only read
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return nil // half fetched, or being replaced
		}
		for _, d := range found {
			delete(wanted, d)
		}
	}
	return nil
}

func (l list) scan(ctx context.Context, f io.Reader, ending string, wanted map[cordon.Digest]string) ([]cordon.Digest, error) {
	in, err := decompress(ending, reader{ctx, f})
	if err != nil {
		return nil, err
	}
	h := sha256.New()
	text := io.TeeReader(io.LimitReader(in, l.size+1), h)
	var found []cordon.Digest
	lines := bufio.NewScanner(text)
	lines.Buffer(nil, maxLine)
	field := []byte("SHA256: ")
	for lines.Scan() {
		value, ok := bytes.CutPrefix(lines.Bytes(), field)
		if !ok {
			continue
		}
		if d, ok := parseDigest(string(bytes.TrimSpace(value))); ok {
			if _, ok := wanted[d]; ok {
				found = append(found, d)
			}
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if cordon.Digest(h.Sum(nil)) != l.digest {
		return nil, errors.New("not the signed list")
	}
	return found, nil
}
