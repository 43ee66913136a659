-- What machines tell of files that are not trusted: one document for each kind,
-- which bounds it.
CREATE TABLE findings (
    machine  BLOB    NOT NULL REFERENCES machines (id),
    kind     TEXT    NOT NULL,
    series   TEXT    NOT NULL,
    sequence INTEGER NOT NULL,
    document TEXT    NOT NULL, -- JSON
    PRIMARY KEY (machine, kind)
) STRICT, WITHOUT ROWID;
