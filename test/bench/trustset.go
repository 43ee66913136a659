package main

import (
	"context"
	"crypto/md5"
	"errors"
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
	builder := func(cache string) *trust.Builder {
		return &trust.Builder{CacheFile: filepath.Join(b.disk, cache), Self: []string{b.cordon}, Log: slog.New(slog.DiscardHandler)}
	}
	var p *onefile
	if _, err := os.Stat("/" + dpkg.Dir + "/status"); err == nil {
		var undo func() error
		if p, undo, err = b.onefile(); err != nil {
			return err
		}
		defer func() { _ = undo() }() // the namespace takes it along in any case
	}
	time.Sleep(fileid.Settle + 500*time.Millisecond)
	var cold, cached []float64
	var warm *trust.Builder
	for i := range 3 {
		cache := fmt.Sprintf("trust-%d.cache", i)
		_, sum, err := builder(cache).Build(b)
		if err != nil {
			return err
		}
		cold = append(cold, sum.Duration.Seconds())
		if i == 0 {
			var from []string
			for _, s := range sum.Sources {
				from = append(from, fmt.Sprintf("%s: %d packages, %d programs", s.Name, s.Packages, s.Programs))
			}
			b.figure("what is installed", "%d contents (%s)", sum.Entries, strings.Join(from, "; "))
			b.figure("hashed when there is no cache", "%d files, %.0f MB", sum.Hashed, mb(sum.HashedBytes))
		}
		warm = builder(cache)
		if _, sum, err = warm.Build(b); err != nil {
			return err
		}
		cached = append(cached, sum.Duration.Seconds())
	}
	b.figure("without a cache (files as the kernel has them)", "%s s", spread(cold, "%.2f"))
	b.figure("at a start, from the cache", "%s s", spread(cached, "%.2f"))
	if p == nil {
		say("   left out: a change of one package, which is tried with dpkg's database only")
		return nil
	}
	return b.incremental(p, warm)
}

// incremental changes the package, again and again, and builds; and then lets
// an agent's loop find the changes by itself.
func (b *bench) incremental(p *onefile, warm *trust.Builder) error {
	var build, noticed []float64
	for range 15 {
		want, err := p.change()
		if err != nil {
			return err
		}
		began := time.Now()
		set, sum, err := warm.Build(b)
		if err != nil {
			return err
		}
		build = append(build, ms(time.Since(began)))
		if !set.Contains(want) || sum.Hashed > 1 {
			return fmt.Errorf("the changed program is trusted: %t; files hashed: %d", set.Contains(want), sum.Hashed)
		}
	}
	b.most("a package of one file has changed", quantile(build, .5), 100, " ms", "%s ms", spread(build, "%.1f"))

	ctx, cancel := context.WithCancel(b)
	sets := make(chan *cordon.TrustSet, 1)
	ended := make(chan error, 1)
	go func() {
		ended <- warm.Follow(ctx, func(set *cordon.TrustSet, _ trust.Summary, _ error) {
			select {
			case sets <- set:
			case <-ctx.Done():
			}
		})
	}()
	defer func() { cancel(); <-ended }()
	<-sets // the first
	for range 5 {
		time.Sleep(fileid.Settle + time.Second) // and what follows when the last change has settled
		for len(sets) > 0 {
			<-sets
		}
		want, err := p.change()
		if err != nil {
			return err
		}
		began := time.Now()
		for set := (*cordon.TrustSet)(nil); set == nil || !set.Contains(want); {
			select {
			case set = <-sets:
			case err := <-ended:
				return errors.Join(errors.New("the watch has ended"), err)
			case <-time.After(30 * time.Second):
				return errors.New("the change was not noticed within 30 s")
			}
		}
		noticed = append(noticed, ms(time.Since(began)))
	}
	b.figure("… until an agent has noticed and built it", "%s ms (it waits for 200 ms of quiet in the database)", spread(noticed, "%.0f"))
	return nil
}

// onefile is a package that brought one file.
type onefile struct{ program, sums, status string }

// onefile puts a copy of dpkg's database over the real one, for this mount
// namespace only, and the package into it.
func (b *bench) onefile() (*onefile, func() error, error) {
	real := "/" + dpkg.Dir
	point, err := b.mount("dpkg", "cordon-bench", "tmpfs", 0, "mode=0755")
	if err != nil {
		return nil, nil, err
	}
	for _, name := range []string{"info", "updates"} {
		if err := os.CopyFS(filepath.Join(point, name), os.DirFS(filepath.Join(real, name))); err != nil {
			return nil, nil, err
		}
	}
	status, err := os.ReadFile(filepath.Join(real, "status"))
	if err != nil {
		return nil, nil, err
	}
	diversions, err := os.ReadFile(filepath.Join(real, "diversions"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, nil, err
	}
	status = append(status, "Package: zz-cordon-bench\nStatus: install ok installed\nArchitecture: all\nVersion: 1\nMaintainer: Cordon\nDescription: bench\n\n"...)
	p := &onefile{
		program: filepath.Join(b.mounts, "one-file"), sums: filepath.Join(point, "info", "zz-cordon-bench.md5sums"), status: filepath.Join(point, "status"),
	}
	for path, text := range map[string][]byte{
		p.status: status, filepath.Join(point, "diversions"): diversions,
		filepath.Join(point, "info", "zz-cordon-bench.list"): []byte("/.\n" + p.program + "\n"),
	} {
		if err := os.WriteFile(path, text, 0o644); err != nil {
			return nil, nil, err
		}
	}
	if _, err := p.change(); err != nil {
		return nil, nil, err
	}
	if err := unix.Mount(point, real, "", unix.MS_BIND, ""); err != nil {
		return nil, nil, fmt.Errorf("put the copy over the database: %w", err)
	}
	return p, func() error { return unix.Unmount(real, unix.MNT_DETACH) }, nil
}

// change brings another version of the package's one file, and returns its
// content's digest. It writes what dpkg would, in dpkg's order.
func (p *onefile) change() (cordon.Digest, error) {
	c, err := enforce.NewCanary()
	if err != nil {
		return cordon.Digest{}, err
	}
	if err := c.WriteFile(p.program + ".dpkg-new"); err != nil {
		return cordon.Digest{}, err
	}
	content, err := os.ReadFile(p.program + ".dpkg-new")
	if err != nil {
		return cordon.Digest{}, err
	}
	if err := os.Rename(p.program+".dpkg-new", p.program); err != nil {
		return cordon.Digest{}, err
	}
	sums := fmt.Appendf(nil, "%x  %s\n", md5.Sum(content), strings.TrimPrefix(p.program, "/"))
	if err := os.WriteFile(p.sums+".new", sums, 0o644); err != nil {
		return cordon.Digest{}, err
	}
	if err := os.Rename(p.sums+".new", p.sums); err != nil {
		return cordon.Digest{}, err
	}
	status, err := os.ReadFile(p.status)
	if err != nil {
		return cordon.Digest{}, err
	}
	if err := os.WriteFile(p.status+"-new", status, 0o644); err != nil {
		return cordon.Digest{}, err
	}
	return c.Entry().Digest, os.Rename(p.status+"-new", p.status)
}
