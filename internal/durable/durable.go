// Package durable puts files on disk so that a crash leaves the old content or
// the new, whole. It owns nothing and holds no state.
package durable

import (
	"cmp"
	"os"
	"path/filepath"
)

// Replace puts content at path with mode 0600. When it returns nil the content
// is on disk; when it fails what was there is still there. The file is made
// beside path and renamed (rename(2)), and both are synced: without the
// directory's sync the name may point to the old file after a crash.
func Replace(path string, content []byte) (err error) {
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(tmp.Name()) // the first error says more
		}
	}()
	_, werr := tmp.Write(content)
	if err := cmp.Or(werr, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	serr := dir.Sync()
	return cmp.Or(serr, dir.Close())
}
