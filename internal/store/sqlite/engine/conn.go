package engine

import (
	"cmp"
	"context"
	"database/sql/driver"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"time"

	modernc "modernc.org/sqlite"

	"github.com/cordon-project/cordon"
)

// Conn is one connection to the database, used by one goroutine at a time. It
// speaks to the driver directly: what package database/sql does around a
// statement (pooling, conversions, a lock or two) takes as long as the statement.
//
// Arguments and columns are int64, string, []byte, or nil for NULL; an empty
// []byte is taken for NULL.
type Conn struct {
	driver   driver.Conn
	prepared map[string]statement
	args     []driver.NamedValue
}

type statement interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
}

// connect opens the file at path, an absolute path, which must be there.
func connect(path string, pragmas ...string) (*Conn, error) {
	name := url.URL{Scheme: "file", OmitHost: true, Path: path, RawQuery: "mode=rw"}
	dc, err := new(modernc.Driver).Open(name.String())
	if err != nil {
		return nil, err
	}
	c := &Conn{driver: dc, prepared: make(map[string]statement)}
	for _, p := range pragmas {
		if err := c.script("PRAGMA " + p); err != nil {
			return nil, errors.Join(fmt.Errorf("set %s: %w", p, err), c.close())
		}
	}
	return c, nil
}

// close closes the connection and all its statements.
func (c *Conn) close() error {
	var errs []error
	for _, s := range c.prepared {
		errs = append(errs, s.Close())
	}
	return errors.Join(append(errs, c.driver.Close())...)
}

// script executes any number of statements that take no arguments.
func (c *Conn) script(sql string) error {
	_, err := c.driver.(driver.ExecerContext).ExecContext(context.Background(), sql, nil)
	return err
}

// prepare returns the statement for sql, which it keeps: sql must be one of a
// limited number of texts.
func (c *Conn) prepare(sql string) (statement, error) {
	if s, ok := c.prepared[sql]; ok {
		return s, nil
	}
	s, err := c.driver.Prepare(sql)
	if err != nil {
		return nil, fmt.Errorf("prepare %s: %w", sql, err)
	}
	c.prepared[sql] = s.(statement)
	return c.prepared[sql], nil
}

// exec executes a statement that prepare may keep.
func (c *Conn) exec(sql string, args ...any) (driver.Result, error) {
	s, err := c.prepare(sql)
	if err != nil {
		return nil, failure(err)
	}
	res, err := s.ExecContext(context.Background(), c.named(args))
	return res, failure(err)
}

// Each calls f with every row of the answer to a query, which it keeps prepared:
// sql must be one of a limited number of texts. f must not panic, and must not
// use the same query.
func (c *Conn) Each(sql string, f func(*Row), args ...any) error {
	s, err := c.prepare(sql)
	if err != nil {
		return failure(err)
	}
	return c.run(context.Background(), s, f, args)
}

// EachOnce is Each for a query that is not kept and may take long. It ends when
// ctx does, at the latest with the next row.
func (c *Conn) EachOnce(ctx context.Context, sql string, f func(*Row), args ...any) (err error) {
	s, err := c.driver.Prepare(sql)
	if err != nil {
		return failure(fmt.Errorf("prepare %s: %w", sql, err))
	}
	defer func() {
		if e := s.Close(); err == nil {
			err = failure(e)
		}
	}()
	return c.run(ctx, s.(statement), f, args)
}

func (c *Conn) run(ctx context.Context, s statement, f func(*Row), args []any) (err error) {
	rows, err := s.QueryContext(ctx, c.named(args))
	if err != nil {
		return failure(err)
	}
	defer func() {
		if e := rows.Close(); err == nil {
			err = failure(e)
		}
	}()
	r := Row{values: make([]driver.Value, len(rows.Columns()))}
	for {
		if err := rows.Next(r.values); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return failure(err)
		}
		r.next = 0
		f(&r)
		if err := cmp.Or(r.err, ctx.Err()); err != nil {
			return failure(err)
		}
	}
}

// Snapshot calls f, in which all queries see one state of the database.
func (c *Conn) Snapshot(f func() error) (err error) {
	if _, err := c.exec("BEGIN"); err != nil {
		return err
	}
	defer func() {
		if _, e := c.exec("ROLLBACK"); err == nil {
			err = e
		}
	}()
	return f()
}

func (c *Conn) named(args []any) []driver.NamedValue {
	c.args = c.args[:0]
	for i, a := range args {
		c.args = append(c.args, driver.NamedValue{Ordinal: i + 1, Value: a})
	}
	return c.args
}

// Row is a row of an answer, taken column by column. STRICT tables see to it
// that a column holds what its reader expects; NULL is read as the zero value.
type Row struct {
	values []driver.Value
	next   int
	err    error // of JSON
}

// Value takes the next column as it is.
func (r *Row) Value() any {
	r.next++
	return r.values[r.next-1]
}

// Text takes a TEXT.
func (r *Row) Text() string {
	s, _ := r.Value().(string)
	return s
}

// Number takes an INTEGER.
func (r *Row) Number() int64 {
	n, _ := r.Value().(int64)
	return n
}

// Blob takes a BLOB.
func (r *Row) Blob() []byte {
	b, _ := r.Value().([]byte)
	return b
}

// JSON takes a TEXT that [JSON] made, into v. What does not fit is an error of
// the query.
func (r *Row) JSON(v any) {
	if err := json.Unmarshal([]byte(r.Text()), v); err != nil {
		r.err = fmt.Errorf("decode %T: %w", v, err)
	}
}

// Time takes an INTEGER that counts [cordon.Ticks].
func (r *Row) Time() time.Time { return cordon.TimeOfTicks(r.Number()) }

// TimeOrNil is Time, and nil for NULL.
func (r *Row) TimeOrNil() *time.Time {
	n, ok := r.Value().(int64)
	if !ok {
		return nil
	}
	t := cordon.TimeOfTicks(n)
	return &t
}

// JSON returns v as a column of type TEXT has it.
func JSON(v any) (string, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return "", failure(fmt.Errorf("encode %T: %w", v, err))
	}
	return string(b), nil
}
