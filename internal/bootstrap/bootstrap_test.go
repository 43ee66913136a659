package bootstrap

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/testkit/memstore"
)

func read(t *testing.T, dir string) File {
	t.Helper()
	path := filepath.Join(dir, FileName)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var f File
	if err := json.Unmarshal(data, &f); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	return f
}

// check sees that the store knows what the file tells, and only its hashes.
func check(t *testing.T, s cordon.Store, f File) {
	t.Helper()
	if isNew, err := IsNew(t.Context(), s); err != nil || isNew {
		t.Errorf("still new: %v, %v", isNew, err)
	}
	if id, err := Tenant(t.Context(), s); err != nil || id != f.TenantID {
		t.Errorf("tenant %q, %v", id, err)
	}
	app, err := s.Application(t.Context(), f.ClientID)
	if err != nil || len(app.Secrets) != 1 || app.Secrets[0].Hash != sha256.Sum256([]byte(f.ClientSecret)) || len(app.Permissions) != len(cordon.AllPermissions()) {
		t.Errorf("application %+v, %v", app, err)
	}
	token := sha256.Sum256([]byte(f.EnrollmentToken))
	if got, err := s.Setting(t.Context(), cordon.EnrollmentTokenSetting); err != nil || string(got) != string(token[:]) {
		t.Errorf("token %x, %v", got, err)
	}
}

func TestCreate(t *testing.T) {
	dir, s := t.TempDir(), &memstore.Store{}
	if isNew, err := IsNew(t.Context(), s); err != nil || !isNew {
		t.Fatalf("%v, %v", isNew, err)
	}
	if err := Create(t.Context(), dir, s, uuid.NewString, time.Now()); err != nil {
		t.Fatal(err)
	}
	f := read(t, dir)
	if f.ClientSecret == f.EnrollmentToken || len(f.ClientSecret) < 26 {
		t.Errorf("secrets %q, %q", f.ClientSecret, f.EnrollmentToken)
	}
	check(t, s, f)
}

// A crash at any step of the first start costs nothing: the next one goes on
// with the same secrets.
func TestInterruptedCreate(t *testing.T) {
	for _, step := range []string{"PutApplication", "PutSettings"} {
		dir, crash := t.TempDir(), errors.New("crash")
		s := &memstore.Store{Hook: func(method string, done bool) error {
			if method == step && !done {
				return crash
			}
			return nil
		}}
		if err := Create(t.Context(), dir, s, uuid.NewString, time.Now()); !errors.Is(err, crash) {
			t.Fatalf("%s: %v", step, err)
		}
		told := read(t, dir)
		s.Hook = nil
		if err := Create(t.Context(), dir, s, uuid.NewString, time.Now()); err != nil {
			t.Fatal(err)
		}
		if f := read(t, dir); f != told {
			t.Errorf("%s: the secrets have changed", step)
		}
		check(t, s, told)
	}
}

func TestSetURL(t *testing.T) {
	dir := t.TempDir()
	if err := SetURL(dir, "https://localhost:1"); err != nil {
		t.Errorf("without a file: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, FileName)); !errors.Is(err, os.ErrNotExist) {
		t.Error("a deleted file was made again")
	}
	if err := Create(t.Context(), dir, &memstore.Store{}, uuid.NewString, time.Now()); err != nil {
		t.Fatal(err)
	}
	before := read(t, dir)
	if err := SetURL(dir, "https://localhost:2"); err != nil {
		t.Fatal(err)
	}
	after := read(t, dir)
	if before.URL = "https://localhost:2"; after != before {
		t.Errorf("got %+v", after)
	}
	if err := os.WriteFile(filepath.Join(dir, FileName), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := SetURL(dir, "https://localhost:3"); err == nil {
		t.Error("a broken file was taken")
	}
}
