-- Indices for lists and searches over all accounts.

INSERT INTO keyward_meta VALUES (18);

CREATE INDEX keyward_key_by_creation ON keyward_key (max(created_at, 0), id);

-- The last four characters of a key.
CREATE INDEX keyward_key_by_hint ON keyward_key (substr(hint, -4), max(created_at, 0), id);

-- NOCASE ignores the case of ASCII alone, in every build of SQLite.
CREATE INDEX keyward_key_by_name ON keyward_key (name COLLATE NOCASE, max(created_at, 0) DESC, id DESC);

-- Most keys were never rotated: those are found by their id.
CREATE INDEX keyward_key_by_lineage ON keyward_key (lineage) WHERE lineage <> id;

CREATE INDEX keyward_key_by_creator ON keyward_key (created_by, max(created_at, 0), id)
    WHERE created_by IS NOT NULL;

CREATE INDEX keyward_account_by_status ON keyward_account (status, id);
