package bpflsm

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/enforce"
	"github.com/cordon-project/cordon/internal/testkit/vm"
)

// withLibraries lists a program of this machine and what it maps, for a guest.
func withLibraries(t *testing.T, path string) map[string]string {
	t.Helper()
	files := map[string]string{path: path}
	if vm.Inside() != "" {
		return files
	}
	out, err := exec.Command("ldd", path).Output()
	if err != nil {
		t.Fatalf("ldd %s: %v", path, err)
	}
	for _, m := range regexp.MustCompile(`(/\S+) \(0x`).FindAllStringSubmatch(string(out), -1) {
		files[m[1]] = m[1]
	}
	return files
}

const perl = "/usr/bin/perl"

func TestInterpreters(t *testing.T) {
	eachKernel(t, vm.Config{Files: withLibraries(t, perl)}, testInterpreters)
}

// scripted is a guest in which interpreters run only what is trusted.
type scripted struct {
	*guest
	t  *testing.T
	as map[cordon.Role]string // programs that wait, for each role
}

func openScripted(t *testing.T) scripted {
	g := &guest{dir: t.TempDir()}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	entries := []cordon.TrustEntry{entry(read(t, "/proc/self/exe"))}
	add := func(path string, role cordon.Role) {
		e := entry(read(t, path))
		e.Role = role
		entries = append(entries, e)
	}
	add("/bin/busybox", cordon.Busybox)
	add(perl, cordon.Perl)
	must(filepath.Walk("/", func(path string, info os.FileInfo, err error) error {
		if err == nil && info.IsDir() && (path == "/proc" || path == "/sys" || path == "/dev") {
			return filepath.SkipDir
		}
		if err == nil && info.Mode().IsRegular() && (strings.Contains(path, ".so") || strings.Contains(path, "ld-linux")) {
			add(path, cordon.NoRole)
		}
		return err
	}))
	for name, text := range map[string]string{
		"good.txt":      "open(F, '<', 'data') or die; print <F>;\n",
		"Good.pm":       "package Good; print 'good '; 1;\n",
		"good.sh":       "echo good\n",
		"starts.sh":     "exec /usr/bin/perl -e 'print q(good)'\n",
		"through.sh":    "exec /bin/busybox env /usr/bin/perl -e 'print q(good)'\n",
		"asks.sh":       "cat stdin.txt | /bin/busybox sh\n",
		"bang":          "#!/usr/bin/perl\nprint 'good';\n",
		"other.txt":     "print 'good, too';\n",
		"calls.sh":      "/usr/bin/perl new.txt\n",
		"somewhere.txt": "print 'good';\n# its digest is trusted\n",
		"waits.txt":     "<STDIN>; do './Evil.pm'; print 'waited';\n",
		"login.sh":      "echo 1000 > /proc/self/loginuid; exec /usr/bin/perl -e 'print q(EVIL)'\n",
		"calls":         "#!/usr/bin/perl\nexec '/usr/bin/perl', 'new.txt';\n",
		"forks.sh":      "/usr/bin/perl -e 'print q(good)'; :\n",
		"forks.txt":     "if (!fork) { open(F, '<', 'other/forks.txt') and print 'EVIL'; exit } wait; print 'good';\n",
		"writes.txt":    "open(F, '>', 'made.pl') or die; print 'good';\n",
		"kept.sh":       "exec /usr/bin/perl reads.txt\n",
		"reads.txt":     "open(F, '<', 'other/kept.sh') or die; print <F>;\n",
		"linked.txt":    "open(F, '<', 'datum') or die; open(F, '<', 'data') or die; print <F>;\n",
		"cut.txt":       "print 'good'; print ', too';\n",
		"large.txt":     "print 'good';\n#" + strings.Repeat("x", 8<<20),
		"again.txt":     "for (1..9) { open(G, '<', $0) or die }\nopen(F, '<', 'data') or die; print <F>;\n",
	} {
		g.write(t, name, []byte(text))
		entries = append(entries, entry([]byte(text)))
	}
	for _, dir := range []string{"real", "other", "manager"} {
		must(os.Mkdir(filepath.Join(g.dir, dir), 0o755))
	}
	for name, text := range map[string]string{
		"data": "good", "evil.txt": "print 'EVIL';\n", "Evil.pm": "print 'EVIL'; 1;\n", "evil.sh": "echo EVIL\n", "evil": "echo EVIL\n",
		"other/tool": "1;\n", "other/forks.txt": "1;\n", "other/kept.sh": "good", "data.sh": "good", "stdin.txt": "/usr/bin/perl -e 'print q(EVIL)'\n", "new.txt": "print 'good';\n", "starts-new.sh": "exec /usr/bin/perl new.txt\n",
		"evil1.txt": "print 'EVIL'; 1;\n", "unknown.txt": "print 'EVIL'; # nobody trusts it\n",
	} {
		g.write(t, name, []byte(text))
	}
	must(os.WriteFile(filepath.Join(g.dir, "real", "link"), []byte("print 'EVIL';\n"), 0o644))
	for name, to := range map[string]string{
		"one": "evil.txt", "two": "one", "three": "two", "four": "three", "five": "four", "link": "real", "fine": "good.txt", "often": "again.txt", "-e1": "bang", "-e2": "tool",
		"Linked.pm": "evil1.txt", "Twice.pm": "away", "away": "evil1.txt", "Module.pm": "Good.pm", "p": perl, "datum": "data", "sh": "/bin/busybox", "ash": "/bin/busybox", "manager/cat": "env",
		"Links1.pm": "Links2.pm", "Links2.pm": "Links3.pm", "Links3.pm": "Links4.pm", "Links4.pm": "Links5.pm", "Links5.pm": "Good.pm",
		"deep": "../" + filepath.Base(g.dir) + "/./evil.txt",
	} {
		must(os.Symlink(to, filepath.Join(g.dir, name)))
	}
	must(os.WriteFile(filepath.Join(g.dir, "copy"), read(t, perl), 0o755))
	// A package manager that starts what it is told: busybox, called env.
	manager := append(bytes.Clone(read(t, "/bin/busybox")), "manager"...)
	must(os.WriteFile(filepath.Join(g.dir, "manager", "env"), manager, 0o755))
	// And one that is a script. It is not what it installs, even where that has its name.
	tool := []byte("#!/usr/bin/perl\nsub look { open(F, '<', 'other/tool') and print 'EVIL' } look(); if (!fork) { look(); exit } wait; exec '/usr/bin/perl', 'new.txt';\n")
	g.write(t, "tool", tool)
	for _, content := range [][]byte{manager, tool} {
		e := entry(content)
		e.Role = cordon.Installer
		entries = append(entries, e)
	}
	as, copies := g.copies(t)
	g.set = cordon.NewTrustSet(append(entries, copies...), nil)
	// Others than root come here, too.
	must(errors.Join(os.Chmod(filepath.Dir(g.dir), 0o755), os.Chmod(g.dir, 0o755)))
	var err error
	if g.Enforcer, err = Open(scriptedConfig(t)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(g.Apply(cordon.ModeOff, nil), g.Close()); err != nil {
			t.Error(err)
		}
	})
	must(os.Chdir(g.dir))
	for _, name := range []string{"good.txt", "Good.pm", "good.sh", "starts.sh", "through.sh", "asks.sh", "other.txt", "calls.sh", "again.txt", "waits.txt", "tool",
		"login.sh", "forks.sh", "forks.txt", "writes.txt", "kept.sh", "reads.txt", "cut.txt", "linked.txt"} {
		must(g.Learn(filepath.Join(g.dir, name)))
	}
	must(g.Learn(filepath.Join(g.dir, "evil.txt"))) // showing does not make trusted
	g.apply(t, cordon.ModeEnforce)
	return scripted{g, t, as}
}

