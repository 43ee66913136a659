package mdeapi

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cordon-project/cordon"
)

func TestFunctionArguments(t *testing.T) {
	const ts = "2026-01-24T22:17:02Z"
	tests := []struct {
		text, ip, timestamp string // empty: an error
	}{
		{"ip='10.0.0.1',timestamp=" + ts, "10.0.0.1", ts},
		{"timestamp=" + ts + ",ip='10.0.0.1'", "10.0.0.1", ts},
		{" IP = '10.0.0.1' , Timestamp = '" + ts + "' ", "10.0.0.1", ts},
		{"ip=10.0.0.1,timestamp=" + ts, "10.0.0.1", ts},
		{"ip='fe80::1''',timestamp=1", "fe80::1'", "1"},
		{"ip=',=',timestamp=1", ",=", "1"},
		{"ip='10.0.0.1',timestamp=" + ts + ",", "10.0.0.1", ts},
		{"", "", ""},
		{"ip", "", ""},
		{"ip='10.0.0.1'", "", ""},
		{"ip='10.0.0.1' timestamp=1", "", ""},
		{"ip='10.0.0.1'x,timestamp=1", "", ""},
		{"ip='10.0.0.1',timestamp=1,ip='10.0.0.1'", "", ""},
		{"ip='10.0.0.1',timestamp=1,x=1", "", ""},
		{"ip='10.0.0.1',timestamp=1,x=", "", ""},
		{"ip='10.0.0.1,timestamp=1", "", ""},
		{"ip='',timestamp=1", "", ""},
		{"=,ip=1,timestamp=1", "", ""},
	}
	for _, tt := range tests {
		args, err := functionArguments(tt.text, "ip", "timestamp")
		want := map[string]string{"ip": tt.ip, "timestamp": tt.timestamp}
		if tt.ip == "" {
			want = nil
		}
		if diff := cmp.Diff(want, args); diff != "" || (err == nil) != (tt.ip != "") {
			t.Errorf("%q: %v (-want +got):\n%s", tt.text, err, diff)
		}
	}
}

func TestTimestamp(t *testing.T) {
	at := time.Date(2026, 1, 24, 22, 17, 2, 0, time.UTC)
	day := at.Truncate(24 * time.Hour)
	for s, want := range map[string]time.Time{
		"2026-01-24T22:17:02Z": at, "2026-01-24t22:17:02z": at, "2026-01-24T22:17:02": at, "2026-01-24 22:17:02": at, "2026-01-24 22:17:02Z": at,
		"2026-01-24T23:17:02+01:00": at, "2026-01-24T23:17:02 01:00": at, "2026-01-24T14:17:02-08:00": at,
		"2026-01-24T22:17:02.3601426Z": at.Add(360142600), "2026-01-24T22:17Z": at.Truncate(time.Minute), "2026-01-24T22:17": at.Truncate(time.Minute),
		"2026-01-24": day, "2026-01-24Z": day,
	} {
		if got, ok := timestamp(s); !ok || !got.Equal(want) {
			t.Errorf("%s: %s, %t; want %s", s, got, ok, want)
		}
	}
	for _, s := range []string{"", "now", "1769293022", "2026-01-24T22:17:02+0100", "2026-13-24", "24.01.2026", "2026-01-24T25:00:00Z", "2026-01-24T22:17:02ZZ"} {
		if got, ok := timestamp(s); ok {
			t.Errorf("%q: %s", s, got)
		}
	}
}

// FuzzFunctionArguments: no crash; what is read is there in full; an error is
// the caller's fault.
func FuzzFunctionArguments(f *testing.F) {
	f.Add("ip='10.0.0.1',timestamp=2026-01-24T22:17:02Z")
	f.Add(" IP = '10''0' , Timestamp = '' ,")
	f.Add("ip=',timestamp=")
	f.Add("timestamp=2026-01-24 22:17:02 01:00,ip=::1")
	f.Fuzz(func(t *testing.T, s string) {
		args, err := functionArguments(s, "ip", "timestamp")
		p := (*problem)(nil)
		switch {
		case err != nil:
			if !errors.As(err, &p) && cordon.KindOf(err) != cordon.Invalid {
				t.Fatalf("%q: %v", s, err)
			}
		case len(args) != 2 || args["ip"] == "" || !strings.Contains(strings.ReplaceAll(s, "''", "'"), args["ip"]):
			t.Fatalf("%q: %q", s, args)
		default:
			timestamp(args["timestamp"])
		}
	})
}
