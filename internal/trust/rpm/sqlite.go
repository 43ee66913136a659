package rpm

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
	_ "modernc.org/sqlite" // registers the driver "sqlite"
)

// eachSQLite yields the headers of rpmdb.sqlite. One transaction sees one state
// of the database, whatever rpm does meanwhile.
func eachSQLite(path string, see func([]byte) error) (err error) {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	err = magicAt(f, []byte("SQLite format 3\x00"))
	_ = f.Close() // only read
	if err != nil {
		return err
	}
	// mode=ro: the database is rpm's to repair and to checkpoint.
	options := "mode=ro&_pragma=busy_timeout(2000)&_pragma=cache_size(-512)"
	if readOnly(filepath.Dir(path)) {
		// SQLite wants to make its shared-memory file beside the database, even to read.
		options += "&immutable=1"
	}
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", OmitHost: true, Path: path, RawQuery: options}).String())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	ctx := context.Background()
	tx, err := db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // only read
	// rpm's index of names has its own pages: a page of headers that is damaged so
	// that SQLite sees fewer of them shows here.
	var names, n int
	if err := tx.QueryRowContext(ctx, "SELECT count(DISTINCT hnum) FROM Name").Scan(&names); err != nil {
		return err
	}
	if err := eachRow(ctx, tx, func(header []byte) error { n++; return see(header) }); err != nil {
		return err
	}
	if n != names {
		return fmt.Errorf("has %d package headers, but names for %d", n, names)
	}
	return nil
}

func eachRow(ctx context.Context, tx *sql.Tx, see func([]byte) error) (err error) {
	// length() reads no content, so that an absurd header is not loaded.
	rows, err := tx.QueryContext(ctx, "SELECT hnum, CASE WHEN length(blob) <= ? THEN blob END FROM Packages ORDER BY hnum", maxHeader)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var hnum int64
		var header sql.RawBytes
		if err := rows.Scan(&hnum, &header); err != nil {
			return err
		}
		if len(header) == 0 {
			return fmt.Errorf("the header of package number %d is empty or too large", hnum)
		}
		if err := see(header); err != nil {
			return err
		}
	}
	return rows.Err()
}

func readOnly(dir string) bool {
	var st unix.Statfs_t
	return unix.Statfs(dir, &st) == nil && st.Flags&unix.ST_RDONLY != 0
}