func scriptedConfig(t *testing.T) Config {
	home := t.TempDir()
	return Config{Log: slog.New(slog.DiscardHandler), TrustedScripts: true, Pins: pinDir, Home: home}
}

// failed ends the output of a line that ended with another status than 0.
const failed = "; it failed)"

// shell runs a line in a shell that belongs to a login, or to none.
func (s scripted) shell(login bool, line string) string {
	if login {
		line = "echo 1000 > /proc/self/loginuid && " + line
	}
	var out bytes.Buffer
	c := exec.Command("/bin/busybox", "sh", "-c", line)
	c.Stdout, c.Stderr = &out, &out
	err := c.Run()
	if err != nil {
		out.WriteString(" (" + err.Error() + failed)
	}
	return out.String()
}

func testInterpreters(t *testing.T) {
	s := openScripted(t)
	run := func(login bool, want string, lines ...string) (ok bool) {
		for _, line := range lines {
			before := s.Stats().Refused
			out := s.shell(login, line)
			refused := s.Stats().Refused - before
			if want == "good" {
				if !strings.Contains(out, "good") || strings.Contains(out, "EVIL") || strings.HasSuffix(out, failed) {
					t.Errorf("%s: %q, refused %d", line, out, refused)
				}
			} else if strings.Contains(out, "EVIL") || refused == 0 || !strings.Contains(out, want) {
				t.Errorf("%s: %q, refused %d", line, out, refused)
			}
		}
		return !t.Failed()
	}
	no := "peration not permitted"
	t.Run("inline code", func(t *testing.T) {
		run(true, no, "/usr/bin/perl -e 'print q(EVIL)'", "/usr/bin/perl -wle 'print q(EVIL)'", "/usr/bin/perl -w -I. -e 'print q(EVIL)'",
			"/usr/bin/perl -CSD -e 'print q(EVIL)'", "/usr/bin/perl '-Mstrict;print q(EVIL)' good.txt", "./p -e 'print q(EVIL)'", "./copy -e 'print q(EVIL)'",
			"/usr/bin/perl -0777 -ne 'print q(EVIL)' data", "/usr/bin/perl '-i.x -e' 'print q(EVIL)'", "/usr/bin/perl '-F: -eprint q(EVIL)'")
		run(false, "good", "/usr/bin/perl -e 'print q(good)'")
	})
	t.Run("words", s.words)
	t.Run("standard input", func(t *testing.T) {
		run(true, no, "echo 'print q(EVIL)' | /usr/bin/perl", "/usr/bin/perl < evil.txt", "/usr/bin/perl - < evil.txt", "/usr/bin/perl /dev/stdin < evil.txt",
			"/bin/busybox sh < evil", "/bin/busybox sh -s x < evil")
		// The same by other names.
		run(true, no, "cat evil.txt | /usr/bin/perl /./proc/self/fd/0", "mkfifo pipe; cat evil.txt > pipe & /usr/bin/perl pipe; kill $!")
		run(true, "Can't locate Pipe.pm", "mkfifo Pipe.pm; cat Evil.pm > Pipe.pm & /usr/bin/perl -I. -MPipe good.txt; kill $!")
		run(true, "good", "echo echo good | /bin/busybox sh", "/bin/busybox sh -c 'echo good' < evil",
			"mkfifo said; echo echo good > said & /bin/busybox sh said; kill $! 2>/dev/null; :")
	})
	t.Run("files", func(t *testing.T) {
		run(true, no, "/usr/bin/perl evil.txt", "/usr/bin/perl ./evil.txt", "/usr/bin/perl -w -- evil.txt", "/usr/bin/perl one", "/usr/bin/perl two", "/usr/bin/perl three",
			"/usr/bin/perl four", "/usr/bin/perl five", "/usr/bin/perl link/link", "/usr/bin/perl deep", "/bin/busybox sh evil", "/bin/busybox sh evil.sh", ". ./evil.sh")
		run(true, "Can't locate Evil.pm", "/usr/bin/perl -I. -MEvil good.txt") // it looks for another one
		run(true, "Can't locate", "/usr/bin/perl -I. -MLinked good.txt", "/usr/bin/perl -I. -MTwice good.txt")
		run(true, "good", "/usr/bin/perl -I. -MModule good.txt", "/usr/bin/perl -I. -MLinks1 good.txt")
		run(false, no, "/usr/bin/perl evil.txt", "/bin/busybox sh evil")
		run(true, "good", "/usr/bin/perl good.txt", "/usr/bin/perl fine", "/usr/bin/perl often", "/usr/bin/perl -I. -MGood good.txt", "/bin/busybox sh good.sh", ". ./good.sh", "/usr/bin/perl -v >/dev/null && echo good", "./bang")
		// Whoever the file is opened by, and not what is written.
		run(true, no, "(. ./evil.sh); :")
		run(true, "good", "/usr/bin/perl forks.txt", "/usr/bin/perl writes.txt", "/usr/bin/perl linked.txt")
		// Others than interpreters read it as they like, and so do interpreters what was another one's.
		run(true, "good", "cat data.sh", "exec manager/cat data.sh", "/bin/busybox sh kept.sh")
		run(true, "good", "/bin/busybox > usage && echo good")
		run(true, no, "./sh evil", "./ash evil")
		for _, name := range []string{"-sh", "/bin/ash"} {
			out, err := (&exec.Cmd{Path: "/bin/busybox", Args: []string{name, "evil"}, Dir: s.dir}).CombinedOutput()
			if err == nil || strings.Contains(string(out), "EVIL") {
				t.Errorf("a shell that is called %s: %s, %v", name, out, err)
			}
		}
	})
	t.Run("environment", func(t *testing.T) {
		run(true, "illed", "PERL5OPT='-Mstrict;print q(EVIL)' /usr/bin/perl good.txt", "PERL5OPT='-Mstrict;print q(EVIL)' ./bang", "X=$(printf %0300d 0) PERL5OPT=-MEvil /usr/bin/perl good.txt $(seq 1 500)")
		run(true, "good", "X=$(printf %0253d 0)PERL5OPT=-MEvil Y= /usr/bin/perl good.txt '' $(seq 1 500)", "/usr/bin/perl good.txt PERL5OPT=-MEvil", "/usr/bin/perl -w -- good.txt")
		run(true, no, "/usr/bin/perl '' < evil.txt", "/usr/bin/perl -w -- '' < evil.txt")
		// What a shell is told so is not what its script says.
		run(true, no, "ENV=x /bin/busybox sh starts.sh")
		run(false, "good", "PERL5OPT=-w /usr/bin/perl good.txt")
	})
	t.Run("started by a trusted script", func(t *testing.T) {
		run(true, "good", "/bin/busybox sh starts.sh", "/bin/busybox sh through.sh", "/bin/busybox sh forks.sh")
		run(false, no, "/bin/busybox sh login.sh") // it was trusted for no login
		run(true, no, "/bin/busybox sh asks.sh", "/bin/busybox sh calls.sh", "./calls")
	})
	t.Run("words that change on the way", func(t *testing.T) {
		// The kernel gives the interpreter the path as it was called: "-e1".
		inLogin(t)
		for _, link := range []string{"-e1", "-e2"} {
			err := (&exec.Cmd{Path: link, Args: []string{link}, Dir: s.dir}).Run()
			var ended *exec.ExitError
			if !errors.As(err, &ended) || ended.Sys().(syscall.WaitStatus).Signal() != unix.SIGKILL {
				t.Errorf("%s, a link to a script whose name is code: %v", link, err)
			}
		}
	})
	t.Run("started by a package manager", func(t *testing.T) {
		run(true, "good", "manager/env /usr/bin/perl -e 'print q(good)'", "echo 'print q(good)' | manager/env /usr/bin/perl")
		// What it has just brought was not shown yet; what is known to be untrusted stays so.
		run(true, no, "/usr/bin/perl new.txt", "manager/env /usr/bin/perl evil.txt")
		run(true, "good", "manager/env /usr/bin/perl new.txt", "manager/env /bin/busybox sh starts-new.sh")
		// What comes by a pipe was brought by nobody.
		run(true, no, "mkfifo new; cat new.txt > new & manager/env /usr/bin/perl new; kill $!")
		// The same of one that is a script; not of who has an interpreter read it.
		run(true, "good", "./tool")
		run(true, no, "/usr/bin/perl tool")
		// Not for who types into a shell of it.
		run(true, no, "echo '/usr/bin/perl new.txt' | manager/env /bin/busybox sh")
	})
	t.Run("others than root", func(t *testing.T) {
		as1000 := func(words ...string) (string, error) {
			c := exec.Command(words[0], words[1:]...)
			c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000, Gid: 1000}}
			out, err := c.CombinedOutput()
			return string(out), err
		}
		for _, words := range [][]string{{perl, "-e", "print q(EVIL)"}, {"manager/env", perl, "-e", "print q(EVIL)"}, {"./tool"}} {
			out, err := as1000(words...)
			if err == nil || strings.Contains(out, "EVIL") || !strings.Contains(out+err.Error(), no) {
				t.Errorf("%q, without a login: %s, %v", words, out, err)
			}
		}
		if out, err := as1000("manager/env", perl, "good.txt"); err != nil || !strings.Contains(out, "good") {
			t.Errorf("a trusted script: %s, %v", out, err)
		}
	})
	t.Run("trusted wherever it is", func(t *testing.T) {
		refusal := func(name string) enforce.Refusal {
			t.Helper()
			for told := true; told; { // of what came before: there is only so much room
				select {
				case <-s.Refusals():
				default:
					told = false
				}
			}
			if !run(true, no, "/usr/bin/perl "+name) {
				t.FailNow() // nobody would tell
			}
			for r := range s.Refusals() {
				if filepath.Base(r.Path) == name {
					return r
				}
			}
			return enforce.Refusal{}
		}
		for name, want := range map[string]string{"somewhere.txt": "good", "unknown.txt": no} {
			r := refusal(name)
			if !r.Unseen || r.Path != filepath.Join(s.dir, name) {
				t.Fatalf("%+v", r)
			}
			if err := s.LearnRefused(r.Path); err != nil {
				t.Fatal(err)
			}
			run(true, want, "/usr/bin/perl "+name)
		}
		if r := refusal("unknown.txt"); r.Unseen || r.Digest != entry(read(t, "unknown.txt")).Digest {
			t.Errorf("a text that is known not to be trusted: %+v", r)
		}
		before := len(s.learned(t))
		allowed(t, "show a file of which nobody knows when it changes", s.Learn("/proc/version"))
		if n := len(s.learned(t)); n != before {
			t.Errorf("it was learned: %d texts, %d before", n, before)
		}
		for _, name := range []string{"fine", "link/link", "pipe", "/proc/version", "/none"} {
			path := name
			if !filepath.IsAbs(path) {
				path = filepath.Join(s.dir, name)
			}
			if err := s.LearnRefused(path); err == nil {
				t.Errorf("%s was opened", path)
			}
		}
	})
	t.Run("changed", func(t *testing.T) {
		path := filepath.Join(s.dir, "good.txt")
		good := read(t, path)
		// While it may be read to be run, nobody writes to it.
		if err := os.WriteFile(path, good, 0o644); !errors.Is(err, unix.ETXTBSY) {
			t.Errorf("writing to a program text that was run: %v", err)
		}
		// Nor if it has become unknown since: who was let may read it still.
		if err := os.Chmod(path, 0o600); err != nil {
			t.Fatal(err)
		}
		run(true, no, "/usr/bin/perl good.txt")
		if err := os.WriteFile(path, good, 0o644); !errors.Is(err, unix.ETXTBSY) {
			t.Errorf("writing to a program text that was run, and refused since: %v", err)
		}
		// What is refused can be mended.
		if err := os.WriteFile(filepath.Join(s.dir, "evil.txt"), []byte("print 'EVIL', 1;\n"), 0o644); err != nil {
			t.Errorf("writing to a program text that was refused: %v", err)
		}
		// Nobody opens it for that.
		if err := os.Truncate(filepath.Join(s.dir, "cut.txt"), int64(len("print 'good';"))); err != nil {
			t.Fatal(err)
		}
		run(true, no, "/usr/bin/perl cut.txt")
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		s.write(t, "good.txt", good)
		run(true, no, "/usr/bin/perl good.txt")
		if err := s.Learn(path); err != nil {
			t.Fatal(err)
		}
		run(true, "good", "/usr/bin/perl good.txt")
		// Who opens it for writing has it forgotten, even if it stays what it is.
		f, err := os.OpenFile(filepath.Join(s.dir, "other.txt"), os.O_WRONLY, 0)
		if err == nil {
			err = f.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		run(true, no, "/usr/bin/perl other.txt")
		if err := s.Learn(filepath.Join(s.dir, "other.txt")); err != nil {
			t.Fatal(err)
		}
		run(true, "good", "/usr/bin/perl other.txt")
	})
	t.Run("opened for writing while it is shown", func(t *testing.T) {
		large := filepath.Join(s.dir, "large.txt")
		shown := make(chan error, 1)
		go func() { shown <- s.Learn(large) }()
		for reader := uint64(0); reader == 0 && len(shown) == 0; { // until the kernel is told to hash it, which takes it a while
			if err := s.maps["settings"].Lookup(settingReader, &reader); err != nil {
				t.Fatal(err)
			}
		}
		f, err := os.OpenFile(large, os.O_WRONLY, 0)
		if err == nil {
			err = f.Close()
		}
		allowed(t, "open it", err)
		allowed(t, "show it meanwhile", <-shown)
		run(true, no, "/usr/bin/perl large.txt")
		allowed(t, "show it", s.Learn(large))
		run(true, "good", "/usr/bin/perl large.txt")
	})
	t.Run("of another size or time", func(t *testing.T) {
		for _, at := range []int{32, 40, 48} { // size, sec and nsec of struct script
			s.alter(t, at)
			run(true, no, "/usr/bin/perl again.txt")
			s.alter(t, at)
		}
		run(true, "good", "/usr/bin/perl again.txt")
	})
	t.Run("released meanwhile", s.released)
	t.Run("another agent", s.another)
	t.Run("open", func(t *testing.T) {
		s.cfg.TrustedScripts = false
		s.apply(t, cordon.ModeEnforce)
		run(true, "good", "/usr/bin/perl -e 'print q(good)'", "/bin/busybox sh good.sh")
		if out := s.shell(true, "/usr/bin/perl evil.txt"); !strings.Contains(out, "EVIL") {
			t.Errorf("without the policy, the case does not succeed: %q", out)
		}
		s.cfg.TrustedScripts = true
		s.apply(t, cordon.ModeEnforce)
		run(true, no, "/usr/bin/perl evil.txt")
	})
	t.Run("audit", func(t *testing.T) {
		s.apply(t, cordon.ModeAudit)
		before := s.Stats().WouldRefuse
		if out := s.shell(true, "/usr/bin/perl evil.txt"); !strings.Contains(out, "EVIL") || s.Stats().WouldRefuse == before {
			t.Errorf("%q, %+v", out, s.Stats())
		}
		before = s.Stats().WouldRefuse
		if out := s.shell(true, "/usr/bin/perl -e 'print q(EVIL)'"); !strings.Contains(out, "EVIL") || s.Stats().WouldRefuse != before+1 {
			t.Errorf("%q, %+v", out, s.Stats())
		}
	})
}

