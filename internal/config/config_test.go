package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "server.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const full = `
# every key
listen = "10.0.0.1:443"
tls_names = ["cordon.example.com", "10.0.0.1", "fd00::1"]
public_url = "https://cordon.example.com"
metrics_listen = "off"
action_ttl = "24h30m"
token_key_lifetime = "720h"
`

func TestGoodFiles(t *testing.T) {
	defaults := Server{Listen: ":8443", ActionTTL: Duration{72 * time.Hour}, TokenKeyLifetime: Duration{2160 * time.Hour}}
	with := func(f func(*Server)) Server {
		s := defaults
		f(&s)
		return s
	}
	for name, c := range map[string]struct {
		text string
		over Server
		want Server
	}{
		"empty":    {"", Server{}, defaults},
		"comments": {"# nothing\n\n", Server{}, defaults},
		"full": {full, Server{}, Server{
			Listen: "10.0.0.1:443", TLSNames: []string{"cordon.example.com", "10.0.0.1", "fd00::1"}, PublicURL: "https://cordon.example.com",
			MetricsListen: "off", ActionTTL: Duration{24*time.Hour + 30*time.Minute}, TokenKeyLifetime: Duration{720 * time.Hour},
		}},
		"flags over the file": {full, Server{Listen: ":9000", TLSNames: []string{"other"}, PublicURL: "https://other:9000/", MetricsListen: "localhost:1", ActionTTL: Duration{time.Minute}}, Server{
			Listen: ":9000", TLSNames: []string{"other"}, PublicURL: "https://other:9000/", MetricsListen: "localhost:1", ActionTTL: Duration{time.Minute}, TokenKeyLifetime: Duration{720 * time.Hour},
		}},
		"flags over nothing": {"", Server{Listen: "[::1]:0", TLSCert: "c.pem", TLSKey: "k.pem"}, with(func(s *Server) { s.Listen, s.TLSCert, s.TLSKey = "[::1]:0", "c.pem", "k.pem" })},
		"certificate":        {"tls_cert = 'c.pem'\ntls_key = 'k.pem'", Server{}, with(func(s *Server) { s.TLSCert, s.TLSKey = "c.pem", "k.pem" })},
		"half each":          {"tls_cert = 'c.pem'", Server{TLSKey: "k.pem"}, with(func(s *Server) { s.TLSCert, s.TLSKey = "c.pem", "k.pem" })},
		"issuer": {"[[issuer]]\nurl = 'https://id'\naudiences = ['a']\nmax_stale = '1h'\n[issuer.permissions]\nSOC = ['Machine.Scan']", Server{}, with(func(s *Server) {
			s.Issuers = []Issuer{{URL: "https://id", Audiences: []string{"a"}, MaxStale: Duration{time.Hour}, Permissions: map[string][]string{"SOC": {"Machine.Scan"}}}}
		})},
		"named port": {`listen = "localhost:https"`, Server{}, with(func(s *Server) { s.Listen = "localhost:https" })},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Load(write(t, c.text), c.over)
			if d := cmp.Diff(c.want, got); d != "" || err != nil {
				t.Errorf("%v (-want +got):\n%s", err, d)
			}
		})
	}
	if got, err := Load("", Server{}); err != nil || !cmp.Equal(got, defaults) {
		t.Errorf("no file: %+v, %v", got, err)
	}
}

func TestBadFiles(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		over Server
		want string // in the error
	}{
		"unknown key":            {"lisen = ':1'", Server{}, `unknown key "lisen"`},
		"unknown among known":    {"listen = ':1'\nverbose = true", Server{}, `unknown key "verbose"`},
		"unknown table":          {"[database]\nurl = 'x'", Server{}, `unknown key "database"`},
		"key in the wrong place": {"[server]\nlisten = ':1'", Server{}, `unknown key "server"`},
		"not TOML":               {"listen: ':1'", Server{}, "line 1"},
		"twice":                  {"listen = ':1'\nlisten = ':2'", Server{}, "listen"},
		"unknown in an issuer":   {"[[issuer]]\naudience = 'x'", Server{}, `unknown key "issuer.audience"`},
		"number for text":        {"listen = 8443", Server{}, "listen"},
		"text for list":          {"tls_names = 'x'", Server{}, "tls_names"},
		"broken UTF-8":           {"listen = '\xff'", Server{}, "UTF-8"},
		"no port":                {"listen = 'localhost'", Server{}, `listen: "localhost" is not an address of the form [HOST]:PORT`},
		"empty port":             {"listen = 'localhost:'", Server{}, `listen: "localhost:" is not an address`},
		"port too large":         {"listen = ':70000'", Server{}, `listen: ":70000" is not an address`},
		"port not known":         {"listen = ':nosuchport'", Server{}, `listen: ":nosuchport" is not an address`},
		"bad flag":               {"", Server{Listen: "8443"}, `listen: "8443" is not an address`},
		"metrics":                {"metrics_listen = 'none'", Server{}, `metrics_listen: "none" is neither an address of the form [HOST]:PORT nor "off"`},
		"certificate, no key":    {"tls_cert = 'c.pem'", Server{}, "tls_cert and tls_key go together: give both or neither"},
		"key, no certificate":    {"tls_key = 'k.pem'", Server{}, "tls_cert and tls_key go together: give both or neither"},
		"certificate and names":  {"tls_cert = 'c.pem'\ntls_key = 'k.pem'\ntls_names = ['x']", Server{}, "tls_names are for the server's own CA"},
		"name that is a URL":     {"tls_names = ['https://x']", Server{}, `tls_names: "https://x" is neither a DNS name nor an IP address`},
		"name with a port":       {"tls_names = ['x:443']", Server{}, `tls_names: "x:443" is neither`},
		"empty name":             {"tls_names = ['']", Server{}, `tls_names: "" is neither`},
		"plain URL":              {"public_url = 'http://x'", Server{}, `public_url: "http://x" is not of the form https://host[:port]`},
		"URL with a path":        {"public_url = 'https://x/y'", Server{}, `public_url: "https://x/y" is not`},
		"URL with a query":       {"public_url = 'https://x?y'", Server{}, `public_url: "https://x?y" is not`},
		"URL with a fragment":    {"public_url = 'https://x#y'", Server{}, `public_url: "https://x#y" is not`},
		"URL with a password":    {"public_url = 'https://u:p@x'", Server{}, `public_url: "https://u:p@x" is not`},
		"URL without a host":     {"public_url = 'https://:443'", Server{}, `public_url: "https://:443" is not`},
		"not a URL":              {"public_url = '::'", Server{}, `public_url: "::" is not`},
		"TTL without a unit":     {"action_ttl = '72'", Server{}, "action_ttl"},
		"TTL as a number":        {"action_ttl = 72", Server{}, "action_ttl"},
		"TTL zero":               {"action_ttl = '0s'", Server{}, `"0s" is not above zero`},
		"TTL negative":           {"action_ttl = '-1h'", Server{}, `"-1h" is not above zero`},
		"short life of keys":     {"token_key_lifetime = '23h'", Server{}, "token_key_lifetime: 23h0m0s is less than 24h0m0s"},
		"a lease too short":      {"default_lease = '9s'", Server{}, "default_lease: A lease is 10s to 8760h0m0s, in whole seconds, not 9s"},
		"a lease of no seconds":  {"default_lease = '10500ms'", Server{}, "default_lease: "},
		"TTL negative by flag":   {"", Server{ActionTTL: Duration{-1}}, "action_ttl: -1ns is not above zero"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Load(write(t, c.text), c.over); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

func TestErrorsNameTheFile(t *testing.T) {
	path := write(t, "lisen = ':1'")
	if _, err := Load(path, Server{}); err == nil || err.Error() != "configuration file "+path+`: unknown key "lisen"` {
		t.Errorf("got %v", err)
	}
	if _, err := Load(path+"x", Server{}); !errors.Is(err, fs.ErrNotExist) || !strings.HasPrefix(err.Error(), "read configuration: ") {
		t.Errorf("got %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("")
	f.Add(full)
	f.Add("tls_cert = 'c'\ntls_key = \"\"\"k\"\"\"")
	f.Add("action_ttl = 1e9\n[x]\ny = [1979-05-27]")
	f.Add("listen = {a = 1}")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Parse(text)
		if err != nil {
			return
		}
		if s.ActionTTL.Duration < 0 {
			t.Errorf("TTL %s", s.ActionTTL)
		}
		_ = s.check() // no panic
	})
}
