package main

import (
	"crypto/md5"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/enforce"
	"github.com/cordon-project/cordon/internal/fileid"
	"github.com/cordon-project/cordon/internal/trust"
	"github.com/cordon-project/cordon/internal/trust/dpkg"
)

// trustSet builds the set of everything that is installed. Where the packages
// are dpkg's, a private copy of its database is put over the real one first, and
// a package is added to it and changed.
func (b *bench) trustSet() error {
	var p *onefile
	if _, err := os.Stat("/" + dpkg.Dir + "/status"); err == nil {
		if p, err = b.onefile(); err != nil {
			return err
		}
		defer func() { _ = unix.Unmount("/"+dpkg.Dir, unix.MNT_DETACH) }() // the namespace takes it along in any case
	}
	time.Sleep(fileid.Settle + 500*time.Millisecond)
	var cold, cached sample
	var warm *trust.Builder
	for i, began := 0, time.Now(); i < 3 && time.Since(began) < 20*time.Second; i++ {
		builder := func() *trust.Builder {
			return &trust.Builder{CacheFile: filepath.Join(b.disk, fmt.Sprintf("trust-%d.cache", i)), Self: []string{b.cordon}, Log: slog.New(slog.DiscardHandler)}
		}
		_, first, err := builder().Build(b)
		if err != nil {
			return err
		}
		warm = builder()
		_, second, err := warm.Build(b)
		if err != nil {
			return err
		}
		cold, cached = append(cold, first.Duration.Seconds()), append(cached, second.Duration.Seconds())
		if i == 0 {
			packages := 0
			for _, s := range first.Sources {
				packages += s.Packages
			}
			b.figure("what is installed", "%d packages, %d contents; %d files to hash, %.0f MB", packages, first.Entries, first.Hashed, mb(first.HashedBytes))
		}
	}
	b.figure("without a cache (the files as the kernel has them)", "%s s", cold.spread("%.2f"))
	b.figure("at a start, from the cache", "%s s", cached.spread("%.2f"))
	if p == nil {
		say("   left out: a change of one package, which is tried with dpkg's database only")
		return nil
	}
	var changed sample
	for range 20 {
		want, err := p.change()
		if err != nil {
			return err
		}
		set, sum, err := warm.Build(b)
		if err != nil {
			return err
		}
		if !set.Contains(want) || sum.Hashed > 1 {
			return fmt.Errorf("the changed program is trusted: %t; files hashed: %d", set.Contains(want), sum.Hashed)
		}
		changed = append(changed, ms(sum.Duration))
	}
	b.target("after a change of a package of one file", changed.median() <= 100, "≤ 100 ms", "%s ms", changed.spread("%.1f"))
	say("   (an agent first waits until the database has been quiet for 200 ms)")
	return nil
}

// onefile is a package that brought one file.
type onefile struct{ program, sums, status string }

// onefile puts a copy of dpkg's database over the real one, for this mount
// namespace only, and the package into it.
func (b *bench) onefile() (*onefile, error) {
	lies := "/" + dpkg.Dir
	point, err := b.mount("dpkg", "tmpfs", "mode=0755")
	if err != nil {
		return nil, err
	}
	if err := os.CopyFS(point, os.DirFS(lies)); err != nil {
		return nil, err
	}
	p := &onefile{
		program: filepath.Join(point, "one-file"), sums: filepath.Join(point, "info", "zz-cordon-bench.md5sums"), status: filepath.Join(point, "status"),
	}
	status, err := os.ReadFile(p.status)
	if err != nil {
		return nil, err
	}
	status = append(status, "Package: zz-cordon-bench\nStatus: install ok installed\nArchitecture: all\nVersion: 1\nDescription: bench\n\n"...)
	if err := os.WriteFile(p.status, status, 0o644); err != nil {
		return nil, err
	}
	list := strings.TrimSuffix(p.sums, "md5sums") + "list"
	if err := os.WriteFile(list, []byte("/.\n"+p.program+"\n"), 0o644); err != nil {
		return nil, err
	}
	if err := unix.Mount(point, lies, "", unix.MS_BIND, ""); err != nil {
		return nil, fmt.Errorf("put the copy over the database: %w", err)
	}
	_, err = p.change()
	return p, err
}

// change brings another version of the package's one file and returns its
// digest. It writes what dpkg would, in its order.
func (p *onefile) change() (cordon.Digest, error) {
	c, err := enforce.NewCanary()
	if err == nil {
		err = c.WriteFile(p.program + ".new")
	}
	if err != nil {
		return cordon.Digest{}, err
	}
	content, err := os.ReadFile(p.program + ".new")
	if err != nil {
		return cordon.Digest{}, err
	}
	status, err := os.ReadFile(p.status)
	if err != nil {
		return cordon.Digest{}, err
	}
	for _, f := range []struct {
		path string
		text []byte
	}{{p.sums, fmt.Appendf(nil, "%x  %s\n", md5.Sum(content), p.program[1:])}, {p.status, status}} {
		if err := os.WriteFile(f.path+".new", f.text, 0o644); err != nil {
			return cordon.Digest{}, err
		}
	}
	for _, path := range []string{p.program, p.sums, p.status} {
		if err := os.Rename(path+".new", path); err != nil {
			return cordon.Digest{}, err
		}
	}
	return c.Entry().Digest, nil
}
