package keys

import (
	"crypto/rsa"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	life    = 10 * 24 * time.Hour
	outlive = time.Hour
)

// openTokens opens the keys in dir at a time that the test changes.
func openTokens(t *testing.T, dir string, at *time.Time) *Tokens {
	t.Helper()
	tokens, err := OpenTokens(TokenConfig{Dir: dir, Life: life, Outlive: outlive, Now: func() time.Time { return *at }, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return tokens
}

// newTokens is a directory with one key, which is made at the tests' time.
func newTokens(t *testing.T) (tokens *Tokens, dir string, at *time.Time) {
	t.Helper()
	dir, at = t.TempDir(), new(now)
	create(t, dir)
	if err := os.Chtimes(filepath.Join(dir, tokenFile), now, now); err != nil {
		t.Fatal(err)
	}
	return openTokens(t, dir, at), dir, at
}

func tend(t *testing.T, tokens *Tokens) []*rsa.PrivateKey {
	t.Helper()
	if err := tokens.Tend(); err != nil {
		t.Fatal(err)
	}
	return tokens.Keys()
}

func tokenNames(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "token") {
			names = append(names, e.Name())
			if info, err := e.Info(); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("%s has mode %v, %v", e.Name(), info.Mode(), err)
			}
		}
	}
	return names
}

func same(a, b []*rsa.PrivateKey) bool {
	return slices.EqualFunc(a, b, func(a, b *rsa.PrivateKey) bool { return a.Equal(b) })
}

// TestTokenKeysByAge takes keys through their lives. At each step a server that
// starts then sees the same.
func TestTokenKeysByAge(t *testing.T) {
	tokens, dir, at := newTokens(t)
	first := tokens.Keys()[0]
	var second *rsa.PrivateKey
	for _, step := range []struct {
		name  string
		after time.Duration
		want  func() []*rsa.PrivateKey
	}{
		{"new", 0, func() []*rsa.PrivateKey { return []*rsa.PrivateKey{first} }},
		{"just before the next is published", life - PublishAhead - time.Second, func() []*rsa.PrivateKey { return []*rsa.PrivateKey{first} }},
		{"the next is published", life - PublishAhead, func() []*rsa.PrivateKey { second = tokens.Keys()[1]; return []*rsa.PrivateKey{first, second} }},
		{"just before it signs", life - time.Second, func() []*rsa.PrivateKey { return []*rsa.PrivateKey{first, second} }},
		{"it signs", life, func() []*rsa.PrivateKey { return []*rsa.PrivateKey{second, first} }},
		{"the last token of the first", life + outlive - time.Second, func() []*rsa.PrivateKey { return []*rsa.PrivateKey{second, first} }},
		{"the first is gone", life + outlive, func() []*rsa.PrivateKey { return []*rsa.PrivateKey{second} }},
	} {
		*at = now.Add(step.after)
		early := tokens.Keys() // what the clock alone does
		got := tend(t, tokens)
		if want := step.want(); !same(got, want) {
			t.Errorf("%s: %d keys, the first signs: %v", step.name, len(got), got[0].Equal(first))
		}
		if !early[0].Equal(got[0]) {
			t.Errorf("%s: which key signs waited for Tend", step.name)
		}
		if again := tend(t, tokens); !same(again, got) {
			t.Errorf("%s: another look changed the keys", step.name)
		}
		if !same(openTokens(t, dir, at).Keys(), got) {
			t.Errorf("%s: a server that starts now has other keys", step.name)
		}
	}
	if names := tokenNames(t, dir); !slices.Equal(names, []string{now.Add(life).Format(tokenName)}) {
		t.Errorf("files: %v", names)
	}
}

// A server that was off for long publishes the next key before it signs all the same.
func TestTokenKeysAfterAPause(t *testing.T) {
	tokens, _, at := newTokens(t)
	first := tokens.Keys()[0]
	*at = now.Add(100 * life)
	if got := tend(t, tokens); len(got) != 2 || !got[0].Equal(first) {
		t.Fatalf("%d keys", len(got))
	}
	*at = at.Add(PublishAhead - time.Second)
	if !tokens.Keys()[0].Equal(first) {
		t.Error("the new key signs too early")
	}
	*at = at.Add(time.Second)
	if tokens.Keys()[0].Equal(first) {
		t.Error("the new key does not sign")
	}
	// A clock that was set back finds a key that signs.
	*at = now.Add(-time.Hour)
	if got := tokens.Keys(); !got[0].Equal(first) || len(got) != 2 {
		t.Errorf("%d keys", len(got))
	}
}

