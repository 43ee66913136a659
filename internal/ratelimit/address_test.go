package ratelimit_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/cordon-project/cordon/internal/ratelimit"
)

var proxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8:aa::/48")}

func TestAddress(t *testing.T) {
	for name, tt := range map[string]struct {
		connection string
		forwarded  []string
		want       string
	}{
		"direct":                             {"192.0.2.1:4711", nil, "192.0.2.1"},
		"direct, IPv6":                       {"[2001:db8::1%eth0]:4711", nil, "2001:db8::1"},
		"direct, with a made up header":      {"192.0.2.1:4711", []string{"198.51.100.7"}, "192.0.2.1"},
		"one proxy":                          {"10.0.0.1:4711", []string{"198.51.100.7"}, "198.51.100.7"},
		"one proxy, IPv6":                    {"[2001:db8:aa::1]:4711", []string{"2001:db8::7"}, "2001:db8::7"},
		"one proxy, IPv4 in IPv6":            {"[::ffff:10.0.0.1]:4711", []string{"::ffff:198.51.100.7"}, "198.51.100.7"},
		"one proxy that writes ports":        {"10.0.0.1:4711", []string{"198.51.100.7:52000"}, "198.51.100.7"},
		"one proxy that writes brackets":     {"10.0.0.1:4711", []string{"[2001:db8::7]"}, "2001:db8::7"},
		"one proxy, with ports and IPv6":     {"10.0.0.1:4711", []string{"[2001:db8::7]:52000"}, "2001:db8::7"},
		"one proxy, what the client made up": {"10.0.0.1:4711", []string{"203.0.113.1, 10.0.0.9, 198.51.100.7"}, "198.51.100.7"},
		"two proxies":                        {"10.0.0.1:4711", []string{"198.51.100.7, 10.0.0.2"}, "198.51.100.7"},
		"two proxies, two headers":           {"10.0.0.1:4711", []string{"203.0.113.1,198.51.100.7", " 10.0.0.2"}, "198.51.100.7"},
		"a proxy that says nothing":          {"10.0.0.1:4711", nil, "10.0.0.1"},
		"a proxy that says nonsense":         {"10.0.0.1:4711", []string{"198.51.100.7, unknown"}, "10.0.0.1"},
		"from within the proxies' network":   {"10.0.0.1:4711", []string{"10.0.0.2"}, "10.0.0.2"},
		"no IP address":                      {"@", []string{"198.51.100.7"}, "invalid IP"},
	} {
		if got := ratelimit.Address(tt.connection, tt.forwarded, proxies); got.String() != tt.want {
			t.Errorf("%s: %s, want %s", name, got, tt.want)
		}
	}
}

func FuzzAddress(f *testing.F) {
	f.Add("10.0.0.1:4711", "203.0.113.1, 198.51.100.7", "10.0.0.2")
	f.Add("[2001:db8:aa::1%0]:1", "[::ffff:10.0.0.1]:99,[fe80::1%eth0]", ",,")
	f.Add("192.0.2.1", "", "]")
	f.Fuzz(func(t *testing.T, connection, first, second string) {
		direct := ratelimit.Address(connection, nil, nil)
		if got := ratelimit.Address(connection, []string{first, second}, nil); got != direct {
			t.Fatalf("%s, although no proxy is trusted", got)
		}
		got := ratelimit.Address(connection, []string{first, second}, proxies)
		if got == direct {
			return
		}
		if !proxies[0].Contains(direct) && !proxies[1].Contains(direct) {
			t.Fatalf("%s, although %s is no proxy", got, direct)
		}
		if got.Zone() != "" || got.Is4In6() || !got.IsValid() {
			t.Fatalf("%s is not the plain form of an address", got)
		}
		if !strings.ContainsAny(first+second, ".:") {
			t.Fatalf("%s was made up", got)
		}
	})
}
