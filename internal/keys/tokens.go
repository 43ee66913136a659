package keys

import (
	"cmp"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// PublishAhead is how long a key is published before it signs, so that whoever
// verifies tokens and keeps the key set for a day knows it by then. For keys that
// live for less than two days it is half their life.
const PublishAhead = 24 * time.Hour

// TokenConfig says how token keys are kept. Every field is required.
type TokenConfig struct {
	Dir     string
	Life    time.Duration // how long a key signs; longer than Outlive
	Outlive time.Duration // how long a token is good after it was signed, with some room
	Now     func() time.Time
	Log     *slog.Logger
}

// Tokens are the keys that sign access tokens, one after the other. Everything
// about them follows from the files and the clock, so that it is the same after
// a restart: a file's name says when its key begins to sign; token.key is the
// first one, and as old as its file. A key signs until the next one begins, and is kept
// until the last token that it signed has expired. Tokens is safe for concurrent
// use.
type Tokens struct {
	TokenConfig

	mu   sync.Mutex
	keys []tokenKey // in the order in which they begin; never empty
}

type tokenKey struct {
	name   string // of the file
	begins time.Time
	key    *rsa.PrivateKey
}

const tokenName = "token-20060102T150405Z.key"

// OpenTokens reads the keys. It is an error if there is none, or one that cannot
// be read.
func OpenTokens(c TokenConfig) (*Tokens, error) {
	t := &Tokens{TokenConfig: c}
	if err := t.read(); err != nil {
		return nil, err
	}
	return t, nil
}

// Keys returns the keys at this time: the first signs, all verify.
func (t *Tokens) Keys() []*rsa.PrivateKey {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.Now()
	current := signing(t.keys, now)
	found := []*rsa.PrivateKey{t.keys[current].key}
	for i, k := range t.keys {
		if i != current && !t.retired(t.keys, i, now) {
			found = append(found, k.key)
		}
	}
	return found
}

// signing returns the index of the key that signs at now: the last that has
// begun. If none has, as after a clock was set back, it is the first.
func signing(keys []tokenKey, now time.Time) int {
	for i, k := range slices.Backward(keys) {
		if !k.begins.After(now) {
			return i
		}
	}
	return 0
}

// retired reports whether no token that key i signed is good any more at now.
func (t *Tokens) retired(keys []tokenKey, i int, now time.Time) bool {
	return i < signing(keys, now) && !now.Before(keys[i+1].begins.Add(t.Outlive))
}

// Tend takes over what has changed in the directory, makes the next key when it
// is time to publish it, and removes keys that have had their time. It is called
// every now and then, [TendEvery]. If it fails the keys stay as they are.
func (t *Tokens) Tend() error {
	if err := t.read(); err != nil {
		return err
	}
	t.mu.Lock()
	keys := slices.Clone(t.keys)
	t.mu.Unlock()
	now := t.Now()
	for i, k := range keys {
		if t.retired(keys, i, now) {
			if err := os.Remove(filepath.Join(t.Dir, k.name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("remove old token key: %w", err)
			}
			t.Log.Info("token key removed, its last token has expired", "file", k.name)
		}
	}
	ahead := min(PublishAhead, t.Life/2)
	last := keys[len(keys)-1].begins
	if last.After(now) || now.Before(last.Add(t.Life-ahead)) {
		return nil
	}
	begins := last.Add(t.Life)
	if soonest := now.Add(ahead); begins.Before(soonest) {
		begins = soonest
	}
	name, err := newTokenKey(t.Dir, begins)
	if err != nil {
		return err
	}
	t.Log.Info("next token key published", "file", name, "begins", begins)
	return t.read()
}

// TendEvery is how soon a running server notices what was done by
// [RotateTokenKey].
const TendEvery = lookAgain

// read reads the files that are new, and forgets those that are gone.
func (t *Tokens) read() error {
	t.mu.Lock()
	known := make(map[string]tokenKey)
	for _, k := range t.keys {
		known[k.name] = k
	}
	t.mu.Unlock()
	entries, err := tokenFiles(t.Dir)
	if err != nil {
		return err
	}
	for i, e := range entries {
		if k, ok := known[e.name]; ok && k.begins.Equal(e.begins) {
			entries[i] = k
			continue
		}
		if entries[i].key, err = loadKey[*rsa.PrivateKey](t.Dir, e.name); err != nil {
			return err
		}
	}
	t.mu.Lock()
	t.keys = entries
	t.mu.Unlock()
	return nil
}

// tokenFiles lists the token keys in dir, without the keys.
func tokenFiles(dir string) ([]tokenKey, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read token keys: %w", err)
	}
	var found []tokenKey
	for _, e := range entries {
		k := tokenKey{name: e.Name()}
		if k.name == tokenFile {
			info, err := e.Info()
			if err != nil {
				return nil, fmt.Errorf("read token keys: %w", err)
			}
			k.begins = info.ModTime()
		} else if k.begins, err = time.Parse(tokenName, k.name); err != nil {
			continue // not ours
		}
		found = append(found, k)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("read key material (restore it from a backup): %w",
			&fs.PathError{Op: "open", Path: filepath.Join(dir, tokenFile), Err: fs.ErrNotExist})
	}
	if i := slices.IndexFunc(found, func(k tokenKey) bool { return k.name == tokenFile }); i >= 0 && len(found) > 1 {
		found[i].begins = time.Time{} // it may have been restored from a backup just now
	}
	slices.SortFunc(found, func(a, b tokenKey) int {
		return cmp.Or(a.begins.Compare(b.begins), strings.Compare(a.name, b.name))
	})
	return found, nil
}

// newTokenKey makes a key that signs from begins on.
func newTokenKey(dir string, begins time.Time) (name string, err error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return "", fmt.Errorf("make token key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", fmt.Errorf("encode token key: %w", err)
	}
	begins = begins.Add(time.Second - 1) // cut to the second it is never before it was asked for
	for {
		name = begins.UTC().Format(tokenName)
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			break
		}
		begins = begins.Add(time.Second) // a name never means another key than before
	}
	return name, writePEM(filepath.Join(dir, name), "PRIVATE KEY", der, 0o600)
}

