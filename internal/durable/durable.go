// Package durable puts files on disk so that a crash leaves the old content or
// the new, whole. It owns nothing and holds no state.
package durable

import (
	"cmp"
	"io/fs"
	"os"
	"path/filepath"
)

// Replace puts content at path. When it returns nil the content is on disk; when
// it fails the old content or the new is there, whole. The file is made beside
// path as path.new, with mode where it is not there yet, and renamed (rename(2)),
// and both are synced: without the directory's sync the name may point to the old
// file after a crash. What a crash leaves of path.new the next call overwrites, so
// that nothing piles up; two calls for one path must not be under way at once.
func Replace(path string, content []byte, mode fs.FileMode) (err error) {
	tmp, err := os.OpenFile(path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, mode)
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
