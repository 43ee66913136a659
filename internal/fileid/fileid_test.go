package fileid

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/trust/fixture"
)

func later() time.Time { return time.Now().Add(time.Minute) }

func write(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestSum(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	for _, n := range []int{0, 1, 128 << 10, 300_001} {
		content := bytes.Repeat([]byte("c"), n)
		write(t, path, content)
		h := NewHasher(later)
		for _, with := range []bool{true, false, true} { // a hasher is used again and again
			s, err := h.Sum(t.Context(), path, with)
			if err != nil {
				t.Fatal(err)
			}
			want := [md5.Size]byte{}
			if with {
				want = md5.Sum(content)
			}
			if s.SHA256 != sha256.Sum256(content) || s.MD5 != want || s.ID.Size != int64(n) || s.Young {
				t.Errorf("%d bytes, md5 %t: %+v", n, with, s)
			}
		}
	}
}

// TestYoung says that an identity is not believed while another content could
// still get the same one.
func TestYoung(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	write(t, path, []byte("x"))
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	changed := time.Unix(0, st.Ctim.Nano())
	for after, want := range map[time.Duration]bool{-time.Hour: false, -Settle: false, 1 - Settle: true, 0: true, Settle - 1: true, Settle: false, time.Hour: false} {
		s, err := NewHasher(func() time.Time { return changed.Add(after) }).Sum(t.Context(), path, false)
		if err != nil || s.Young != want {
			t.Errorf("hashed %v after the change: young %t, want %t (%v)", after, s.Young, want, err)
		}
	}
}

// TestReplaced changes the file while it is read, in every way it can be, during
// the first reading only and during both.
func TestReplaced(t *testing.T) {
	for name, change := range map[string]func(path string, n int) error{
		"written": func(path string, _ int) error {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteAt([]byte("y"), 0)
			return errors.Join(err, f.Close())
		},
		"grown": func(path string, n int) error { return os.Truncate(path, int64(n)<<20) },
		"renamed": func(path string, _ int) error {
			return errors.Join(os.WriteFile(path+"2", []byte("z"), 0o644), os.Rename(path+"2", path))
		},
		// The file itself does not change, but its path leads to another one.
		"moved away": func(path string, n int) error {
			dir := filepath.Dir(path)
			return errors.Join(os.Rename(dir, fmt.Sprint(dir, n)), os.Mkdir(dir, 0o755), os.WriteFile(path, []byte("z"), 0o644))
		},
		"forged": func(path string, n int) error { return os.Chtimes(path, time.Now(), time.Unix(int64(n), 0)) },
	} {
		t.Run(name, func(t *testing.T) {
			for times := 1; times <= 2; times++ {
				path := filepath.Join(t.TempDir(), "dir/f")
				if err := os.Mkdir(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				write(t, path, make([]byte, 100))
				readings, changed := 0, 0
				h := NewHasher(func() time.Time { readings++; return later() }) // asked once a reading
				h.Pause = func() {
					if readings > times || changed == readings {
						return
					}
					changed = readings
					fixture.Tick(t)
					if err := change(path, readings); err != nil {
						t.Fatal(err)
					}
				}
				s, err := h.Sum(t.Context(), path, false)
				if times == 1 {
					now, rerr := os.ReadFile(path)
					if err := errors.Join(err, rerr); err != nil || s.SHA256 != sha256.Sum256(now) {
						t.Errorf("changed once: %+v, %v", s, err)
					}
				} else if !errors.Is(err, ErrUnstable) {
					t.Errorf("changed twice: %+v, %v", s, err)
				}
			}
		})
	}
}

// TestRemoved removes the file while it is read.
func TestRemoved(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	write(t, path, []byte("x"))
	h := NewHasher(later)
	h.Pause = func() { _ = os.Remove(path) }
	if s, err := h.Sum(t.Context(), path, false); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %+v, %v", s, err)
	}
}

func TestNotRegular(t *testing.T) {
	dir := t.TempDir()
	fifo, link, file := filepath.Join(dir, "fifo"), filepath.Join(dir, "link"), filepath.Join(dir, "file")
	write(t, file, nil)
	if err := errors.Join(unix.Mkfifo(fifo, 0o644), os.Symlink(file, link)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, fifo, link, "/dev/null"} {
		if fd, err := Open(path); !errors.Is(err, ErrNotRegular) {
			t.Errorf("%s: descriptor %d, %v", path, fd, err)
		}
	}
	if _, err := Open(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing there: %v", err)
	}
}

func TestCancelled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	write(t, path, []byte("x"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := NewHasher(nil).Sum(ctx, path, false); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestMagic(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	write(t, path, []byte("\x7fELFxyz"))
	if !Magic(path, "\x7fELF") || Magic(path, "\x7fELG") || Magic(path, "\x7fELFxyz...") || Magic(path+"0", "") {
		t.Error("Magic is wrong")
	}
}

// TestIdentity says that two names of one file are one, and that FromStat and Of agree.
func TestIdentity(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	write(t, path, []byte("x"))
	if err := os.Link(path, path+"2"); err != nil {
		t.Fatal(err)
	}
	var ids []cordon.FileID
	for _, p := range []string{path, path + "2"} {
		fd, err := Open(p)
		if err != nil {
			t.Fatal(err)
		}
		id, err := Of(fd)
		if err := errors.Join(err, unix.Close(fd)); err != nil {
			t.Fatal(err)
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id, FromStat(&st))
	}
	for _, id := range ids {
		if id != ids[0] || id.Ino == 0 || id.Size != 1 || id.Ctime == 0 {
			t.Errorf("identities %+v", ids)
		}
	}
}

func TestResolve(t *testing.T) {
	root := t.TempDir()
	for _, dir := range []string{"usr/bin", "usr/lib/systemd", "etc"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(root, "usr/lib/systemd/systemd"), nil)
	for path, target := range map[string]string{
		"bin": "usr/bin", "lib": "/usr/lib", "usr/bin/init": "../../lib/systemd/systemd", "usr/bin/up": "../../../../../usr/lib/systemd/systemd",
		"usr/bin/loop": "loop", "usr/bin/gone": "/usr/bin/nothing",
	} {
		if err := os.Symlink(target, filepath.Join(root, path)); err != nil {
			t.Fatal(err)
		}
	}
	const systemd = "/usr/lib/systemd/systemd"
	for path, want := range map[string]string{
		systemd: systemd, "/lib/systemd/systemd": systemd, "/bin/init": systemd, "/usr/bin/up": systemd, "//usr/./bin/init": systemd, "/": "/",
	} {
		if got, err := Resolve(root, path, nil); got != want || err != nil {
			t.Errorf("%s: %q, %v; want %q", path, got, err, want)
		}
	}
	for path, want := range map[string]error{"/bin/loop": unix.ELOOP, "/bin/gone": fs.ErrNotExist, "/none/x": fs.ErrNotExist, systemd + "/x": unix.ENOTDIR} {
		if got, err := Resolve(root, path, nil); !errors.Is(err, want) {
			t.Errorf("%s: %q, %v; want %v", path, got, err, want)
		}
	}
	var through []string
	stop := errors.New("stop")
	_, err := Resolve(root, "/bin/init", func(dir string, _ *unix.Stat_t) error {
		if through = append(through, dir); dir == "/usr/lib" {
			return stop
		}
		return nil
	})
	want := "/ / /usr /usr/bin /usr/bin /usr / / /usr /usr/lib"
	if got := strings.Join(through, " "); got != want || !errors.Is(err, stop) {
		t.Errorf("went through %q (%v), want %q", got, err, want)
	}
}
