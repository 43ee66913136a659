package servercmd

import (
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/cordon-project/cordon/internal/keys"
)

// localNames are what every server goes by on its own machine.
var localNames = []string{"localhost", "127.0.0.1", "::1"}

// names are what a server goes by: those that it has been given, and those that
// its certificates are valid for.
type names struct {
	given []string // as plainName has them
	files []*keys.File
}

// newNames adds the host of the public URL, if there is one, to the given names.
func newNames(given []string, publicURL string, files ...*keys.File) names {
	n := names{files: files}
	for _, name := range given {
		n.given = append(n.given, plainName(name))
	}
	if u, err := url.Parse(publicURL); err == nil && u.Host != "" { // the configuration has been checked
		n.given = append(n.given, plainName(u.Hostname()))
	}
	return n
}

// own reports whether a host (without a port) is this server.
func (n names) own(host string) bool {
	host = plainName(host)
	return host != "" && (slices.Contains(n.given, host) || slices.ContainsFunc(n.files, func(f *keys.File) bool { return f.Covers(host) }))
}

// plainName writes the same host always in the same way.
func plainName(host string) string {
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.Unmap().String()
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}
