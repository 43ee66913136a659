package cordon_test

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/cordon-project/cordon"

type goPackage struct {
	ImportPath, Doc, Name string
	Imports               []string
	GoFiles               []string
}

func packages(t *testing.T) []goPackage {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Doc,Name,Imports,GoFiles", "./...").Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []goPackage
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	return all
}

// allowed are the arrows between our own packages, by who draws them, with the
// reason for each that does not simply point at the domain. What is not here is
// an error: adapters do not know each other, and cmd/cordon joins them.
var allowed = map[string]map[string]string{
	"": {},
	"internal/agent": {
		"internal/agent/disk": "what it knows must outlive it",
		"internal/local":      "it answers the commands of its machine",
		"internal/seal":       "it verifies orders and signs reports",
		"internal/uplink":     "it is how it reaches the server",
		"internal/wire":       "it speaks the agents' protocol",
	},
	"internal/agent/disk": {
		"internal/durable": "its files are whole after a crash",
		"internal/seal":    "what is signed is verified when it is read, too",
	},
	"internal/agentapi": {
		"internal/hub":  "a connection joins the hub for as long as it lives",
		"internal/seal": "it verifies proofs and reports",
		"internal/wire": "it speaks the agents' protocol",
	},
	"internal/bootstrap": {"internal/durable": "the first secret is whole after a crash"},
	"internal/cli": {
		"internal/evidence": "it verifies orders and reports by itself",
		"internal/seal":     "it looks into an order before it is carried",
		"mde":               "the verbs are callers of the public client",
	},
	"internal/cordonapi": {"internal/seal": "keys on the wire"},
	"internal/enforce/bpflsm": {
		"internal/enforce":                "it is one of its enforcers",
		"internal/enforce/bpflsm/sample":  "what its programs tell",
		"internal/enforce/bpflsm/trusted": "what its programs look up",
		"internal/enforce/ground":         "what file systems lie on is handed to the kernel",
		"internal/enforce/mount":          "files are opened, and file systems mounted, so that nobody gets in between",
	},
	"internal/enforce/bpflsm/sample": {"internal/enforce": "a refusal means the same to every enforcer"},
	"internal/enforce/fanotify": {
		"internal/enforce":       "it is one of its enforcers",
		"internal/enforce/mount": "what is mounted is watched",
		"internal/fileid":        "what identifies a file must mean the same when it is judged and when it was hashed",
	},
	"internal/enforce/ground": {"internal/enforce/mount": "file systems are known by what is mounted"},
	"internal/evidence":       {"internal/seal": "it opens what was signed", "mde": "it judges what the public client was told"},
	"internal/keys":           {"internal/durable": "a key is whole after a crash"},
	"internal/local":          {"internal/seal": "what is carried has a largest size"},
	"internal/mdeapi":         {"internal/odata": "the parser is a part of this edge"},
	"internal/preview":        {"internal/fileid": "what identifies a file must mean the same when it is judged and when it was hashed"},
	"internal/protect":        {"internal/enforce": "it switches an enforcer"},
	"internal/simulate": {
		"internal/seal":   "simulated agents verify orders and sign reports",
		"internal/uplink": "they reach the server as real ones do",
		"internal/wire":   "they speak the agents' protocol",
	},
	"internal/store/sqlite": {
		"internal/store/sqlite/compile": "it writes the SQL of what is asked about the tables",
		"internal/store/sqlite/engine":  "the tables are in its file",
	},
	"internal/telemetry": {"internal/durable": "the counts are whole after a crash"},
	"internal/trust": {
		"internal/trust/dpkg": "one of its sources", "internal/trust/rpm": "one of its sources", "internal/trust/rules": "one of its sources",
		"internal/trust/watch": "it builds again when one of them changes",
		"internal/durable":     "its cache is whole after a crash",
		"internal/fileid":      "reads files without trusting that they hold still",
	},
	"internal/trust/archive": {
		"internal/durable":   "the ledger is whole after a crash",
		"internal/fileid":    "reads files without trusting that they hold still",
		"internal/trust/rpm": "package files have the headers of the database",
	},
	"internal/trust/dpkg":  {"internal/fileid": "reads files without trusting that they hold still"},
	"internal/trust/rules": {"internal/fileid": "reads files without trusting that they hold still"},
	"internal/trust/survival": {
		"internal/fileid":      "reads files without trusting that they hold still",
		"internal/trust/rules": "who could have written a file means the same to both",
	},
	"internal/uplink": {"internal/seal": "each request has a signed proof", "internal/wire": "the agents' protocol travels on it"},
	"mde":             {},
}

