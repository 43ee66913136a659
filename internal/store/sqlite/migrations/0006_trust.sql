-- What administrators have machines trust: by the file's SHA-256, for a scope.
CREATE TABLE trust (
    scope   TEXT    NOT NULL,
    digest  BLOB    NOT NULL CHECK (length(digest) = 32),
    comment TEXT    NOT NULL,
    actor   TEXT    NOT NULL,
    at      INTEGER NOT NULL,
    PRIMARY KEY (scope, digest)
) STRICT, WITHOUT ROWID;

-- How often the rules have changed.
CREATE TABLE trust_revision (
    only     INTEGER NOT NULL PRIMARY KEY CHECK (only = 1),
    revision INTEGER NOT NULL
) STRICT;

INSERT INTO trust_revision VALUES (1, 0);

-- The first application may do everything; now that includes this.
UPDATE applications SET permissions = json_insert(permissions, '$[#]', 'Cordon.Administer')
WHERE created = (SELECT min(created) FROM applications) AND permissions LIKE '%"Application.ReadWrite.All"%';
