-- What people say of machines.
ALTER TABLE machines ADD COLUMN device_value TEXT NOT NULL DEFAULT 'Normal';
ALTER TABLE machine_details ADD COLUMN tags TEXT NOT NULL DEFAULT '[]'; -- JSON

-- The tags once more, to be searched: with A to Z in lower case.
CREATE TABLE machine_tags (
    tag     TEXT NOT NULL,
    machine BLOB NOT NULL REFERENCES machines (id),
    PRIMARY KEY (tag, machine)
) STRICT, WITHOUT ROWID;

CREATE INDEX machine_tags_machine ON machine_tags (machine);

-- Which addresses machines have had. last_seen is NULL while a machine has the
-- address still: it is then the machine's own, so that nothing is written here
-- while nothing changes.
CREATE TABLE machine_addresses (
    machine    BLOB    NOT NULL REFERENCES machines (id),
    address    TEXT    NOT NULL,
    first_seen INTEGER NOT NULL,
    last_seen  INTEGER,
    PRIMARY KEY (machine, address, first_seen)
) STRICT, WITHOUT ROWID;

CREATE INDEX machine_addresses_address ON machine_addresses (address);

INSERT OR IGNORE INTO machine_addresses (machine, address, first_seen)
    SELECT d.machine, m.last_ip, d.first_seen FROM machine_details d JOIN machines m ON m.id = d.machine
        WHERE m.last_ip IS NOT NULL AND m.last_ip NOT LIKE '127.%' AND m.last_ip <> '::1'
    UNION SELECT d.machine, i.value ->> 'ip', d.first_seen FROM machine_details d, json_each(d.facts, '$.interfaces') i
        WHERE i.value ->> 'ip' NOT LIKE '127.%' AND i.value ->> 'ip' NOT IN ('', '::1');