func TestArrows(t *testing.T) {
	for _, p := range packages(t) {
		name := strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
		if strings.HasPrefix(name, "cmd/") || isTestOnly(name) {
			continue // they join the parts
		}
		for _, imp := range p.Imports {
			own, ok := strings.CutPrefix(imp, module)
			if !ok {
				continue
			}
			own = strings.TrimPrefix(own, "/")
			if own == "" {
				continue // everybody may know the domain
			}
			if allowed[name][own] == "" {
				t.Errorf("%s imports %s. Adapters do not know each other: pass what is needed from cmd/cordon, or write the reason into this test", name, own)
			}
		}
	}
}

// halves are the parts that are the server's alone, and the agent's alone.
var halves = map[string][]string{
	"cmd/cordon/servercmd": {"internal/agentapi", "internal/bootstrap", "internal/config", "internal/cordonapi", "internal/hub", "internal/keys", "internal/mdeapi", "internal/metrics", "internal/oauth", "internal/oidc", "internal/ratelimit", "internal/simulate", "internal/store"},
	"cmd/cordon/agentcmd":  {"internal/agent", "internal/enforce", "internal/facts", "internal/fileid", "internal/local", "internal/notice", "internal/preview", "internal/protect", "internal/telemetry", "internal/trust"},
}

// One program is both, and neither has anything of the other's in its hands.
func TestHalves(t *testing.T) {
	all := packages(t)
	for half, parts := range halves {
		for _, part := range parts {
			within := func(name string) bool { return name == part || strings.HasPrefix(name, part+"/") }
			if !slices.ContainsFunc(all, func(p goPackage) bool { return within(strings.TrimPrefix(p.ImportPath, module+"/")) }) {
				t.Errorf("%s is no package", part)
			}
			for _, p := range all {
				name := strings.TrimPrefix(p.ImportPath, module+"/")
				if name == half || !strings.HasPrefix(name, "cmd/") {
					continue
				}
				for _, imp := range p.Imports {
					if name, own := strings.CutPrefix(imp, module+"/"); own && within(name) {
						t.Errorf("%s imports %s, which is %s's alone", p.ImportPath, imp, half)
					}
				}
			}
		}
	}
}

// forbidden are imports that some packages must not have, with the reason.
var forbidden = []struct{ in, imports, reason string }{
	{"", "github.com/", "the domain knows the standard library only"},
	{"", "golang.org/x/", "the domain knows the standard library only"},
	{"", "net/http", "the domain knows no edge"},
	{"", "database/sql", "the domain knows no store"},
	{"cmd/cordon/agentcmd", "os/exec", "a process that answers for others' executions must not start programs: see package enforce"},
	{"internal/agent", "os/exec", "a process that answers for others' executions must not start programs: see package enforce"},
	{"internal/enforce/fanotify", "os/exec", "a process that answers for others' executions must not start programs: see package enforce"},
	{"internal/facts", "os/exec", "a process that answers for others' executions must not start programs: see package enforce"},
	{"internal/local", "os/exec", "a process that answers for others' executions must not start programs: see package enforce"},
	{"internal/preview", "os/exec", "a process that answers for others' executions must not start programs: see package enforce"},
	{"internal/protect", "os/exec", "a process that answers for others' executions must not start programs: see package enforce"},
	{"internal/telemetry", "os/exec", "a process that answers for others' executions must not start programs: see package enforce"},
	{"internal/trust", "os/exec", "a process that answers for others' executions must not start programs: see package enforce"},
	{"internal/uplink", "os/exec", "a process that answers for others' executions must not start programs: see package enforce"},
	{"internal/enforce/ground", "os/exec", "the guardian starts programs: see package enforce"},
	{"internal/enforce/mount", "os/exec", "the guardian starts programs: see package enforce"},
	{"internal/enforce/bpflsm", "os/exec", "the guardian starts programs: see package enforce"},
	{"internal/store", "net/http", "status codes belong to the edges"},
	{"internal/ratelimit", "net/http", "status codes belong to the edges"},
	{"internal/hub", "net/http", "status codes belong to the edges"},
	{"mde", "github.com/", "the public client needs the standard library only"},
}

