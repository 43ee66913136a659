package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cordon-project/cordon/internal/testkit/vm/image"
)

// knownLibs are the rules that fapolicyd 1.1.7 ships as fapolicyd.rules.known-libs,
// the policy that distributions install (its README-rules). Debian's package
// enables only the one that refuses everything.
var knownLibs = []string{
	"10-languages", "20-dracut", "21-updaters", "30-patterns", "40-bad-elf", "41-shared-obj", "42-trusted-elf", "70-trusted-lang", "72-shell", "90-deny-execute", "95-allow-open",
}

const (
	fapolicydProgram = "/usr/sbin/fapolicyd"
	fapolicydRules   = "/etc/fapolicyd/compiled.rules"
	fapolicydTrust   = "/etc/fapolicyd/fapolicyd.trust"
	libraries        = "/lib/x86_64-linux-gnu"
)

// addFapolicyd fetches Debian's packages and adds what is in them to the files
// of the guest.
func addFapolicyd(ctx context.Context, dir string, files map[string]string) error {
	work := filepath.Join(dir, "fapolicyd")
	if err := os.Mkdir(work, 0o755); err != nil {
		return err
	}
	root := filepath.Join(work, "root")
	if err := image.Unpack(ctx, "6.1", root, "fapolicyd=1.1.7-*", "liblmdb0", "libmagic1", "libmagic-mgc"); err != nil {
		return err
	}
	var rules strings.Builder
	for _, name := range knownLibs {
		b, err := os.ReadFile(root + "/usr/share/fapolicyd/sample-rules/" + name + ".rules")
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(b)) {
			if line := strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
				rules.WriteString(line + "\n")
			}
		}
	}
	conf, err := os.ReadFile(root + "/etc/fapolicyd/fapolicyd.conf")
	if err != nil {
		return err
	}
	// The guest has no user fapolicyd. All else is as shipped.
	text := strings.NewReplacer("uid = fapolicyd", "uid = root", "gid = fapolicyd", "gid = root").Replace(string(conf))
	err = errors.Join(os.WriteFile(work+"/rules", []byte(rules.String()), 0o644), os.WriteFile(work+"/conf", []byte(text), 0o644))
	if err != nil {
		return err
	}
	files[fapolicydProgram] = root + fapolicydProgram
	files[fapolicydRules] = work + "/rules"
	files["/etc/fapolicyd/fapolicyd.conf"] = work + "/conf"
	files["/usr/share/fapolicyd/fapolicyd-magic.mgc"] = root + "/usr/share/fapolicyd/fapolicyd-magic.mgc"
	files["/usr/share/misc/magic.mgc"] = root + "/usr/lib/file/magic.mgc"
	for _, lib := range []string{"liblmdb.so.0", "libmagic.so.1"} {
		path, err := filepath.EvalSymlinks(root + "/usr" + libraries + "/" + lib)
		if err != nil {
			return err
		}
		files[libraries+"/"+lib] = path
		if err := addLibraries(ctx, files, path); err != nil {
			return err
		}
	}
	return addLibraries(ctx, files, root+fapolicydProgram)
}

// startFapolicyd starts it with everything on the list trusted, and returns when it listens.
func (e *enforcer) startFapolicyd() error {
	list, err := os.ReadFile(trustList)
	if err != nil {
		return err
	}
	paths := append(strings.Fields(string(list)), fapolicydProgram)
	slices.Sort(paths)
	var trust strings.Builder
	for _, path := range slices.Compact(paths) {
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		fmt.Fprintf(&trust, "%s %d %x\n", path, len(b), sha256.Sum256(b))
	}
	err = errors.Join(os.MkdirAll("/var/lib/fapolicyd", 0o700), os.MkdirAll("/run/fapolicyd", 0o700), os.MkdirAll("/var/log", 0o755), put(fapolicydTrust, []byte(trust.String())))
	if err != nil {
		return err
	}
	e.cmd = exec.Command(fapolicydProgram, "--debug-deny")
	out, err := e.cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := e.cmd.Start(); err != nil {
		return err
	}
	var said strings.Builder
	for lines := bufio.NewScanner(out); lines.Scan(); {
		said.WriteString(lines.Text() + "\n")
		if strings.Contains(lines.Text(), "Starting to listen for events") {
			go func() { _, _ = io.Copy(io.Discard, out) }() // ends with it
			return nil
		}
	}
	return fmt.Errorf("fapolicyd did not start: %w: %s", e.cmd.Wait(), said.String())
}
