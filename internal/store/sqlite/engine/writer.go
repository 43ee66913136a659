package engine

import (
	"context"
	"database/sql/driver"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/cordon-project/cordon"
)

// maxGroup is the most jobs that share one transaction. It bounds how long the
// first of them waits for the last.
const maxGroup = 256

// writer owns the connection that writes. Its one goroutine, run, takes what
// waits in jobs, runs it in one transaction, commits, and then answers.
type writer struct {
	conn    *Conn
	jobs    chan *job
	stopped chan struct{} // closed when run has returned

	mu     sync.RWMutex // guards closed, and sending on jobs against its close
	closed bool
}

// job is a piece of work that is all or nothing.
type job struct {
	work  func(*Tx) error // may run more than once; the last run counts
	taken atomic.Bool     // set by whoever is first: the writer to run it, or its caller to give it up
	err   error           // of the last run; the writer's
	done  chan error      // gets the answer
}

// Tx is the transaction of a group, as one of its jobs sees it.
type Tx struct {
	conn *Conn
	// dirty is whether only a rollback can undo the job: it has written, or it met
	// an error upon which SQLite may have ended the transaction by itself.
	dirty bool
}

// Each is [Conn.Each] in the transaction.
func (t *Tx) Each(sql string, f func(*Row), args ...any) error {
	err := t.conn.Each(sql, f, args...)
	t.dirty = t.dirty || err != nil
	return err
}

// Exec executes a statement, which it keeps prepared as Each does, and returns
// how many rows it changed, and the rowid of the last one that it inserted.
func (t *Tx) Exec(sql string, args ...any) (changed, rowid int64, err error) {
	var res driver.Result
	if res, err = t.conn.exec(sql, args...); err != nil {
		t.dirty = true
		return 0, 0, err
	}
	if changed, err = res.RowsAffected(); err == nil {
		rowid, err = res.LastInsertId()
	}
	t.dirty = t.dirty || changed > 0
	return changed, rowid, err
}

func startWriter(c *Conn) *writer {
	w := &writer{conn: c, jobs: make(chan *job, maxGroup), stopped: make(chan struct{})}
	go w.run()
	return w
}

// do is [DB.Write].
func (w *writer) do(ctx context.Context, work func(*Tx) error) error {
	j := &job{work: work, done: make(chan error, 1)}
	if err := w.submit(ctx, j); err != nil {
		return err
	}
	select {
	case err := <-j.done:
		return err
	case <-ctx.Done():
		if j.taken.CompareAndSwap(false, true) {
			return failure(ctx.Err())
		}
		return <-j.done
	}
}

func (w *writer) submit(ctx context.Context, j *job) error {
	w.mu.RLock()
	defer w.mu.RUnlock()
	if w.closed {
		return errClosed
	}
	select {
	case w.jobs <- j:
		return nil
	case <-ctx.Done():
		return failure(ctx.Err())
	}
}

// stop lets the writer finish what was submitted, and waits for it. It is called once.
func (w *writer) stop() {
	w.mu.Lock()
	w.closed = true
	close(w.jobs)
	w.mu.Unlock()
	<-w.stopped
}

func (w *writer) run() {
	defer close(w.stopped)
	group := make([]*job, 0, maxGroup)
	for first := range w.jobs {
		group = add(group[:0], first)
	waiting:
		for len(group) < maxGroup {
			select {
			case j, ok := <-w.jobs:
				if !ok {
					break waiting
				}
				group = add(group, j)
			default:
				break waiting
			}
		}
		w.settle(group)
	}
}

func add(group []*job, j *job) []*job {
	if j.taken.CompareAndSwap(false, true) {
		return append(group, j)
	}
	return group
}

// settle runs a group of jobs and answers them. A job that fails after it has
// written is undone by undoing all, and the others run again without it. That is
// rare: jobs look before they write. It spares all others a savepoint each.
func (w *writer) settle(group []*job) {
	for len(group) > 0 {
		culprit, err := w.try(group)
		if culprit < 0 {
			for _, j := range group {
				if err != nil {
					j.err = err // of decisions too: they saw what is not there now
				}
				j.done <- j.err
			}
			return
		}
		group[culprit].done <- err
		group = slices.Delete(group, culprit, culprit+1)
	}
}

// try runs the group in one transaction. It returns -1 and the error of the
// transaction, or the index of a job that must go and the job's error.
func (w *writer) try(group []*job) (culprit int, err error) {
	if _, err := w.conn.exec("BEGIN IMMEDIATE"); err != nil {
		w.rollback()
		return -1, err
	}
	for i, j := range group {
		t := &Tx{conn: w.conn}
		if j.err = j.run(t); j.err != nil && t.dirty {
			w.rollback()
			return i, j.err
		}
	}
	if _, err := w.conn.exec("COMMIT"); err != nil {
		w.rollback()
		return -1, err
	}
	return -1, nil
}

// rollback ends the transaction, if SQLite has not done so by itself because of
// the error that is being handled.
func (w *writer) rollback() { _, _ = w.conn.exec("ROLLBACK") }

func (j *job) run(t *Tx) (err error) {
	defer func() {
		if p := recover(); p != nil {
			t.dirty = true // it may have been anywhere
			err = &cordon.Error{Kind: cordon.Internal, Message: "A change of the database failed", Err: fmt.Errorf("panic: %v\n%s", p, debug.Stack())}
		}
	}()
	return j.work(t)
}
