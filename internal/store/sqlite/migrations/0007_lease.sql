-- The lease of the restriction that an action makes, in seconds; 0: none.
ALTER TABLE actions ADD COLUMN lease INTEGER NOT NULL DEFAULT 0;
