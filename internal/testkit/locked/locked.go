// Package locked has a buffer into which several goroutines write at once, as
// loggers and processes do, and which a test reads meanwhile.
package locked

import (
	"bytes"
	"sync"
)

// Buffer keeps what is written to it. The zero one is ready for use.
type Buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write appends p, and never fails.
func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

// String is what was written so far.
func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
