package cordon

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The kernel's programs have the same roles under the same numbers, and take the same
// names for program text: what they judge and the trust set lacks would be refused
// always, and what they do not judge would run.
func TestKernelHasTheSame(t *testing.T) {
	source, err := os.ReadFile("internal/enforce/bpflsm/bpf/interpret.h")
	if err != nil {
		t.Fatal(err)
	}
	part := func(begin, end string) string {
		_, rest, found := strings.Cut(string(source), begin)
		text, _, ended := strings.Cut(rest, end)
		if !found || !ended {
			t.Fatalf("there is nothing between %q and %q", begin, end)
		}
		return text
	}
	names := []string{"NO_ROLE", "PYTHON", "PERL", "RUBY", "NODE", "JAVA", "PHP", "LUA", "TCL", "AWK", "SHELL", "BUSYBOX", "INSTALLER", "EXPECT", "JAVA_TOOL", "JAVA_SHELL"}
	numbers := []Role{NoRole, Python, Perl, Ruby, Node, Java, PHP, Lua, Tcl, Awk, Shell, Busybox, Installer, Expect, JavaTool, JavaShell}
	if got := strings.Split(strings.TrimSpace(part("enum role {", "}")), ", "); !slices.Equal(got, names) || len(numbers) != int(roles) {
		t.Errorf("the kernel has the roles %q", got)
	}
	for i, r := range numbers {
		if int(r) != i {
			t.Errorf("%s is %d here, %d in the kernel", names[i], r, i)
		}
	}
	body := part("INLINE bool is_code(u32 role, u64 v)\n{", "\n}\n")
	named := regexp.MustCompile(`ENDS\(v, "([^"]+)"\)`)
	var ends []string
	for _, m := range named.FindAllStringSubmatch(body, -1) {
		ends = append(ends, m[1])
	}
	// python313.zip takes three more looks. Whatever else is compared in another way would not be seen here.
	if rest := named.ReplaceAllString(body, ""); len(regexp.MustCompile(`\bv\b`).FindAllString(rest, -1)) != 3 {
		t.Errorf("there are other looks at a name than by ENDS: %s", rest)
	}
	text := slices.Concat(slices.Collect(maps.Keys(suffixes)), slices.Collect(maps.Keys(texts)))
	for _, name := range text {
		if !slices.ContainsFunc(ends, func(end string) bool { return strings.HasSuffix(name, end) }) {
			t.Errorf("%q is program text, and the kernel does not know it", name)
		}
	}
	for _, end := range ends {
		if len(end) > 8 {
			t.Errorf("%q is longer than what the kernel looks at", end)
		}
		// No package brings the archive in which Python looks first.
		if end != ".zip" && !slices.ContainsFunc(text, func(name string) bool { return strings.HasSuffix(name, end) }) {
			t.Errorf("the kernel takes %q for program text, and the trust set does not have it", end)
		}
	}
}
