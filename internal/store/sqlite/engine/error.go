package engine

import (
	"context"
	"errors"

	modernc "modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/cordon-project/cordon"
)

var errClosed = &cordon.Error{Kind: cordon.Unavailable, Message: "The server is stopping"}

// failure makes err one that [cordon.Store] allows. An error of the domain stays
// what it is.
func failure(err error) error {
	if err == nil || errors.As(err, new(*cordon.Error)) {
		return err
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return &cordon.Error{Kind: cordon.Unavailable, Message: "The request was given up before the database had answered", Err: err}
	}
	e := &cordon.Error{Kind: cordon.Internal, Message: "The database failed", Err: err}
	var engine *modernc.Error
	if errors.As(err, &engine) {
		switch engine.Code() & 0xff { // the rest of an extended code says where
		case sqlite3.SQLITE_FULL:
			e.Kind, e.Message = cordon.Unavailable, "The database cannot be written because the server's disk is full"
		case sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOMEM:
			e.Kind, e.Message = cordon.Unavailable, "The database cannot be read or written right now"
		case sqlite3.SQLITE_NOTADB:
			e.Kind, e.Message = cordon.Invalid, "The file is not a database"
		}
	}
	return e
}
