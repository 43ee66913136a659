package survival

import (
	"bufio"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// needs examines what a file needs to run: for an ELF file its interpreter and
// the libraries that it is linked to, for a script its interpreter.
func (c *checker) needs(path, role string) {
	head := make([]byte, 256)
	f, err := os.Open(filepath.Join(c.root, path))
	if err != nil {
		c.miss(path, role, "it cannot be read: "+err.Error())
		return
	}
	n, _ := f.ReadAt(head, 0)
	_ = f.Close() // only read
	if interpreter, arg := scriptLine(head[:n]); interpreter != "" {
		c.interpreter(path, interpreter, arg, role)
		return
	}
	if !strings.HasPrefix(string(head[:n]), elf.ELFMAG) {
		return
	}
	l := c.linkage(path)
	if l.err != nil {
		c.miss(path, role, "it is a broken ELF file: "+l.err.Error())
		return
	}
	if l.interpreter != "" {
		c.interpreter(path, l.interpreter, "", role)
	}
	c.libraries(path, role)
}

// linkage is what an ELF file says about how it wants to be loaded.
type linkage struct {
	class       elf.Class
	machine     elf.Machine
	interpreter string
	needed      []string
	runpath     []string // for its own libraries
	rpath       []string // also for the libraries of its libraries; ignored with a runpath
	err         error
}

func (c *checker) linkage(path string) *linkage {
	l := c.linked[path]
	if l == nil {
		l = readLinkage(filepath.Join(c.root, path), path)
		c.linked[path] = l
	}
	return l
}

func readLinkage(file, path string) *linkage {
	e, err := elf.Open(file)
	if err != nil {
		return &linkage{err: err}
	}
	defer func() { _ = e.Close() }() // only read
	l := &linkage{class: e.Class, machine: e.Machine}
	for _, p := range e.Progs {
		if p.Type != elf.PT_INTERP || p.Filesz > 4096 {
			continue
		}
		name := make([]byte, p.Filesz)
		if _, err := p.ReadAt(name, 0); err == nil {
			l.interpreter = strings.TrimRight(string(name), "\x00")
		}
	}
	// A file without a dynamic section is statically linked.
	l.needed, _ = e.DynString(elf.DT_NEEDED)
	for i, name := range l.needed {
		l.needed[i] = l.expand(name, path)
	}
	l.runpath = l.paths(e, elf.DT_RUNPATH, path)
	if len(l.runpath) == 0 {
		l.rpath = l.paths(e, elf.DT_RPATH, path)
	}
	return l
}

func (l *linkage) paths(e *elf.File, tag elf.DynTag, path string) (dirs []string) {
	lists, _ := e.DynString(tag)
	for _, list := range lists {
		for dir := range strings.SplitSeq(list, ":") {
			dirs = append(dirs, l.expand(dir, path))
		}
	}
	return dirs
}

// expand replaces the words that the dynamic linker knows in paths.
func (l *linkage) expand(dir, path string) string {
	lib := "lib"
	if l.class == elf.ELFCLASS64 {
		lib = "lib64"
	}
	origin := filepath.Dir(path)
	return strings.NewReplacer("$ORIGIN", origin, "${ORIGIN}", origin, "$LIB", lib, "${LIB}", lib).Replace(dir)
}

func (c *checker) interpreter(path, interpreter, arg, role string) {
	if !c.program(interpreter, role) {
		c.miss(interpreter, role, "it is not there, and "+path+" begins with it")
	}
	// #!/usr/bin/env python3
	if filepath.Base(interpreter) == "env" && arg != "" && !strings.ContainsAny(arg, "-= /") {
		c.named(arg, role)
	}
}

// libraries examines what the dynamic linker would load for a program, in its
// order (ld.so(8)): breadth first, and a name that is loaded already is not
// looked for again, wherever it was found.
func (c *checker) libraries(program, role string) {
	main := c.linkage(program)
	loaded := map[string]bool{}
	for queue := []string{program}; len(queue) > 0; queue = queue[1:] {
		l := c.linkage(queue[0])
		dirs := slices.Concat(l.rpath, l.runpath, c.dirs)
		if len(l.runpath) == 0 {
			dirs = slices.Concat(l.rpath, main.rpath, c.dirs)
		}
		for _, name := range l.needed {
			if loaded[name] {
				continue
			}
			loaded[name] = true
			if real := c.library(name, dirs, main, role); real != "" {
				queue = append(queue, real)
			} else if key := queue[0] + "\x00" + name; !c.seen[key] {
				c.seen[key] = true
				c.miss(queue[0], role, "its library "+name+" cannot be found")
			}
		}
	}
}

// library examines the library that the dynamic linker would take, and those
// that it would take on a processor with more abilities. It returns the path
// without links, "" if there is none.
func (c *checker) library(name string, dirs []string, main *linkage, role string) string {
	take := func(path string) string {
		real, _ := c.resolve(path, role)
		if real == "" {
			return ""
		}
		if l := c.linkage(real); l.err != nil || l.class != main.class || l.machine != main.machine {
			return ""
		}
		c.file(real, role)
		return real
	}
	if strings.Contains(name, "/") {
		return take(name)
	}
	for _, dir := range dirs {
		for _, v := range c.variants(dir) {
			take(filepath.Join(v, name))
		}
		if real := take(filepath.Join(dir, name)); real != "" {
			return real
		}
	}
	return ""
}

// variants lists the directories of libraries for better processors.
func (c *checker) variants(dir string) []string {
	found, ok := c.hwcaps[dir]
	if !ok {
		entries, _ := os.ReadDir(filepath.Join(c.root, dir, "glibc-hwcaps"))
		for _, e := range entries {
			found = append(found, filepath.Join(dir, "glibc-hwcaps", e.Name()))
		}
		c.hwcaps[dir] = found
	}
	return found
}

// libraryDirs finds where the dynamic linker looks for libraries: what
// /etc/ld.so.conf names, and the places it knows itself, as distributions build
// it.
func (c *checker) libraryDirs() error {
	if err := c.conf("/etc/ld.so.conf", 0); err != nil {
		return err
	}
	for _, dir := range []string{
		"/lib64", "/usr/lib64", "/lib", "/usr/lib",
		"/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib/aarch64-linux-gnu", "/usr/lib/aarch64-linux-gnu",
	} {
		if !slices.Contains(c.dirs, dir) {
			c.dirs = append(c.dirs, dir)
		}
	}
	return nil
}

// conf reads a configuration of ldconfig(8).
func (c *checker) conf(path string, depth int) error {
	const maxDepth = 10 // a file may include itself
	f, err := os.Open(filepath.Join(c.root, path))
	if errors.Is(err, fs.ErrNotExist) || depth > maxDepth {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read library directories: %w", err)
	}
	defer func() { _ = f.Close() }() // only read
	s := bufio.NewScanner(f)
	for s.Scan() {
		line, _, _ := strings.Cut(s.Text(), "#")
		words := strings.FieldsFunc(line, func(r rune) bool { return strings.ContainsRune(" \t,:", r) })
		switch {
		case len(words) == 0, words[0] == "hwcap":
		case words[0] == "include":
			for _, pattern := range words[1:] {
				if !filepath.IsAbs(pattern) {
					pattern = filepath.Join(filepath.Dir(path), pattern)
				}
				found, err := filepath.Glob(filepath.Join(c.root, pattern))
				if err != nil {
					return fmt.Errorf("read library directories: %s: %w", path, err)
				}
				for _, name := range found {
					if err := c.conf("/"+strings.TrimPrefix(strings.TrimPrefix(name, filepath.Clean(c.root)), "/"), depth+1); err != nil {
						return err
					}
				}
			}
		default:
			c.dirs = append(c.dirs, words...)
		}
	}
	if err := s.Err(); err != nil {
		return fmt.Errorf("read library directories: %s: %w", path, err)
	}
	return nil
}