// learned are the texts that the kernel remembers, but those that were refused.
func (s scripted) learned(t *testing.T) map[string][]byte {
	t.Helper()
	texts := map[string][]byte{}
	var key, value []byte
	all := s.maps["scripts"].Iterate()
	for all.Next(&key, &value) {
		texts[string(key)] = bytes.Clone(value)
	}
	if err := all.Err(); err != nil {
		t.Fatal(err)
	}
	return texts
}

// alter changes what the kernel remembers of each text; a second time, it is as before.
func (s scripted) alter(t *testing.T, at int) {
	t.Helper()
	for key, value := range s.learned(t) {
		value[at] ^= 1
		if err := s.maps["scripts"].Put([]byte(key), value); err != nil {
			t.Fatal(err)
		}
	}
}

// released has a process that was trusted run something else while nothing is restricted.
func (s scripted) released(t *testing.T) {
	c := exec.Command("/bin/busybox", "sh", "-c", "echo 1000 > /proc/self/loginuid && exec manager/env /bin/busybox sh -c 'echo begun; read x; exec /bin/busybox sh other/free'")
	s.write(t, "other/free", []byte("echo free; read x; exec /usr/bin/perl -e 'print q(EVIL)'\n"))
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	pipe, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	out := bufio.NewReader(pipe)
	until := func(want string) {
		t.Helper()
		if line, err := out.ReadString('\n'); err != nil || line != want+"\n" {
			t.Fatalf("%q, %v", line, err)
		}
	}
	until("begun")
	s.apply(t, cordon.ModeOff)
	_, err = io.WriteString(in, "\n")
	until("free")
	s.apply(t, cordon.ModeEnforce)
	if _, bad := io.WriteString(in, "\n"); errors.Join(err, bad) != nil {
		t.Fatal(err, bad)
	}
	rest, err := io.ReadAll(out)
	if err != nil || strings.Contains(string(rest), "EVIL") {
		t.Errorf("%q, %v", rest, err)
	}
	if err := c.Wait(); err == nil {
		t.Error("it was not refused")
	}
}

