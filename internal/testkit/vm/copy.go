package vm

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cordon-project/cordon/internal/testkit/locked"
	"github.com/cordon-project/cordon/internal/testkit/vm/channel"
)

// CopyIn copies the directory at from, of this machine, to the directory to in
// the guest, which is made. Modes and symbolic links are kept; other special files
// are left out. Everything belongs to root, or to the ordinary user.
func (m *Machine) CopyIn(ctx context.Context, from, to string, user bool) error {
	owner := "root:root"
	if user {
		owner = channel.UserName + ":" + channel.UserName
	}
	r, w := io.Pipe()
	go func() { _ = w.CloseWithError(archive(w, from)) }() // the reader gets the error
	var said locked.Buffer
	input := &failing{r: r}
	code, err := m.Run(ctx, Cmd{
		Program: channel.Program{Args: []string{"sh", "-c", `mkdir -p "$1" && tar -x -C "$1" -f - && chown -R "$2" "$1"`, "sh", to, owner}},
		Stdin:   input, Stdout: &said, Stderr: &said,
	})
	_ = r.Close() // ends the archive if the guest did not take all
	if err == nil && code != 0 {
		err = fmt.Errorf("exit status %d: %s", code, said.String())
	}
	if err := errors.Join(input.err, err); err != nil {
		return fmt.Errorf("copy %s into the guest: %w", from, err)
	}
	return nil
}

// failing remembers why its reader ended.
type failing struct {
	r   io.Reader
	err error
}

// Read reads on.
func (f *failing) Read(b []byte) (int, error) {
	n, err := f.r.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		f.err = err
	}
	return n, err
}

func archive(w io.Writer, dir string) error {
	t := tar.NewWriter(w)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		var target string
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			if target, err = os.Readlink(path); err != nil {
				return err
			}
		case !info.IsDir() && !info.Mode().IsRegular():
			return nil
		}
		h, err := tar.FileInfoHeader(info, target)
		if err != nil {
			return err
		}
		if h.Name, err = filepath.Rel(dir, path); err != nil {
			return err
		}
		if err := t.WriteHeader(h); err != nil || !info.Mode().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }() // only read
		_, err = io.Copy(t, f)
		return err
	})
	return errors.Join(err, t.Close())
}
