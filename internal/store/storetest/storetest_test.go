package storetest_test

import (
	"testing"
	"time"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/store/storetest"
	"github.com/cordon-project/cordon/internal/testkit/memstore"
)

// TestMemory holds that the suite asks for nothing that the interface does not
// promise, and that the store of other tests keeps the promises.
func TestMemory(t *testing.T) {
	storetest.Run(t, openMemory)
}

func TestMemoryQueries(t *testing.T) { storetest.RunQueries(t, openMemory) }

func TestMemoryPages(t *testing.T) { storetest.RunPages(t, openMemory) }

func openMemory(*testing.T) cordon.Store {
	return &memstore.Store{Now: func() time.Time { return storetest.Noon }}
}