// another has a new agent's programs replace those in force, while interpreters run.
func (s scripted) another(t *testing.T) {
	begin := func(line string) (end func() string) {
		c := exec.Command("/bin/busybox", "sh", "-c", "echo 1000 > /proc/self/loginuid && "+line)
		var out bytes.Buffer
		c.Stdout, c.Stderr = &out, &out
		in, err := c.StdinPipe()
		if err == nil {
			err = c.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		return func() string {
			if err := in.Close(); err != nil {
				t.Error(err)
			}
			_ = c.Wait() // what it printed tells
			return out.String()
		}
	}
	script := begin("exec /usr/bin/perl waits.txt")
	manager := begin("exec manager/env /bin/busybox sh -c 'read x; exec /usr/bin/perl -e \"print q(good)\"'")
	threads := make(chan int, 1)
	end := make(chan struct{})
	go func() {
		runtime.LockOSThread() // never unlocked: this thread is an interpreter
		threads <- unix.Gettid()
		<-end
	}()
	defer close(end)
	thread, err := unix.PidfdOpen(<-threads, pidfdThread)
	if err == nil {
		defer func() { _ = unix.Close(thread) }() // only names
		run := make([]byte, s.maps["runs"].ValueSize())
		run[0] = byte(cordon.Perl)
		err = s.maps["runs"].Put(uint32(thread), run)
	}
	if err != nil && !errors.Is(err, unix.EINVAL) {
		t.Fatal(err)
	}
	named := err == nil // by the kernel, since 6.9
	cfg := s.cfg
	next, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	old := s.Enforcer
	s.Enforcer = next
	s.apply(t, cordon.ModeEnforce)
	if err := old.Close(); err != nil {
		t.Error(err)
	}
	if out := script(); !strings.Contains(out, "waited") || strings.Contains(out, "EVIL") {
		t.Errorf("an interpreter's modules: %q", out)
	}
	if out := manager(); !strings.Contains(out, "good") {
		t.Errorf("what a package manager started: %q", out)
	}
	if named {
		var run []byte
		if err := next.maps["runs"].Lookup(uint32(thread), &run); err != nil || run[0] != byte(cordon.Perl) {
			t.Errorf("a thread: %v, %v", run, err)
		}
	}
}
