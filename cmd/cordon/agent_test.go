package main

import (
	"slices"
	"testing"
)

func TestAnonymousCode(t *testing.T) {
	for text, want := range map[string]anonymousCode{
		"allow": {}, "deny": {all: true}, "deny:rule": {classes: []string{"rule"}}, "deny:rule,policy,dpkg,rpm": {classes: []string{"rule", "policy", "dpkg", "rpm"}},
	} {
		got := anonymousCode{all: true}
		if err := got.UnmarshalText([]byte(text)); err != nil || got.all != want.all || !slices.Equal(got.classes, want.classes) {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for _, bad := range []string{"", "no", "allow:rule", "deny:", "deny:rule,", "deny:rules", "deny:rule deny"} {
		var got anonymousCode
		if err := got.UnmarshalText([]byte(bad)); err == nil {
			t.Errorf("%q was taken for %+v", bad, got)
		}
	}
}
