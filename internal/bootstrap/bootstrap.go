// Package bootstrap gives a new server what it needs to be used: a tenant, an
// application with all permissions, an enrolment token, and the file that tells
// them to the person who started it.
//
// The file bootstrap.json is the only place where the secrets are in plain; the
// store has their hashes. It is written before the store is, so that a crash
// in between costs nothing: the next start goes on from the file. Whoever has
// put the secrets away may delete it; it is not made again.
package bootstrap

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/durable"
)

// FileName is the name of the file in the server's data directory.
const FileName = "bootstrap.json"

// File is the content of bootstrap.json, which is also a profile for the
// command line.
type File struct {
	URL             string `json:"url"`
	CAFile          string `json:"caFile"`
	TenantID        string `json:"tenantId"`
	ClientID        string `json:"clientId"`
	ClientSecret    string `json:"clientSecret"`
	EnrollmentToken string `json:"enrollmentToken"`
}

// IsNew reports whether the store belongs to a server that was never set up.
func IsNew(ctx context.Context, s cordon.Store) (bool, error) {
	_, err := s.Setting(ctx, cordon.TenantSetting)
	if cordon.KindOf(err) == cordon.NotFound {
		return true, nil
	}
	return false, err
}

// Tenant returns the server's tenant id.
func Tenant(ctx context.Context, s cordon.Store) (string, error) {
	id, err := s.Setting(ctx, cordon.TenantSetting)
	return string(id), err
}

// Create sets up a new server and writes dir/bootstrap.json.
func Create(ctx context.Context, dir string, s cordon.Store, newID func() string, now time.Time) error {
	path := filepath.Join(dir, FileName)
	var f File
	data, err := os.ReadFile(path)
	switch {
	case err == nil: // a first start was interrupted: go on with its secrets
		if err := json.Unmarshal(data, &f); err != nil {
			return fmt.Errorf("read %s, which an interrupted first start left behind (delete it to begin anew): %w", path, err)
		}
	case errors.Is(err, fs.ErrNotExist):
		f = File{CAFile: filepath.Join(dir, "ca.crt"), TenantID: newID(), ClientID: newID(), ClientSecret: NewSecret(), EnrollmentToken: NewSecret()}
		if err := write(path, f); err != nil {
			return err
		}
	default:
		return err
	}
	err = s.PutApplication(ctx, cordon.Application{
		ClientID: f.ClientID, ObjectID: newID(), DisplayName: "Cordon bootstrap",
		Secrets:     []cordon.Secret{cordon.NewSecret(newID(), f.ClientSecret, now, nil)},
		Permissions: cordon.AllPermissions(), Created: now,
	})
	if err != nil {
		return fmt.Errorf("store first application: %w", err)
	}
	token := sha256.Sum256([]byte(f.EnrollmentToken))
	// The tenant last: it is what says that all is there.
	return s.PutSettings(ctx, map[string][]byte{cordon.EnrollmentTokenSetting: token[:], cordon.TenantSetting: []byte(f.TenantID)})
}

// SetURL writes the server's URL into dir/bootstrap.json, if that is there and
// says something else.
func SetURL(dir, url string) error {
	path := filepath.Join(dir, FileName)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var f File
	if err := json.Unmarshal(data, &f); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	if f.URL == url {
		return nil
	}
	f.URL = url
	return write(path, f)
}

// NewSecret makes a secret of 256 random bits or more (twice 128, see
// crypto/rand), so that a plain hash of it is safe to store.
func NewSecret() string { return rand.Text() + rand.Text() }

func write(path string, f File) error {
	data, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return err
	}
	if err := durable.Replace(path, append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
