package facts

import (
	"errors"
	"net"
	"os"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/cordon-project/cordon"
)

func machine(files map[string]string) Reader {
	root := fstest.MapFS{}
	for name, content := range files {
		root[name] = &fstest.MapFile{Data: []byte(content)}
	}
	return Reader{
		Root: root, AgentVersion: "1.2.3",
		Hostname:   func() (string, error) { return "Web1", nil },
		Interfaces: func() ([]cordon.Interface, error) { return nil, nil },
	}
}

func TestRead(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		want  cordon.Facts
	}{
		"debian with a qualified name": {
			map[string]string{
				"etc/os-release":                 "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\nVERSION_ID=\"12\"\n",
				"etc/hosts":                      "127.0.0.1 localhost\n10.0.0.5 web1.example.org web1 # me\n",
				"proc/sys/kernel/random/boot_id": "6f1c0a1e-0000-4000-8000-000000000001\n",
			},
			cordon.Facts{DNSName: "web1.example.org", OSPlatform: "Debian", OSVersion: "12", BootID: "6f1c0a1e-0000-4000-8000-000000000001"},
		},
		"red hat, release file in /usr/lib": {
			map[string]string{"usr/lib/os-release": "ID=\"rhel\"\nVERSION_ID='9.5'\n# ID=no\n"},
			cordon.Facts{DNSName: "Web1", OSPlatform: "RedHatEnterpriseLinux", OSVersion: "9.5"},
		},
		"nothing told": {nil, cordon.Facts{DNSName: "Web1", OSPlatform: "Linux"}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := machine(c.files).Read()
			if err != nil {
				t.Fatal(err)
			}
			if got.AgentVersion != "1.2.3" || got.Kernel == "" || got.Architecture == "" {
				t.Errorf("incomplete: %+v", got)
			}
			if d := cmp.Diff(c.want, got, cmpopts.IgnoreFields(cordon.Facts{}, "AgentVersion", "Kernel", "Processor", "Architecture")); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestUnaskableMachine(t *testing.T) {
	r := machine(nil)
	r.Hostname = func() (string, error) { return "", errors.New("no name") }
	if _, err := r.Read(); err == nil {
		t.Error("a machine without a host name gave facts")
	}
}

func TestThisMachine(t *testing.T) {
	f, err := New("test").Read()
	if err != nil {
		t.Fatal(err)
	}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	if f.DNSName == "" || len(f.DNSName) < len(host) || f.BootID == "" {
		t.Errorf("got %+v", f)
	}
}

func TestDescribe(t *testing.T) {
	mac, err := net.ParseMAC("00:00:5e:00:53:ff")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		in   net.Interface
		want cordon.Interface
	}{
		{net.Interface{HardwareAddr: mac, Flags: net.FlagUp}, cordon.Interface{IP: "192.0.2.1", MAC: "00005E0053FF", Type: "Ethernet", Status: "Up"}},
		{net.Interface{Flags: net.FlagUp | net.FlagLoopback}, cordon.Interface{IP: "192.0.2.1", Type: "SoftwareLoopback", Status: "Up"}},
		{net.Interface{}, cordon.Interface{IP: "192.0.2.1", Type: "Other", Status: "Down"}},
	} {
		if d := cmp.Diff(c.want, describe(c.in, net.ParseIP("192.0.2.1"))); d != "" {
			t.Error(d)
		}
	}
}
