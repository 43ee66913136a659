package bpflsm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon"
)

// never says that the kernel refuses to start it, killed that it ends it before its
// first instruction, some that it runs and all text that it reads is judged.
const (
	never  = "refused"
	killed = "killed"
	some   = "any"
)

// Words of which the kernel's programs do not see all.
var (
	long = strings.Repeat("x", 300)
	many = strings.Repeat("-B ", 70)
)

// words are what interpreters are started with in a login, a blank between, and the
// names of the files that are judged because of them.
var words = map[cordon.Role][][2]string{
	cordon.Python: {
		{"", never}, {"-", never}, {"-c 1", never}, {"-Ec 1", never}, {"-i x", never}, {"-Bi x", never}, {"/dev/fd/3", never}, {"/proc/self/fd/3 x", never},
		{"d/x y", "x"}, {"-u -B x", "x"}, {"-W i x", "x"}, {"-Wi x", "x"}, {"-X dev x", "x"}, {"--check-hash-based-pycs always x", "x"}, {"-BE x -c 1", "x"},
		{"-m timeit", ""}, {"-Bm timeit", ""}, {"-V", ""}, {"--version", ""}, {"PYTHONINSPECT=1 x", killed}, {"PYTHONPATH=. x", "x"},
		{many + "x", never}, {"-W " + long + " x", killed}, {long, killed}, {"-B -" + long, killed},
	},
	cordon.Perl: {
		{"-d x", never}, {"-V", ""}, {"-I d x", "x"}, {"-Id x", "x"}, {"-l -0777 x", "x"}, {"-C7 x", "x"}, {"-CSDe 1", never}, {"-CSe 1", never}, {"-Mstrict x", "x"}, {"-Ma=b,c x", "x"},
		{"-Ma;b x", never}, {"-x x", "x"}, {"-F: x", "x"}, {"-i.b x", "x"}, {"-- x", "x"}, {"-- -x", "-x"}, {"-w\t-e1 x", never}, {"-w\tw x", never}, {"PERL5OPT=-w x", killed},
	},
	cordon.Ruby: {
		{"", never}, {"-e 1", never}, {"-ne 1", never}, {"-r json -e 1", never}, {"-v -", never}, {"-I d x", "x"}, {"-Id x", "x"}, {"-r json x", "x"}, {"-rjson x", "x"}, {"-C d x", "x"}, {"-E a x", "x"},
		{"-v x", "x"}, {"-v", ""}, {"-h", ""}, {"-i.b x", "x"}, {"--encoding a x", "x"}, {"--encoding=a x", "x"}, {"--disable gems x", "x"}, {"--disable=gems x", "x"}, {"--version", ""},
	},
	cordon.Node: {
		{"", never}, {"-", never}, {"-e 1", never}, {"-p 1", never}, {"-i", never}, {"-r d x", never}, {"--eval 1", never}, {"--print=1", never}, {"--require=d x", never}, {"--import d x", never}, {"--loader d x", never},
		{"--experimental-loader d x", never}, {"--inspect x", never}, {"--inspect-brk x", never}, {"--interactive", never}, {"--env-file=d x", never}, {"--snapshot-blob d x", never}, {"--no_such x", never}, {"--other x", never},
		{"--entry-url x", never}, {"--test-reporter d x", never}, {"--experimental-config-file=d x", never},
		{"x", "x"}, {"-- x", "x"}, {"--no-warnings x", "x"}, {"--max-old-space-size=9 x", "x"}, {"--max_old_space_size=9 x", "x"}, {"--trace-warnings x", "x"}, {"--experimental-vm-modules x", "x"},
		{"-C d x", "x"}, {"--other y x", "x y"}, {"--test x", "x"}, {"--version", ""}, {"-v", ""}, {"--help", ""}, {"NODE_OPTIONS=x x", killed}, {"NODE_ENV=x x", "x"},
	},
	cordon.Java: {
		{"@x", never}, {"-javaagent:x M", never}, {"-agentlib:x M", never}, {"-Xrunx M", never}, {"-Xbootclasspath/a:x M", never}, {"-XX:Flags=x M", never}, {"-XX:VMOptionsFile=x M", never}, {"-XX:SharedArchiveFile=x M", never},
		{"--patch-module x=y M", never}, {"--upgrade-module-path d M", never}, {"-Djava.class.path=d M", never}, {"-Djdk.module.path=d M", never}, {"jdk.x.M", never}, {"jdk/x/M", never}, {"com.sun.x.M", never}, {"-m jdk.x/y", never},
		{"-version", ""}, {"-Xmx9m -Dx=y M", "M"}, {"d/x.java", "x.java"}, {"-jar d/x.txt", "x.txt"}, {"-cp a:d/b:c.jar M", "M a b"}, {"-classpath d M", "M d"}, {"--class-path=a:b/ M", "M a b"}, {"--class-path d M", "M d"},
		{"-p d -m x", "d x"}, {"--module-path=d --module=x", "d x"}, {"--add-modules x M", "M"}, {"--add-opens x=y M", "M"}, {"-cp a:b:c:d:e M", some}, {"CLASSPATH=d M", killed}, {"JDK_JAVA_OPTIONS=x M", killed},
		{"JAVA_TOOL_OPTIONS=x M", killed}, {"_JAVA_OPTIONS=x M", killed},
	},
	cordon.JavaTool:  {{"-d x y.java", ""}, {"@x", never}, {"-J-Dx=y z", never}, {"_JAVA_OPTIONS=x y", killed}},
	cordon.JavaShell: {{"x", never}, {"-s x", never}},
	cordon.PHP: {
		{"", never}, {"-", never}, {"-r 1", never}, {"-a", never}, {"-B 1 x", never}, {"-R 1 x", never}, {"-E 1 x", never}, {"-c d x", never}, {"-nr 1", never}, {"--run 1", never}, {"--process-code 1 x", never}, {"--interactive", never}, {"--php-ini d x", never},
		{"--", never}, {"-- x", never}, {"-d auto_prepend_file=y x", never}, {"-dauto_append_file=y x", never}, {"-d a=1\nauto_prepend_file=y x", never}, {"-dopcache.preload=y x", never}, {"--define zend_extension=y x", never}, {"--define=zend_extension=y x", never},
		{"x", "x"}, {"-f x", "x"}, {"-fd/x", "x"}, {"-F x", "x"}, {"--file x", "x"}, {"--file=d/x", "x"}, {"-d a=b x", "x"}, {"-da=b x", "x"}, {"--define=a=b x", "x"}, {"-z e x", "x"}, {"-q x", "x"}, {"--docroot d x", "x"},
		{"-v", ""}, {"-i", ""}, {"--ini", ""}, {"--rf x", ""}, {"PHPRC=d x", killed}, {"PHP_INI_SCAN_DIR=d x", killed},
	},
	cordon.Lua: {
		{"", never}, {"-", never}, {"-e 1", never}, {"-i x", never}, {"-v -", never}, {"-v -e 1", never}, {"x", "x"}, {"-W x", "x"}, {"-l m x", "x"}, {"-lm x", "x"}, {"-v x", "x"}, {"-v", ""},
		{"LUA_INIT=x x", killed}, {"LUA_INIT_5_4=x x", killed}, {"LUA_PATH=x x", killed},
	},
	cordon.Tcl: {{"", never}, {"-x y", never}, {"x -y", "x"}, {"-encoding a x", "x"}, {"y -encoding a x", "y"}},
	cordon.Expect: {
		{"", never}, {"-", never}, {"-c 1 x", never}, {"-i", never}, {"-dc 1", never}, {"x", "x"}, {"-f x y", "x"}, {"-fx", "x"}, {"-b x", "x"}, {"-D 1 x", "x"}, {"-n -- x", "x"},
	},
	cordon.Awk: {
		{"1 x", ""}, {"-F : 1 x", ""}, {"-v f=1 1 x", ""}, {"--version", ""}, {"-W version", ""}, {"-Wv", ""}, {"-W i 1 x", ""}, {"-f d/x y", "x"}, {"-fx y", "x"}, {"-E x y", "x"}, {"-F : -f x y", "x"}, {"-v f=1 -f x", "x"},
		{"--file x y", "x"}, {"--file=d/x y", "x"}, {"--fil=x", "x"}, {"--exec x y", "x"}, {"--e=x", "x"}, {"-W exec d/x y", "x"}, {"-We x y", "x"}, {"-Wexec=x y", "x"}, {"-W e x", "x"},
	},
	cordon.Shell: {
		{"", ""}, {"-c 1", ""}, {"-xc 1", ""}, {"-s x", ""}, {"-es x", ""}, {"--version", ""}, {"x y", "x"}, {"d/x", "x"}, {"-e x", "x"}, {"+e x", "x"}, {"-o pipefail x", "x"}, {"-eo pipefail x", "x"}, {"-O a +O b x", "x"},
		{"- x", "x"}, {"-- -x", "-x"}, {"--rcfile r x", "x"}, {"--init-file r x", "x"}, {"--norc x", "x"}, {"/dev/stdin", ""}, {long, ""},
	},
}

