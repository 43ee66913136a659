-- Device groups. AUTOINCREMENT: no group gets the id of one that was deleted.
CREATE TABLE device_groups (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    name    TEXT    NOT NULL,
    folded  TEXT    NOT NULL, -- the name with A to Z in lower case
    created INTEGER NOT NULL
) STRICT;

CREATE UNIQUE INDEX device_groups_folded ON device_groups (folded);

-- The group that a machine is in; NULL: none.
ALTER TABLE machines ADD COLUMN group_id INTEGER REFERENCES device_groups (id);

CREATE INDEX machines_group ON machines (group_id) WHERE group_id IS NOT NULL;
