CREATE TABLE actions (
    seq                 INTEGER PRIMARY KEY, -- the order of creation
    id                  TEXT    NOT NULL,
    type                TEXT    NOT NULL,
    machine             BLOB    NOT NULL REFERENCES machines (id),
    dns_name            TEXT    NOT NULL,
    generation          INTEGER NOT NULL,
    requestor           TEXT    NOT NULL,
    requestor_id        TEXT    NOT NULL,
    comment             TEXT    NOT NULL,
    source              TEXT    NOT NULL,
    status              TEXT    NOT NULL,
    created             INTEGER NOT NULL,
    updated             INTEGER NOT NULL,
    expires             INTEGER NOT NULL,
    delivered           INTEGER,
    cancel_requestor_id TEXT,        -- these three are NULL together
    cancel_comment      TEXT,
    cancel_at           INTEGER,
    error_hresult       INTEGER NOT NULL,
    reason              TEXT    NOT NULL
, lease INTEGER NOT NULL DEFAULT 0) STRICT;

CREATE INDEX actions_created ON actions (created);

CREATE INDEX actions_due ON actions (expires) WHERE status IN ('Pending', 'InProgress');

CREATE INDEX actions_ended ON actions (status, created) WHERE status NOT IN ('Pending', 'InProgress');

CREATE UNIQUE INDEX actions_id ON actions (id);

CREATE UNIQUE INDEX actions_machine ON actions (machine, generation);

CREATE UNIQUE INDEX actions_open ON actions (machine, type) WHERE status IN ('Pending', 'InProgress');

CREATE INDEX actions_updated ON actions (updated);

CREATE TABLE "applications" (
    client_id    TEXT    NOT NULL PRIMARY KEY,
    object_id    TEXT    NOT NULL,
    display_name TEXT    NOT NULL,
    secrets      TEXT    NOT NULL,   -- JSON; of each secret its hash
    certificates TEXT    NOT NULL,   -- JSON
    permissions  TEXT    NOT NULL,   -- JSON
    created      INTEGER NOT NULL
) STRICT;

CREATE TABLE audit (
    seq       INTEGER PRIMARY KEY,
    at        INTEGER NOT NULL,
    kind      TEXT    NOT NULL,
    machine   TEXT    NOT NULL,
    action    INTEGER REFERENCES actions (seq),
    action_id TEXT,                  -- instead of action: the entry belongs to no change of it, and it may not exist
    actor     TEXT    NOT NULL,
    status    TEXT    NOT NULL,
    detail    TEXT    NOT NULL,
    evidence  TEXT    NOT NULL
) STRICT;

CREATE INDEX audit_action ON audit (action) WHERE action IS NOT NULL;

CREATE INDEX audit_action_id ON audit (action_id) WHERE action_id IS NOT NULL;

CREATE INDEX audit_log ON audit (at, seq, kind) WHERE action IS NULL;

CREATE TABLE device_groups (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    name    TEXT    NOT NULL,
    folded  TEXT    NOT NULL, -- the name with A to Z in lower case
    created INTEGER NOT NULL
) STRICT;

CREATE UNIQUE INDEX device_groups_folded ON device_groups (folded);

CREATE TABLE findings (
    machine  BLOB    NOT NULL REFERENCES machines (id),
    kind     TEXT    NOT NULL,
    series   TEXT    NOT NULL,
    sequence INTEGER NOT NULL,
    document TEXT    NOT NULL, -- JSON
    PRIMARY KEY (machine, kind)
) STRICT, WITHOUT ROWID;

CREATE TABLE machine_addresses (
    machine    BLOB    NOT NULL REFERENCES machines (id),
    address    TEXT    NOT NULL,
    first_seen INTEGER NOT NULL,
    last_seen  INTEGER,
    PRIMARY KEY (machine, address, first_seen)
) STRICT, WITHOUT ROWID;

CREATE INDEX machine_addresses_address ON machine_addresses (address);

CREATE TABLE machine_details (
    machine    BLOB    NOT NULL PRIMARY KEY REFERENCES machines (id),
    key        BLOB    NOT NULL,
    first_seen INTEGER NOT NULL,
    facts      TEXT    NOT NULL,     -- JSON
    observed   TEXT    NOT NULL      -- JSON
, tags TEXT NOT NULL DEFAULT '[]') STRICT;

CREATE TABLE machine_tags (
    tag     TEXT NOT NULL,
    machine BLOB NOT NULL REFERENCES machines (id),
    PRIMARY KEY (tag, machine)
) STRICT, WITHOUT ROWID;

CREATE INDEX machine_tags_machine ON machine_tags (machine);

CREATE TABLE machines (
    id          BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 20),
    device_id   TEXT,                -- these four and last_ip are NULL instead of empty
    dns_name    TEXT,
    os_platform TEXT,
    os_version  TEXT,
    last_ip     TEXT,
    last_seen   INTEGER NOT NULL,
    -- The highest generation that the machine said it is in. The highest that
    -- was issued to it is that of its newest action, so that a new action need
    -- not write this row. Whoever deletes actions has to raise this first.
    generation  INTEGER NOT NULL
, device_value TEXT NOT NULL DEFAULT 'Normal', group_id INTEGER REFERENCES device_groups (id)) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX machines_device ON machines (device_id);

CREATE INDEX machines_group ON machines (group_id) WHERE group_id IS NOT NULL;

CREATE INDEX machines_name ON machines (lower(dns_name));

CREATE TABLE settings (
    name  TEXT NOT NULL PRIMARY KEY,
    value BLOB NOT NULL
) STRICT;

CREATE TABLE sqlite_sequence(name,seq);

CREATE TABLE trust (
    scope   TEXT    NOT NULL,
    digest  BLOB    NOT NULL CHECK (length(digest) = 32),
    comment TEXT    NOT NULL,
    actor   TEXT    NOT NULL,
    at      INTEGER NOT NULL,
    PRIMARY KEY (scope, digest)
) STRICT, WITHOUT ROWID;

CREATE TABLE trust_revision (
    only     INTEGER NOT NULL PRIMARY KEY CHECK (only = 1),
    revision INTEGER NOT NULL
) STRICT;

