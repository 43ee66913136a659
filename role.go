package cordon

import "strings"

// Role says what a trusted program does with files of others, as far as that
// matters for what may run. It belongs to the content, whatever it is called
// where it is started.
type Role uint8

// The roles. Their numbers are stored and known to the kernel's programs.
const (
	NoRole Role = iota
	Python
	Perl
	Ruby
	Node
	Java
	PHP
	Lua
	Tcl
	Awk
	Shell
	Busybox   // a shell if it is called as one
	Installer // a package manager
	Expect
	JavaTool  // a program of Java's beside java, like javac: it is told how to start Java
	JavaShell // one that runs what is typed
	roles
)

// Known reports whether r is one of the roles.
func (r Role) Known() bool { return r < roles }

// Interpreters says what programs that run text of others may run while a
// machine is restricted.
type Interpreters string

// The policies for interpreters.
const (
	OpenInterpreters Interpreters = "open"            // any text
	TrustedScripts   Interpreters = "trusted-scripts" // text that is trusted
)

// programs are the names of programs with a role, without the version.
var programs = map[string]Role{
	"python": Python, "pypy": Python,
	"perl": Perl,
	"ruby": Ruby, "jruby": Ruby, "truffleruby": Ruby,
	"node": Node, "nodejs": Node,
	"java":   Java,
	"jshell": JavaShell, "jrunscript": JavaShell,
	"javac": JavaTool, "javadoc": JavaTool, "javap": JavaTool, "jar": JavaTool, "jarsigner": JavaTool, "jdb": JavaTool, "jdeps": JavaTool, "jdeprscan": JavaTool, "jlink": JavaTool,
	"jmod": JavaTool, "jpackage": JavaTool, "jwebserver": JavaTool, "keytool": JavaTool, "rmiregistry": JavaTool, "serialver": JavaTool, "jconsole": JavaTool, "jhsdb": JavaTool,
	"jcmd": JavaTool, "jfr": JavaTool, "jimage": JavaTool, "jinfo": JavaTool, "jmap": JavaTool, "jps": JavaTool, "jstack": JavaTool, "jstat": JavaTool, "jstatd": JavaTool,
	"php": PHP, "php-cgi": PHP,
	"lua": Lua, "luajit": Lua, "texlua": Lua,
	"tclsh": Tcl, "wish": Tcl, "expect": Expect, "expectk": Expect,
	"awk": Awk, "mawk": Awk, "gawk": Awk, "nawk": Awk, "original-awk": Awk,
	"sh": Shell, "dash": Shell, "bash": Shell, "rbash": Shell, "zsh": Shell, "ksh": Shell, "mksh": Shell, "lksh": Shell, "yash": Shell, "posh": Shell,
	"csh": Shell, "tcsh": Shell, "bsd-csh": Shell, "fish": Shell,
	"busybox": Busybox,
	"dpkg":    Installer, "apt": Installer, "apt-get": Installer, "aptitude": Installer, "rpm": Installer, "dnf": Installer, "yum": Installer, "zypper": Installer,
	"microdnf": Installer, "dnf-automatic": Installer, "dnf5daemon-server": Installer, "packagekitd": Installer,
}

// RoleOf returns the role of a trusted program by the last part of its path:
// python3.11, perl5.36.0, php8.2, zsh5.
func RoleOf(name string) Role {
	name = strings.TrimPrefix(name, "static-") // zsh-static, bash-static and the like end so, too
	name = strings.TrimSuffix(name, "-static")
	if r, ok := programs[name]; ok {
		return r
	}
	// A version, and the variants of Python: t is free of the lock, d and dbg are for debugging.
	for _, suffix := range [...]string{"", "-dbg", "d", "t", "td", "m"} {
		base, ok := strings.CutSuffix(name, suffix)
		if !ok {
			continue
		}
		bare := strings.TrimRight(base, "0123456789.-")
		if r, ok := programs[bare]; ok && bare != base {
			return r
		}
	}
	return NoRole
}

// suffixes are the ends of names under which interpreters look for program
// text. The kernel's programs have the same list, by role.
var suffixes = map[string]bool{
	".py": true, ".pyc": true, ".pyo": true, ".pyw": true, ".pyz": true, ".pth": true,
	".pl": true, ".pm": true, ".ph": true, ".al": true, ".ix": true, ".bs": true, ".pmc": true,
	".rb": true, ".gemspec": true, ".js": true, ".mjs": true, ".cjs": true,
	".jar": true, ".JAR": true, ".java": true, ".class": true, ".jsa": true,
	".php": true, ".inc": true, ".phar": true,
	".lua": true, ".tcl": true, ".tm": true, ".awk": true,
	".sh": true, ".zsh": true, ".ksh": true, ".bash": true, ".dash": true,
}

// texts are names of program text that are not told by their ends: Java's own
// classes, Tcl's list of what it loads by itself, and what names a package's program
// text for node.
var texts = map[string]bool{"modules": true, "tclIndex": true, "package.json": true}

// IsProgramText reports whether a file of this name, or path, is one that interpreters
// take for program text.
func IsProgramText(path string) bool {
	name := path[strings.LastIndexByte(path, '/')+1:]
	i := strings.LastIndexByte(name, '.')
	return texts[name] || (i >= 0 && suffixes[name[i:]])
}
