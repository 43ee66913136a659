package archive

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/cordon-project/cordon"
)

// maintainerScripts are the members of control.tar that dpkg and debconf start.
var maintainerScripts = map[string]bool{"preinst": true, "postinst": true, "prerm": true, "postrm": true, "config": true}

// maxWindow bounds the memory that a decompressor takes.
const maxWindow = 256 << 20

// decompress undoes the compression that the ending of a name says.
func decompress(ending string, r io.Reader) (io.Reader, error) {
	switch ending {
	case "":
		return r, nil
	case ".gz":
		return gzip.NewReader(r)
	case ".xz":
		return xz.NewReader(bufio.NewReaderSize(r, 64<<10))
	case ".zst":
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxWindow))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	}
	return nil, fmt.Errorf("compression %q is not known here", ending)
}

// deb returns what an archive as in deb(5) brings: its programs, program text and
// kernel modules, its maintainer scripts, and keyrings.
func deb(r io.Reader, origin string) ([]content, error) {
	var magic [8]byte
	if _, err := io.ReadFull(r, magic[:]); err != nil || string(magic[:]) != "!<arch>\n" {
		return nil, errors.New("it is no Debian package")
	}
	var all []content
	seen := map[string]bool{}
	for {
		name, size, err := arHeader(r)
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		member := io.LimitReader(r, size)
		if kind, ending, ok := strings.Cut(name, ".tar"); ok && (kind == "control" || kind == "data") {
			seen[kind] = true
			found, err := tarball(member, ending, kind == "control", origin)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			all = append(all, found...)
		}
		if _, err := io.Copy(io.Discard, member); err != nil {
			return nil, err
		}
		if size%2 == 1 { // members are padded to even sizes
			if _, err := io.CopyN(io.Discard, r, 1); err != nil && err != io.EOF {
				return nil, err
			}
		}
	}
	if !seen["control"] || !seen["data"] {
		return nil, errors.New("it lacks a control or a data member")
	}
	return all, nil
}

// arHeader reads the header of a member as in ar(5).
func arHeader(r io.Reader) (name string, size int64, err error) {
	var h [60]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return "", 0, err // io.EOF at the end
	}
	size, err = strconv.ParseInt(strings.TrimSpace(string(h[48:58])), 10, 64)
	if err != nil || size < 0 || h[58] != '`' || h[59] != '\n' {
		return "", 0, errors.New("a member's header is broken")
	}
	return strings.TrimSuffix(strings.TrimSpace(string(h[:16])), "/"), size, nil
}

func tarball(r io.Reader, ending string, control bool, origin string) ([]content, error) {
	in, err := decompress(ending, r)
	if err != nil {
		return nil, err
	}
	if c, ok := in.(io.Closer); ok {
		defer func() { _ = c.Close() }() // a decompressor
	}
	var all []content
	buf := make([]byte, 64<<10)
	for t := tar.NewReader(in); ; {
		h, err := t.Next()
		if err == io.EOF {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		at := path.Clean("/" + h.Name)
		if control && !maintainerScripts[strings.TrimPrefix(at, "/")] {
			continue
		}
		var head [4]byte
		n, err := io.ReadFull(t, head[:])
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return nil, err
		}
		sum := sha256.New()
		sum.Write(head[:n])
		if _, err := io.CopyBuffer(sum, t, buf); err != nil {
			return nil, err
		}
		keys := !control && isKeyring(at)
		name := path.Base(at)
		if !control && !keys && h.Mode&0o111 == 0 && !bytes.Equal(head[:], []byte("\x7fELF")) && !strings.Contains(name, ".ko.") && !cordon.IsProgramText(name) {
			continue
		}
		all = append(all, content{cordon.TrustEntry{Digest: cordon.Digest(sum.Sum(nil)), Size: h.Size, Origin: originOf(at, origin), Role: cordon.RoleOf(name)}, keys})
	}
}
