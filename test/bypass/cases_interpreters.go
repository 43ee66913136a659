package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Debian's own interpreters, which are in the guest if this machine has them.
const (
	perl   = "/usr/bin/perl"
	python = "/usr/bin/python3.11"
	mawk   = "/usr/bin/mawk"
	tclsh  = "/usr/bin/tclsh8.6"
)

// interpreterCases are tried in a login, as a person has it.
var interpreterCases = []Case{
	{ID: "B08", Name: "trusted script", Allow: true, Attempt: func(w *World) error { return w.run(theScript) }},
	{ID: "B08", Name: "script with a trusted interpreter", Attempt: func(w *World) error {
		p, err := w.text("s", "#!/bin/sh\n: > %s\n", w.marker)
		return errors.Join(err, w.run(p))
	}},
	{ID: "B08", Name: "interpreter that is a script", Attempt: func(w *World) error {
		inner, err := w.text("inner", "#!/bin/sh\n: > %s\n", w.marker)
		outer, err2 := w.text("outer", "#!%s\n", inner)
		return errors.Join(err, err2, w.run(outer))
	}},
	{ID: "B09", Name: "sh FILE", Refusals: anyNumber, Silent: true, Attempt: told(busybox, "sh", shText, "sh", "FILE")},
	{ID: "B09", Name: "sh FILE, trusted", Allow: true, Attempt: func(w *World) error {
		return errors.Join(w.shown(theScript), w.run(busybox, "sh", theScript))
	}},
	{ID: "B09", Name: "sh FILE, by a link", Refusals: anyNumber, Silent: true, Attempt: func(w *World) error {
		p, err := w.text("s", shText, w.marker)
		return errors.Join(err, os.Symlink(p, w.path("l")), w.run(busybox, "sh", w.path("l")))
	}},
	{ID: "B09", Name: "sh FILE, trusted, and changed after the kernel was shown it", Refusals: anyNumber, Silent: true, Also: busy, Attempt: func(w *World) error {
		return errors.Join(w.shown(theScript), inPlace(w, theScript, fmt.Appendf(nil, "#!/bin/sh\n: > %s\n", w.marker)), w.run(busybox, "sh", theScript))
	}},
	{ID: "B09", Name: "sh -c", Attempt: func(w *World) error { return w.run(busybox, "sh", "-c", ": > "+w.marker) }},
	{ID: "B09", Name: "sh, from a pipe", Attempt: piped(shText, busybox, "sh")},
	{ID: "B09", Name: "sh, a file as standard input", Attempt: func(w *World) error {
		p, err := w.text("s", shText, w.marker)
		if err != nil {
			return err
		}
		f, err := os.Open(p)
		if err != nil {
			return err
		}
		cmd := w.command(busybox, "sh")
		cmd.Stdin = f
		return errors.Join(ended(cmd), f.Close())
	}},
	{ID: "B09", Name: "sh, sourced by a trusted shell", Attempt: func(w *World) error {
		p, err := w.text("s", shText, w.marker)
		return errors.Join(err, w.run(busybox, "sh", "-c", ". "+p))
	}},
	{ID: "B09", Name: "sh, sourced by a trusted shell, with the name of a script", Refusals: anyNumber, Silent: true, Attempt: func(w *World) error {
		p, err := w.text("s.sh", shText, w.marker)
		return errors.Join(err, w.run(busybox, "sh", "-c", ". "+p))
	}},
	{ID: "B09", Name: "perl FILE", Refusals: anyNumber, Silent: true, Lacks: lacks(perl), Attempt: told(perl, "p", perlText, "FILE")},
	{ID: "B09", Name: "perl -e", Lacks: lacks(perl), Attempt: told(perl, "p", perlText, "-e", "TEXT")},
	{ID: "B09", Name: "perl -M'module;code'", Lacks: lacks(perl), Attempt: func(w *World) error {
		return errors.Join(w.shown(theData), w.run(perl, "-M5.006;"+fmt.Sprintf(perlText, w.marker), theData))
	}},
	{ID: "B09", Name: "perl, from a pipe", Lacks: lacks(perl), Attempt: piped(perlText, perl)},
	{ID: "B09", Name: "perl, module in PERL5LIB", Refusals: anyNumber, Silent: true, Lacks: lacks(perl), Attempt: func(w *World) error {
		_, err := w.text("Evil.pm", perlText+" 1;\n", w.marker)
		return errors.Join(err, w.shown(theData), w.runWith("PERL5LIB="+w.Dir, perl, "-MEvil", theData))
	}},
	{ID: "B09", Name: "copy of perl, -e", Lacks: lacks(perl), Attempt: func(w *World) error {
		b, err := os.ReadFile(perl)
		return errors.Join(err, put(w.path("cat"), b), w.run(w.path("cat"), "-e", fmt.Sprintf(perlText, w.marker)))
	}},
	{ID: "B09", Name: "python FILE", Refusals: anyNumber, Silent: true, Lacks: lacks(python), Attempt: told(python, "p", pythonText, "-S", "FILE")},
	{ID: "B09", Name: "python -c", Lacks: lacks(python), Attempt: told(python, "p", pythonText, "-S", "-c", "TEXT")},
	{ID: "B09", Name: "python, from a pipe", Lacks: lacks(python), Attempt: piped(pythonText, python, "-S")},
	{ID: "B09", Name: "python, a here-document", Refusals: anyNumber, Silent: true, Lacks: lacks(python), Attempt: func(w *World) error {
		return w.run(busybox, "sh", "-c", python+" -S - <<E\n"+fmt.Sprintf(pythonText, w.marker)+"\nE\n")
	}},
	{ID: "B09", Name: "python, a named pipe as FILE", Refusals: anyNumber, Silent: true, Lacks: lacks(python), Attempt: named(pythonText, python, "-S", "FILE")},
	{ID: "B09", Name: "python, a pipe by the name of its descriptor", Refusals: anyNumber, Silent: true, Lacks: lacks(python), Attempt: func(w *World) error {
		cmd := w.command(python, "-S", "0")
		cmd.Dir, cmd.Stdin = "/proc/self/fd", strings.NewReader(fmt.Sprintf(pythonText, w.marker))
		return ended(cmd)
	}},
	{ID: "B09", Name: "python FILE, where a BPF program keeps from the kernel what was started (fmod_ret)", Also: []syscall.Errno{syscall.EPERM} /* for who loads it, which is no event */, Lacks: lacks(python), Attempt: func(w *World) error {
		l, err := answering("security_bprm_committed_creds")
		if err != nil {
			return err
		}
		return errors.Join(told(python, "p", pythonText, "-S", "FILE")(w), l.Close())
	}},
	{ID: "B09", Name: "perl, module that is a named pipe", Refusals: anyNumber, Silent: true, Lacks: lacks(perl), Attempt: func(w *World) error {
		return errors.Join(w.shown(theData), w.fifo("Evil.pm", fmt.Sprintf(perlText+" 1;\n", w.marker), func() error {
			return w.runWith("PERL5LIB="+w.Dir, perl, "-MEvil", theData)
		}))
	}},
	{ID: "B09", Name: "tclsh FILE", Refusals: anyNumber, Silent: true, Lacks: lacks(tclsh), Attempt: told(tclsh, "p", tclText, "FILE")},
	{ID: "B09", Name: "tclsh, from a pipe", Lacks: lacks(tclsh), Attempt: piped(tclText, tclsh)},
	{ID: "B09", Name: "awk -f FILE", Refusals: anyNumber, Silent: true, Lacks: lacks(mawk), Attempt: told(mawk, "a", awkText, "-f", "FILE")},
	{ID: "B09", Name: "awk", Lacks: lacks(mawk), Attempt: told(mawk, "a", awkText, "TEXT")},
	{ID: "B09", Name: "program started by find", Refusals: anyNumber, Silent: true, Attempt: func(w *World) error {
		_, err := w.evil("evil")
		return errors.Join(err, w.run(busybox, "find", w.Dir, "-name", "evil", "-exec", "{}", ";"))
	}},
}