func TestRotateTokenKey(t *testing.T) {
	tokens, dir, at := newTokens(t)
	first := tokens.Keys()[0]
	begins := now.Add(PublishAhead)
	if err := os.Chtimes(filepath.Join(dir, tokenFile), now, now.Add(time.Millisecond)); err != nil { // made a moment ago, it does not wait for its time
		t.Fatal(err)
	}
	for range 2 { // the second time one is waiting already
		got, err := RotateTokenKey(dir, begins, now, false)
		if err != nil || !got.Equal(now.Add(PublishAhead)) {
			t.Fatalf("%v, %v", got, err)
		}
		begins = begins.Add(time.Hour)
	}
	keys := tend(t, tokens)
	if len(keys) != 2 || !keys[0].Equal(first) {
		t.Fatalf("%d keys", len(keys))
	}
	*at = now.Add(PublishAhead)
	if got := tend(t, tokens); !same(got, []*rsa.PrivateKey{keys[1], first}) {
		t.Error("the key does not sign at its time")
	}

	// At once: nothing of the old ones stays, also not in a server that runs.
	if _, err := RotateTokenKey(dir, *at, *at, true); err != nil {
		t.Fatal(err)
	}
	if got := tend(t, tokens); len(got) != 1 || got[0].Equal(keys[1]) && len(tokenNames(t, dir)) != 1 {
		t.Errorf("%d keys, %v", len(got), tokenNames(t, dir))
	}
	// Where all are lost it makes one.
	for _, name := range tokenNames(t, dir) {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := RotateTokenKey(dir, *at, *at, false); err == nil {
		t.Error("a directory without token keys was taken for that of a server")
	}
	if _, err := RotateTokenKey(dir, *at, *at, true); err != nil || len(openTokens(t, dir, at).Keys()) != 1 {
		t.Error(err)
	}
}

// What cannot be read changes nothing, and files of others are left alone.
func TestTokenKeysSurviveTrouble(t *testing.T) {
	tokens, dir, at := newTokens(t)
	before := tokens.Keys()
	mine := filepath.Join(dir, "token-old.key")
	if err := os.WriteFile(mine, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if !same(tend(t, tokens), before) {
		t.Error("a file of somebody else was taken for a key")
	}
	bad := filepath.Join(dir, now.Format(tokenName))
	if err := os.WriteFile(bad, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := tokens.Tend(); err == nil || !strings.Contains(err.Error(), bad) {
		t.Errorf("a broken key: %v", err)
	}
	if !same(tokens.Keys(), before) {
		t.Error("a broken key changed the keys")
	}
	if err := os.Remove(bad); err != nil {
		t.Fatal(err)
	}

	// A restored token.key is not younger than the keys that came after it.
	*at = now.Add(life - PublishAhead)
	tend(t, tokens)
	*at = now.Add(life)
	after := tokens.Keys()
	if err := os.Chtimes(filepath.Join(dir, tokenFile), *at, *at); err != nil {
		t.Fatal(err)
	}
	if !same(tend(t, tokens), after) || !same(openTokens(t, dir, at).Keys(), after) {
		t.Error("the first key signs again")
	}
}

// TestRootGivesKeysToTheServer: a key that the server cannot read is of no use to it.
func TestRootGivesKeysToTheServer(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	_, dir, _ := newTokens(t)
	const server = 4711
	if err := os.Chown(dir, server, server); err != nil {
		t.Fatal(err)
	}
	if _, err := RotateTokenKey(dir, now, now, true); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(dir, tokenNames(t, dir)[0]))
	if err != nil || info.Sys().(*syscall.Stat_t).Uid != server {
		t.Errorf("%v, %v", info, err)
	}
}
