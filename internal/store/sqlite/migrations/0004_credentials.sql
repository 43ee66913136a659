-- An application has several secrets, and certificates. The secret that it had
-- stays good; what its first characters were is not known any more.
CREATE TABLE new_applications (
    client_id    TEXT    NOT NULL PRIMARY KEY,
    object_id    TEXT    NOT NULL,
    display_name TEXT    NOT NULL,
    secrets      TEXT    NOT NULL,   -- JSON; of each secret its hash
    certificates TEXT    NOT NULL,   -- JSON
    permissions  TEXT    NOT NULL,   -- JSON
    created      INTEGER NOT NULL
) STRICT;

INSERT INTO new_applications
SELECT client_id, object_id, display_name,
    json_array(json_object('ID', client_id, 'Hint', '', 'Hash', lower(hex(secret_hash)),
        'Created', strftime('%Y-%m-%dT%H:%M:%SZ', created / 10000000, 'unixepoch'), 'Expires', NULL)),
    '[]',
    -- There was one application, which may do everything; now that includes this.
    CASE WHEN json_type(permissions) = 'array' AND created = (SELECT min(created) FROM applications)
        THEN json_insert(permissions, '$[#]', 'Application.Read.All', '$[#]', 'Application.ReadWrite.All')
        ELSE iif(json_type(permissions) = 'array', permissions, '[]') END,
    created
FROM applications;

DROP TABLE applications;
ALTER TABLE new_applications RENAME TO applications;
