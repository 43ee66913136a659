package sqlite_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/store/sqlite"
	"github.com/cordon-project/cordon/internal/store/storetest"
)

func open(t *testing.T, path string) *sqlite.Store {
	t.Helper()
	s, err := sqlite.Open(t.Context(), path, sqlite.Clock(func() time.Time { return storetest.Noon }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func openNew(t *testing.T) cordon.Store { return open(t, filepath.Join(t.TempDir(), "cordon.db")) }

func TestStore(t *testing.T) { storetest.Run(t, openNew) }

func TestQueries(t *testing.T) { storetest.RunQueries(t, openNew) }

func TestPages(t *testing.T) { storetest.RunPages(t, openNew) }
