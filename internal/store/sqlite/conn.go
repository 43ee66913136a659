package sqlite

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

// conn is one connection to the database, used by one goroutine at a time. It
// speaks to the driver directly: what package database/sql does around a
// statement (pooling, conversions, a lock or two) takes as long as the statement.
type conn struct {
	driver.Conn
	prepared map[string]statement
	args     []driver.NamedValue
}

type statement interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
}

// connect opens the file at path, an absolute path, which must be there.
func connect(path string, pragmas ...string) (*conn, error) {
	name := url.URL{Scheme: "file", OmitHost: true, Path: path, RawQuery: "mode=rw"}
	dc, err := new(modernc.Driver).Open(name.String())
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: dc, prepared: make(map[string]statement)}
	for _, p := range pragmas {
		if err := c.script("PRAGMA " + p); err != nil {
			return nil, errors.Join(fmt.Errorf("set %s: %w", p, err), c.Close())
		}
	}
	return c, nil
}

// Close closes the connection and all its statements.
func (c *conn) Close() error {
	var errs []error
	for _, s := range c.prepared {
		errs = append(errs, s.Close())
	}
	return errors.Join(append(errs, c.Conn.Close())...)
}

// script executes any number of statements that take no arguments.
func (c *conn) script(sql string) error {
	_, err := c.Conn.(driver.ExecerContext).ExecContext(context.Background(), sql, nil)
	return err
}

// prepare returns the statement for sql, which it keeps: sql must be one of a
// limited number of texts.
func (c *conn) prepare(sql string) (statement, error) {
	if s, ok := c.prepared[sql]; ok {
		return s, nil
	}
	s, err := c.Conn.Prepare(sql)
	if err != nil {
		return nil, fmt.Errorf("prepare %s: %w", sql, err)
	}
	c.prepared[sql] = s.(statement)
	return c.prepared[sql], nil
}

// exec executes a statement that prepare may keep. Its error, as that of each
// and eachOnce, is one that [cordon.Store] allows.
func (c *conn) exec(sql string, args ...any) (driver.Result, error) {
	s, err := c.prepare(sql)
	if err != nil {
		return nil, failure(err)
	}
	res, err := s.ExecContext(context.Background(), c.named(args))
	return res, failure(err)
}

// each calls f with every row of the answer to a query that prepare may keep.
// f must not panic, and must not use the same query.
func (c *conn) each(sql string, f func(*row), args ...any) error {
	s, err := c.prepare(sql)
	if err != nil {
		return failure(err)
	}
	return c.run(context.Background(), s, f, args)
}

// eachOnce is each for a query that is not kept and may take long. It ends when
// ctx does, at the latest with the next row.
func (c *conn) eachOnce(ctx context.Context, sql string, f func(*row), args ...any) (err error) {
	s, err := c.Conn.Prepare(sql)
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

func (c *conn) run(ctx context.Context, s statement, f func(*row), args []any) (err error) {
	rows, err := s.QueryContext(ctx, c.named(args))
	if err != nil {
		return failure(err)
	}
	defer func() {
		if e := rows.Close(); err == nil {
			err = failure(e)
		}
	}()
	r := row{values: make([]driver.Value, len(rows.Columns()))}
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

func (c *conn) named(args []any) []driver.NamedValue {
	c.args = c.args[:0]
	for i, a := range args {
		c.args = append(c.args, driver.NamedValue{Ordinal: i + 1, Value: a})
	}
	return c.args
}

// row is a row of an answer, taken column by column. STRICT tables see to it
// that a column holds what its reader expects; NULL is read as the zero value.
type row struct {
	values []driver.Value
	next   int
	err    error // of document
}

func (r *row) value() driver.Value {
	r.next++
	return r.values[r.next-1]
}

func (r *row) text() string {
	s, _ := r.value().(string)
	return s
}

func (r *row) number() int64 {
	n, _ := r.value().(int64)
	return n
}

func (r *row) blob() []byte {
	b, _ := r.value().([]byte)
	return b
}

// document reads JSON into v, which is one of the domain's own types.
func (r *row) document(v any) {
	if err := json.Unmarshal([]byte(r.text()), v); err != nil {
		r.err = fmt.Errorf("decode %T: %w", v, err)
	}
}

func (r *row) time() time.Time { return timeOf(r.number()) }

// timeOrNil returns nil for NULL.
func (r *row) timeOrNil() *time.Time {
	n, ok := r.value().(int64)
	if !ok {
		return nil
	}
	t := timeOf(n)
	return &t
}

const ticksPerSecond = int64(time.Second / cordon.Tick)

// timeOf is the inverse of [cordon.Ticks].
func timeOf(ticks int64) time.Time {
	sec, rest := ticks/ticksPerSecond, ticks%ticksPerSecond
	return time.Unix(sec, rest*int64(cordon.Tick)).UTC()
}

// stored returns t as the database gives it back.
func stored(t time.Time) time.Time { return timeOf(cordon.Ticks(t)) }

// orNull returns NULL for the empty string.
func orNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}