// What each language says for: leave the marker.
const (
	shText     = ": > %s\n"
	perlText   = "open(F, '>', '%s') or die $!;"
	pythonText = "open('%s', 'w')"
	tclText    = "open %s w\n"
	awkText    = "BEGIN { printf \"\" > \"%s\" }"
)

// told has a trusted interpreter run a text: the argument FILE is a file with
// it, of this name, and TEXT is the text itself.
func told(interpreter, name, text string, args ...string) func(*World) error {
	return func(w *World) error {
		p, err := w.text(name, text, w.marker)
		if err != nil {
			return err
		}
		words := make([]string, len(args))
		for i, a := range args {
			switch a {
			case "FILE":
				a = p
			case "TEXT":
				a = fmt.Sprintf(text, w.marker)
			}
			words[i] = a
		}
		return w.run(interpreter, words...)
	}
}

// piped has a trusted interpreter read a text from a pipe.
func piped(text, interpreter string, args ...string) func(*World) error {
	return func(w *World) error {
		cmd := w.command(interpreter, args...)
		cmd.Stdin = strings.NewReader(fmt.Sprintf(text, w.marker))
		return ended(cmd)
	}
}

// named is told where FILE is a named pipe.
func named(text, interpreter string, args ...string) func(*World) error {
	return func(w *World) error {
		return w.fifo("p", fmt.Sprintf(text, w.marker), func() error {
			return w.run(interpreter, append(args[:len(args)-1:len(args)-1], w.path("p"))...)
		})
	}
}

// fifo makes a named pipe, from which whoever opens it while f runs reads text.
func (w *World) fifo(name, text string, f func() error) error {
	if err := unix.Mkfifo(w.path(name), 0o644); err != nil {
		return err
	}
	written := make(chan struct{})
	go func() {
		defer close(written)
		if p, err := os.OpenFile(w.path(name), os.O_WRONLY, 0); err == nil { // waits for who reads
			_, _ = p.WriteString(text) // nobody reads: that is seen elsewhere
			_ = p.Close()
		}
	}()
	err := f()
	p, err2 := os.OpenFile(w.path(name), os.O_RDONLY|unix.O_NONBLOCK, 0) // so that the other end does not wait any more
	<-written
	return errors.Join(err, err2, p.Close())
}

func lacks(path string) func(*World) string {
	return func(*World) string {
		if _, err := os.Stat(path); err != nil {
			return "this machine has no such interpreter: " + err.Error()
		}
		return ""
	}
}

// shown has the agent show the kernel a file, as it does with all program text
// that it trusts.
func (w *World) shown(path string) error {
	if w.victim == nil || w.victim.mechanism == fapolicyd {
		return nil
	}
	_, err := w.victim.tell("show " + path)
	return err
}
