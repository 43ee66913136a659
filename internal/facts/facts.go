// Package facts reads what a Linux machine can say of itself for the server's
// list of machines. It owns nothing and keeps nothing; each call reads anew.
package facts

import (
	"bufio"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon"
)

// Reader reads facts below Root, so that tests can give it a machine of their own.
type Reader struct {
	Root         fs.FS // of the machine's file system: etc/os-release, etc/hosts, proc/sys/kernel/random/boot_id
	AgentVersion string
	Hostname     func() (string, error)
	Interfaces   func() ([]cordon.Interface, error)
}

// New returns a reader of this machine's facts.
func New(agentVersion string) Reader {
	return Reader{Root: os.DirFS("/"), AgentVersion: agentVersion, Hostname: os.Hostname, Interfaces: interfaces}
}

// Read returns the machine's facts. What a machine does not tell is left empty;
// an error means that it could not be asked at all.
func (r Reader) Read() (cordon.Facts, error) {
	host, err := r.Hostname()
	if err != nil {
		return cordon.Facts{}, fmt.Errorf("read host name: %w", err)
	}
	ifs, err := r.Interfaces()
	if err != nil {
		return cordon.Facts{}, fmt.Errorf("list network interfaces: %w", err)
	}
	f := cordon.Facts{
		DNSName: r.qualify(host), Kernel: kernel(), Processor: processor(runtime.GOARCH), Architecture: strconv.Itoa(strconv.IntSize) + "-bit",
		AgentVersion: r.AgentVersion, Interfaces: ifs,
	}
	if id, err := fs.ReadFile(r.Root, "proc/sys/kernel/random/boot_id"); err == nil {
		f.BootID = strings.TrimSpace(string(id))
	}
	f.OSPlatform, f.OSVersion = r.system()
	return f, nil
}

// qualify returns the fully qualified name of host if /etc/hosts knows one, as
// hostname(1) -f finds it, without asking the network.
func (r Reader) qualify(host string) string {
	if strings.Contains(host, ".") {
		return host
	}
	f, err := r.Root.Open("etc/hosts")
	if err != nil {
		return host
	}
	defer func() { _ = f.Close() }() // only read
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line, _, _ := strings.Cut(lines.Text(), "#")
		names := strings.Fields(line)
		for i := 1; i < len(names); i++ {
			if strings.HasPrefix(strings.ToLower(names[i]), strings.ToLower(host)+".") {
				return names[i]
			}
		}
	}
	return host
}

// platforms are Defender's spellings of the ID in os-release(5).
var platforms = map[string]string{
	"debian": "Debian", "ubuntu": "Ubuntu", "rhel": "RedHatEnterpriseLinux", "centos": "CentOS", "fedora": "Fedora",
	"ol": "OracleLinux", "sles": "SLES", "amzn": "AmazonLinux", "rocky": "Rocky", "almalinux": "AlmaLinux", "mariner": "Mariner", "azurelinux": "AzureLinux",
}

// system returns the platform and its version from os-release(5).
func (r Reader) system() (platform, version string) {
	for _, name := range []string{"etc/os-release", "usr/lib/os-release"} {
		f, err := r.Root.Open(name)
		if err != nil {
			continue
		}
		defer func() { _ = f.Close() }() // only read
		values := osRelease(f)
		platform = platforms[values["ID"]]
		if platform == "" {
			platform = "Linux"
		}
		return platform, values["VERSION_ID"]
	}
	return "Linux", ""
}

func osRelease(r io.Reader) map[string]string {
	values := make(map[string]string)
	for lines := bufio.NewScanner(r); lines.Scan(); {
		key, value, ok := strings.Cut(strings.TrimSpace(lines.Text()), "=")
		if ok && !strings.HasPrefix(key, "#") {
			values[key] = strings.Trim(value, `"'`)
		}
	}
	return values
}

func kernel() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}

func processor(arch string) string {
	if arch == "amd64" {
		return "x64"
	}
	return arch
}

func interfaces() ([]cordon.Interface, error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var found []cordon.Interface
	for _, i := range all {
		addrs, err := i.Addrs()
		if err != nil {
			continue // it went away meanwhile
		}
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok {
				found = append(found, describe(i, n.IP))
			}
		}
	}
	return found, nil
}

func describe(i net.Interface, ip net.IP) cordon.Interface {
	d := cordon.Interface{IP: ip.String(), Type: "Other", Status: "Down", MAC: strings.ToUpper(strings.ReplaceAll(i.HardwareAddr.String(), ":", ""))}
	if i.Flags&net.FlagUp != 0 {
		d.Status = "Up"
	}
	switch {
	case i.Flags&net.FlagLoopback != 0:
		d.Type, d.MAC = "SoftwareLoopback", ""
	case len(i.HardwareAddr) == 6:
		d.Type = "Ethernet"
	}
	return d
}
