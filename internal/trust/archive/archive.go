// Package archive says which package archives the distribution vouches for, and
// what programs they bring, so that what a package manager installs on a
// restricted machine can be trusted before it is unpacked.
//
// # What it owns
//
// The chain from a key to a program: keyrings, apt's signed lists, the SHA-256 of
// a .deb in them, the members of the archive; for an .rpm the signature of its
// header, which has the digests of its files. And the [Ledger], which remembers
// which keys were there when the machine was restricted, and what was admitted
// since.
//
// # What it promises
//
// Nothing is vouched for by its name, its place, or by who asks: root may call
// with any file. A key that came after the restriction counts for nothing,
// unless a verified archive brought it. An archive is parsed only after its
// digest was found in a signed list, and what was parsed is what was hashed, also
// if somebody writes to the file meanwhile. Memory is bounded whatever the size of
// an archive. No process is started: the agent answers for others' executions,
// and must not (see package enforce).
//
// It does not look at Valid-Until: an older package of the distribution is still
// the distribution's, and a machine that was cut off from its network has old lists.
package archive

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/ProtonMail/go-crypto/openpgp"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/fileid"
)

// ErrUnsigned says that nothing vouches for an archive.
var ErrUnsigned = errors.New("nothing that this machine trusted when it was restricted vouches for it")

// content is a file that an archive brings.
type content struct {
	entry   cordon.TrustEntry
	keyring bool // it may vouch for further archives
}

// request is one archive that is to be verified.
type request struct {
	path   string
	digest cordon.Digest
	f      *os.File
}

// verifier is what there is to verify with.
type verifier struct {
	root string
	keys openpgp.EntityList
	done map[cordon.Digest]bool // archives that need not be read again
	// trusts reports whether an archive is trusted itself, by the server's policy or a rule.
	trusts func(cordon.Digest) bool
}

// verify returns what the archives at paths bring, and their digests, without
// those that are done; or an error that lists those that nothing vouches for.
func (v *verifier) verify(ctx context.Context, paths []string) ([]content, []cordon.Digest, error) {
	requests := make([]*request, 0, len(paths))
	defer func() {
		for _, r := range requests {
			_ = r.f.Close() // only read
		}
	}()
	unknown := map[cordon.Digest]string{}
	for _, path := range paths {
		r, err := open(ctx, path)
		if err != nil {
			return nil, nil, err
		}
		requests = append(requests, r)
		if v.done[r.digest] {
			continue
		}
		if !isRPM(path) && !v.trusts(r.digest) {
			unknown[r.digest] = path
		}
	}
	if len(unknown) > 0 {
		if err := v.searchLists(ctx, unknown); err != nil {
			return nil, nil, err
		}
	}
	var contents []content
	var archives []cordon.Digest
	var refusals []error
	for _, r := range requests {
		if v.done[r.digest] {
			continue
		}
		if _, still := unknown[r.digest]; still {
			refusals = append(refusals, refused{r, "it is in none of apt's signed package lists"})
			continue
		}
		found, err := v.contents(ctx, r)
		if errors.Is(err, ErrUnsigned) {
			refusals = append(refusals, refused{r, err.Error()})
			continue
		}
		if err != nil {
			return nil, nil, fmt.Errorf("read archive %s: %w", r.path, err)
		}
		contents, archives = append(contents, found...), append(archives, r.digest)
	}
	return contents, archives, errors.Join(refusals...)
}

// refused is an archive that nothing vouches for.
type refused struct {
	*request
	why string
}

// Error is a sentence for people that names the way out.
func (r refused) Error() string {
	return fmt.Sprintf("%s is not admitted to this restricted machine: %s. If you trust it, have the server trust it, with cordon trust add %s --machine NAME --comment TEXT, and try again.",
		r.path, r.why, r.digest)
}

// Unwrap is ErrUnsigned.
func (r refused) Unwrap() error { return ErrUnsigned }

func isRPM(path string) bool { return strings.HasSuffix(path, ".rpm") }

// open opens an archive and hashes it.
func open(ctx context.Context, path string) (*request, error) {
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("open archive %q: not an absolute path", path)
	}
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, fmt.Errorf("open archive: %w", err)
	}
	fd, err := fileid.Open(path) // a FIFO or a device would let us wait
	if err != nil {
		return nil, fmt.Errorf("open archive %s: %w", path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	h := sha256.New()
	if _, err := io.Copy(h, reader{ctx, f}); err != nil {
		return nil, errors.Join(fmt.Errorf("read archive %s: %w", path, err), f.Close())
	}
	return &request{path: path, digest: cordon.Digest(h.Sum(nil)), f: f}, nil
}

// agentProgram is where Cordon's packages have the agent.
const agentProgram = "/usr/bin/cordon"

// originOf is the origin of what an archive has at a path. The agent's program is
// the next agent's as soon as it is unpacked: the one that runs, which would find
// that out when it has read the package database, may be replaced before.
func originOf(at, archive string) string {
	if at == agentProgram {
		return "cordon"
	}
	return archive
}

// contents reads the archive once more, and makes sure that it is still what was
// hashed when it was found to be trustworthy.
func (v *verifier) contents(ctx context.Context, r *request) ([]content, error) {
	if _, err := r.f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	h := sha256.New()
	in := io.TeeReader(reader{ctx, r.f}, h)
	origin := "archive:" + filepath.Base(r.path)
	var found []content
	var err error
	if isRPM(r.path) {
		found, err = v.rpm(in, origin, v.trusts(r.digest))
	} else {
		found, err = deb(in, origin)
	}
	if err != nil {
		return nil, err
	}
	if _, err := io.Copy(io.Discard, in); err != nil {
		return nil, err
	}
	if cordon.Digest(h.Sum(nil)) != r.digest {
		return nil, errors.New("it was changed while it was read")
	}
	return found, nil
}

// reader ends with its context.
type reader struct {
	ctx context.Context
	r   io.Reader
}

// Read reads on.
func (r reader) Read(b []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(b)
}
