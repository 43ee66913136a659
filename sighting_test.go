package cordon

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseAddress(t *testing.T) {
	for s, want := range map[string]string{
		"192.0.2.1": "192.0.2.1", " 192.0.2.1 ": "192.0.2.1", "::ffff:192.0.2.1": "192.0.2.1", "2001:DB8:0::1": "2001:db8::1", "fe80::1%eth0": "fe80::1",
		"": "", "192.0.2": "", "192.0.2.1/24": "", "host": "", "192.0.2.01": "", "[::1]": "",
	} {
		if got, ok := ParseAddress(s); got != want || ok != (want != "") {
			t.Errorf("%q: %q, %t; want %q", s, got, ok, want)
		}
	}
}

func TestAddresses(t *testing.T) {
	f := Facts{LastIP: "192.0.2.1", Interfaces: []Interface{
		{IP: "127.0.0.1"}, {IP: "::1"}, {IP: "0.0.0.0"}, {IP: "2001:DB8::1"}, {IP: "::ffff:192.0.2.1"}, {IP: "nonsense"}, {IP: ""}, {IP: "127.8.8.8"},
	}}
	if diff := cmp.Diff([]string{"192.0.2.1", "2001:db8::1"}, f.Addresses()); diff != "" {
		t.Error(diff)
	}
	f = Facts{}
	for i := range 100 {
		f.Interfaces = append(f.Interfaces, Interface{IP: fmt.Sprintf("192.0.2.%d", i+1)})
	}
	if n := len(f.Addresses()); n != maxAddresses {
		t.Errorf("%d addresses, want %d", n, maxAddresses)
	}
}

func TestNextSightings(t *testing.T) {
	at := func(h int) time.Time { return time.Date(2026, 11, 21, h, 0, 0, 0, time.UTC) }
	open := func(a string, from int) Sighting { return Sighting{Address: a, From: at(from)} }
	closed := func(a string, from, to int) Sighting { return Sighting{a, at(from), at(to)} }
	const day = 24
	tests := []struct {
		what     string
		known    []Sighting
		has      []string
		last, at int
		want     []Sighting
	}{
		{"first", nil, []string{"a", "b"}, 0, 0, []Sighting{open("a", 0), open("b", 0)}},
		{"nothing new", []Sighting{open("a", 0)}, []string{"a"}, 1, 2, []Sighting{open("a", 0)}},
		{"gone: it was there when last seen", []Sighting{open("a", 0)}, nil, 1, 2, []Sighting{closed("a", 0, 1)}},
		{"another", []Sighting{open("a", 0)}, []string{"b"}, 1, 2, []Sighting{open("b", 2), closed("a", 0, 1)}},
		{"back", []Sighting{closed("a", 0, 1)}, []string{"a"}, 4, 5, []Sighting{open("a", 5), closed("a", 0, 1)}},
		{"silent, not for long", []Sighting{open("a", 0)}, []string{"a"}, 1, 1 + day, []Sighting{open("a", 0)}},
		{"silent for long", []Sighting{open("a", 0)}, []string{"a"}, 1, 2 + day, []Sighting{open("a", 2+day), closed("a", 0, 1)}},
		{"silent for long, elsewhere", []Sighting{open("a", 0)}, []string{"b"}, 1, 2 + day, []Sighting{open("b", 2+day), closed("a", 0, 1)}},
		{"never ends before it began", []Sighting{open("a", 3)}, nil, 1, 2, []Sighting{closed("a", 3, 3)}},
		{"not too old", []Sighting{closed("a", 0, 1)}, nil, 1, 1 + 30*day, []Sighting{closed("a", 0, 1)}},
		{"too old", []Sighting{closed("a", 0, 1)}, nil, 1, 2 + 30*day, nil},
		{"at one moment gone and back", []Sighting{{Address: "a", From: at(2), To: at(2)}}, []string{"a"}, 2, 2, []Sighting{open("a", 2)}},
	}
	for _, tt := range tests {
		if diff := cmp.Diff(tt.want, NextSightings(tt.known, tt.has, at(tt.last), at(tt.at))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.what, diff)
		}
	}

	var many []Sighting
	for i := range 1000 {
		now := at(0).Add(time.Duration(i) * time.Minute)
		many = NextSightings(many, []string{fmt.Sprint(i)}, now.Add(-time.Minute), now)
	}
	if len(many) != maxSightings || many[0].Address != "999" || many[maxSightings-1].Address != fmt.Sprint(1000-maxSightings) {
		t.Errorf("%d sightings, from %v to %v", len(many), many[0], many[len(many)-1])
	}
}
