-- Times are integers: ticks of 100 ns since 1970-01-01 UTC.

-- What lists of machines filter and order by, and what a new action needs.
-- The rows are small and clustered by id, because every new action reads one.
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
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX machines_device ON machines (device_id);
CREATE INDEX machines_name ON machines (lower(dns_name));

-- The rest of a machine.
CREATE TABLE machine_details (
    machine    BLOB    NOT NULL PRIMARY KEY REFERENCES machines (id),
    key        BLOB    NOT NULL,
    first_seen INTEGER NOT NULL,
    facts      TEXT    NOT NULL,     -- JSON
    observed   TEXT    NOT NULL      -- JSON
) STRICT;

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
) STRICT;

CREATE UNIQUE INDEX actions_id ON actions (id);
-- No generation of a machine is issued twice; also its actions, newest first.
CREATE UNIQUE INDEX actions_machine ON actions (machine, generation);
-- The duplicate rule; also the open actions of a machine.
CREATE UNIQUE INDEX actions_open ON actions (machine, type) WHERE status IN ('Pending', 'InProgress');
CREATE INDEX actions_due ON actions (expires) WHERE status IN ('Pending', 'InProgress');

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

CREATE TABLE applications (
    client_id    TEXT    NOT NULL PRIMARY KEY,
    object_id    TEXT    NOT NULL,
    display_name TEXT    NOT NULL,
    secret_hash  BLOB    NOT NULL CHECK (length(secret_hash) = 32),
    permissions  TEXT    NOT NULL,   -- JSON
    created      INTEGER NOT NULL
) STRICT;

CREATE TABLE settings (
    name  TEXT NOT NULL PRIMARY KEY,
    value BLOB NOT NULL
) STRICT;