// words starts, in a login, a program that takes any words under each role.
func (s scripted) words(t *testing.T) {
	inLogin(t)
	for role, cases := range words {
		for _, c := range cases {
			line, env := strings.Split(c[0], " "), os.Environ()
			if name, _, is := strings.Cut(line[0], "="); is && name == strings.ToUpper(name) {
				line, env = line[1:], append(env, line[0])
			}
			if c[0] == "" {
				line = nil
			}
			if got := s.started(t, s.as[role], line, env); got != c[1] && (c[1] != some || !strings.HasSuffix(got, " and any")) {
				t.Errorf("role %d, %q: %q, not %q", role, c[0], got, c[1])
			}
		}
	}
}

// inLogin has what is started from here belong to a login. The goroutine has to end.
func inLogin(t *testing.T) {
	runtime.LockOSThread() // never unlocked: this thread belongs to a login now, and ends
	if err := os.WriteFile("/proc/thread-self/loginuid", []byte("1000"), 0); err != nil {
		t.Fatal(err)
	}
}

// started says what becomes of a program: the files that it is judged by.
func (s scripted) started(t *testing.T, program string, line, env []string) string {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(program, line...)
	c.Stdout, c.Env = w, env
	err = errors.Join(c.Start(), w.Close())
	defer func() { _ = r.Close() }() // at the latest
	if errors.Is(err, unix.EPERM) {
		return never
	} else if err != nil {
		t.Fatal(err)
	}
	n, _ := r.Read(make([]byte, 1)) // 0: it ended
	var run struct {
		Role, Becomes, Names, Vouched, Session, Manager uint32
		Name                                            [4][64]byte
	}
	fd, err := unix.PidfdOpen(c.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	var raw []byte
	err = errors.Join(s.maps["runs"].Lookup(uint32(fd), &raw), unix.Close(fd), r.Close()) // nobody reads what it writes: it ends
	var ended *exec.ExitError
	if errors.As(c.Wait(), &ended) && n == 0 && ended.Sys().(syscall.WaitStatus).Signal() == unix.SIGKILL {
		return killed
	}
	if err == nil {
		err = binary.Read(bytes.NewReader(raw), binary.LittleEndian, &run)
	}
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for i := range min(run.Names, 4) {
		name, _, _ := bytes.Cut(run.Name[i][:], []byte{0})
		names = append(names, string(name))
	}
	slices.Sort(names)
	got := strings.Join(names, " ")
	if run.Names > 4 {
		got += " and any"
	}
	return got
}

// copies are programs that wait, whatever words they get, one for each role.
func (g *guest) copies(t *testing.T) (programs map[cordon.Role]string, entries []cordon.TrustEntry) {
	t.Helper()
	programs = map[cordon.Role]string{}
	for role := range words {
		dir := filepath.Join(g.dir, "as", string(rune('a'+role)))
		content := append(bytes.Clone(read(t, "/bin/busybox")), byte(role))
		programs[role] = filepath.Join(dir, "yes")
		if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(programs[role], content, 0o755)); err != nil {
			t.Fatal(err)
		}
		e := entry(content)
		e.Role = role
		entries = append(entries, e)
	}
	return programs, entries
}
