package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Wrong use is told in a sentence, with the harness's own status, and boots nothing.
func TestWrongUse(t *testing.T) {
	file := t.TempDir()
	for _, test := range []struct {
		args []string
		want string
	}{
		{nil, "say what to do"},
		{[]string{"walk"}, `no verb "walk"`},
		{[]string{"run"}, "no script"},
		{[]string{"run", "--kernel", "2.4", "--", "true"}, `no kernel "2.4": take one of 5.10, 6.1, 6.12, newest`},
		{[]string{"run", "--fast", "--", "true"}, "not defined: -fast"},
		{[]string{"run", "--memory", "16", "--", "true"}, "512 to 65536 MiB"},
		{[]string{"run", "--memory", "much", "--", "true"}, `invalid value "much"`},
		{[]string{"run", "--timeout", "-1s", "--", "true"}, "a positive time"},
		{[]string{"run", "--copy", "/nonexistent", "--", "true"}, "no such file"},
		{[]string{"run", "--copy", "main_test.go", "--", "true"}, "no directory"},
		{[]string{"run", "--copy", "/", "--", "true"}, "name a directory in it"},
		{[]string{"run", "--copy", file, "--copy", file, "--", "true"}, "two directories are called"},
		{[]string{"build", "6.1"}, "takes flags only"},
		{[]string{"build", "--kernel", "2.4"}, `no kernel "2.4"`},
	} {
		t.Run(strings.Join(test.args, " "), func(t *testing.T) {
			var out, said bytes.Buffer
			if code := Main(t.Context(), test.args, &out, &said); code != exitHarness {
				t.Errorf("exit status %d", code)
			}
			if !strings.Contains(said.String(), test.want) || out.Len() > 0 {
				t.Errorf("said %q and printed %q, want a sentence with %q", said.String(), out.String(), test.want)
			}
		})
	}
}

func TestHelp(t *testing.T) {
	for verb, want := range map[string]string{"run": "-restricted", "build": "usage: vm run"} {
		var out, said bytes.Buffer
		if code := Main(t.Context(), []string{verb, "--help"}, &out, &said); code != 0 || !strings.Contains(said.String(), want) {
			t.Errorf("%s: exit status %d, said %q", verb, code, said.String())
		}
	}
}

// A script runs as the ordinary user, finds what was copied, and its output and
// status are those of the command.
func TestScript(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tools")
	script := filepath.Join(t.TempDir(), "try")
	for name, text := range map[string]string{
		dir + "/sub/hello": "#!/bin/sh\necho hello from $0\n",
		script:             "echo $1 $(id -un) $(uname -r) >&2\n/mnt/tools/sub/hello\nexit 7\n",
	} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(text), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	var out, said bytes.Buffer
	code := Main(t.Context(), []string{"run", "--kernel", "6.12", "--user", "--copy", dir, "--", script, "one"}, &out, &said)
	if code != 7 || out.String() != "hello from /mnt/tools/sub/hello\n" || !strings.Contains(said.String(), "\none user 6.12.") {
		t.Errorf("exit status %d, printed %q, said %s", code, out.String(), said.String())
	}
}