// The kernel is spoken to about BPF in one place.
func TestOnlyOneSpeaksBPF(t *testing.T) {
	for _, p := range packages(t) {
		for _, imp := range p.Imports {
			name := strings.TrimPrefix(p.ImportPath, module+"/")
			if strings.HasPrefix(imp, "github.com/cilium/ebpf") && !slices.Contains([]string{"internal/enforce/bpflsm", "test/bypass", "test/bench/kernel"}, name) {
				t.Errorf("%s imports %s, which is internal/enforce/bpflsm's alone, and of who attacks or measures it", p.ImportPath, imp)
			}
		}
	}
}

// testOnly are packages that no program contains.
var testOnly = []string{"internal/testkit/", "internal/trust/fixture", "internal/store/storetest", "test/"}

func isTestOnly(name string) bool {
	return slices.ContainsFunc(testOnly, func(p string) bool { return strings.HasPrefix(name, p) })
}

func TestForbiddenImports(t *testing.T) {
	for _, p := range packages(t) {
		name := strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
		if isTestOnly(name) {
			continue
		}
		for _, f := range forbidden {
			if name != f.in && (f.in == "" || !strings.HasPrefix(name, f.in+"/")) {
				continue
			}
			for _, imp := range p.Imports {
				if strings.HasPrefix(imp, f.imports) && !strings.HasPrefix(imp, module) {
					t.Errorf("%s imports %s: %s", name, imp, f.reason)
				}
			}
		}
	}
}

// What is for tests must not get into a program.
func TestProgramsAreFreeOfTestSupport(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "./cmd/cordon").Output()
	if err != nil {
		t.Fatal(err)
	}
	for imp := range strings.Lines(string(out)) {
		if own, ok := strings.CutPrefix(strings.TrimSpace(imp), module+"/"); ok && isTestOnly(own) {
			t.Errorf("cordon contains %s", own)
		}
	}
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	for _, p := range packages(t) {
		if len(p.GoFiles) == 0 {
			continue
		}
		want := "Package " + p.Name + " "
		if p.Name == "main" {
			want = "Command "
		}
		if !strings.HasPrefix(p.Doc, want) {
			t.Errorf("%s has no doc comment that begins with %q", p.ImportPath, want)
		}
	}
}

// The table of the parts has all of them, each by its name or with those below
// a part that is there.
func TestDesignNamesEveryPackage(t *testing.T) {
	design, err := os.ReadFile("docs/design.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range packages(t) {
		name, own := strings.CutPrefix(p.ImportPath, module+"/")
		if !own || isTestOnly(name) {
			continue
		}
		known := false
		for at := name; at != "." && !known; at = path.Dir(at) {
			known = strings.Contains(string(design), "`"+at+"`")
		}
		if !known {
			t.Errorf("docs/design.md does not say what %s is", name)
		}
	}
}

// The reasons above must stay true: an arrow that nobody draws any more is to
// be taken out.
func TestNoArrowIsForgotten(t *testing.T) {
	all := packages(t)
	for name, arrows := range allowed {
		i := slices.IndexFunc(all, func(p goPackage) bool { return p.ImportPath == strings.TrimSuffix(module+"/"+name, "/") })
		if i < 0 {
			t.Errorf("%s is no package", name)
			continue
		}
		for to := range arrows {
			if !slices.Contains(all[i].Imports, module+"/"+to) {
				t.Errorf("%s does not import %s any more", name, to)
			}
		}
	}
}