// RotateTokenKey makes a new token key in the directory of a server, whether that
// runs or not. It signs from begins on. With drop all other keys are removed,
// and every token that they have signed ends. If a key waits already for its time to begin
// that one is left to it, unless drop, and its time is returned.
func RotateTokenKey(dir string, begins time.Time, now time.Time, drop bool) (time.Time, error) {
	others, err := tokenFiles(dir)
	if err != nil && !(drop && errors.Is(err, fs.ErrNotExist)) {
		return time.Time{}, err
	}
	if n := len(others); n > 0 && !drop && others[n-1].name != tokenFile && others[n-1].begins.After(now) {
		return others[n-1].begins, nil
	}
	name, err := newTokenKey(dir, begins)
	if err != nil {
		return time.Time{}, err
	}
	if err := giveToOwner(dir, name); err != nil {
		return time.Time{}, err
	}
	if drop {
		for _, k := range others {
			if err := os.Remove(filepath.Join(dir, k.name)); err != nil {
				return time.Time{}, fmt.Errorf("remove token key: %w", err)
			}
		}
	}
	return begins, nil
}

// giveToOwner gives a file that root has made in dir to whom dir belongs: the
// server has to read it, and seldom runs as root.
func giveToOwner(dir, name string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("give %s to the server: %w", name, err)
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok || os.Geteuid() != 0 {
		return nil
	}
	if err := os.Chown(filepath.Join(dir, name), int(owner.Uid), int(owner.Gid)); err != nil {
		return fmt.Errorf("give %s to the server: %w", name, err)
	}
	return nil
}
