-- Accounts and their keys. Triggers give every change a revision, whoever makes it: what a process
-- that answers requests has not seen yet is what has a higher one.
--
-- Not STRICT: an sqlite3 older than 3.37 could not open the file. WITHOUT ROWID: a row has no second
-- name by which it could be replaced.

CREATE TABLE keyward_meta (
    schema_version INTEGER NOT NULL
);

INSERT INTO keyward_meta VALUES (1);

-- The history. A nonce is random, so a history that was lost and written anew does not repeat it.
CREATE TABLE keyward_revision (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    nonce INTEGER NOT NULL DEFAULT (random()) CHECK (typeof(nonce) = 'integer')
);

INSERT INTO keyward_revision DEFAULT VALUES;

CREATE TABLE keyward_account (
    id TEXT PRIMARY KEY NOT NULL
        CHECK (typeof(id) = 'text' AND length(id) BETWEEN 1 AND 128 AND id NOT GLOB '*[^!-~]*'),
    revision INTEGER NOT NULL DEFAULT 0 CHECK (typeof(revision) = 'integer' AND revision >= 0),
    status TEXT NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'suspended')),
    api_access INTEGER NOT NULL DEFAULT 1 CHECK (api_access IN (0, 1))
) WITHOUT ROWID;

-- Keys of an environment whose epoch is below this one are revoked. A counter, never a time. No
-- cascade: REPLACE would delete the epochs with the old account, and bring dead keys back.
CREATE TABLE keyward_epoch (
    account TEXT NOT NULL REFERENCES keyward_account (id),
    environment TEXT NOT NULL CHECK (
        typeof(environment) = 'text' AND length(environment) <= 15
        AND environment GLOB '[a-z]*' AND environment NOT GLOB '*[^a-z0-9-]*'
    ),
    revoked_before INTEGER NOT NULL
        CHECK (typeof(revoked_before) = 'integer' AND revoked_before BETWEEN 0 AND 4294967295),
    PRIMARY KEY (account, environment)
) WITHOUT ROWID;

-- Times are milliseconds since the Unix epoch.
CREATE TABLE keyward_key (
    id TEXT PRIMARY KEY NOT NULL CHECK (
        typeof(id) = 'text' AND length(id) = 16
        AND id GLOB 'key_*' AND substr(id, 5) NOT GLOB '*[^0-9A-Za-z]*'
    ),
    revision INTEGER NOT NULL DEFAULT 0 CHECK (typeof(revision) = 'integer' AND revision >= 0),
    digest_scheme TEXT NOT NULL CHECK (digest_scheme = 'sha256' OR digest_scheme GLOB 'hmac-sha256:?*'),
    digest BLOB NOT NULL UNIQUE CHECK (typeof(digest) = 'blob' AND length(digest) = 32),
    hint TEXT NOT NULL CHECK (typeof(hint) = 'text'),
    name TEXT NOT NULL DEFAULT '' CHECK (typeof(name) = 'text'),
    account TEXT NOT NULL REFERENCES keyward_account (id),
    environment TEXT NOT NULL CHECK (
        typeof(environment) = 'text' AND length(environment) <= 15
        AND environment GLOB '[a-z]*' AND environment NOT GLOB '*[^a-z0-9-]*'
    ),
    kind TEXT NOT NULL DEFAULT 'secret' CHECK (kind IN ('secret', 'publishable')),
    -- With spaces between them.
    scopes TEXT NOT NULL DEFAULT '' CHECK (typeof(scopes) = 'text'),
    -- With spaces between them; NULL: any origin.
    origins TEXT CHECK (origins IS NULL OR typeof(origins) = 'text' AND trim(origins) <> ''),
    -- Whether a call without Origin passes where origins are listed.
    no_origin INTEGER NOT NULL DEFAULT 0 CHECK (no_origin IN (0, 1)),
    epoch INTEGER NOT NULL DEFAULT 0
        CHECK (typeof(epoch) = 'integer' AND epoch BETWEEN 0 AND 4294967295),
    status TEXT NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'disabled', 'revoked')),
    created_at INTEGER NOT NULL CHECK (typeof(created_at) = 'integer'),
    -- NULL: never.
    expires_at INTEGER CHECK (expires_at IS NULL OR typeof(expires_at) = 'integer')
) WITHOUT ROWID;

CREATE INDEX keyward_account_by_revision ON keyward_account (revision);
CREATE INDEX keyward_key_by_revision ON keyward_key (revision);
CREATE INDEX keyward_key_by_account ON keyward_key (account);

-- A new or changed row gets the next revision. The triggers name every column but the revision, so
-- that they see a change even where somebody sets the revision too, and not their own.
CREATE TRIGGER keyward_account_inserted AFTER INSERT ON keyward_account
BEGIN
    INSERT INTO keyward_revision (nonce) VALUES (random());
    UPDATE keyward_account SET revision = (SELECT max(number) FROM keyward_revision)
    WHERE id = NEW.id;
END;

CREATE TRIGGER keyward_account_updated AFTER UPDATE OF id, status, api_access ON keyward_account
BEGIN
    INSERT INTO keyward_revision (nonce) VALUES (random());
    UPDATE keyward_account SET revision = (SELECT max(number) FROM keyward_revision)
    WHERE id = NEW.id;
END;

CREATE TRIGGER keyward_epoch_inserted AFTER INSERT ON keyward_epoch
BEGIN
    INSERT INTO keyward_revision (nonce) VALUES (random());
    UPDATE keyward_account SET revision = (SELECT max(number) FROM keyward_revision)
    WHERE id = NEW.account;
END;

CREATE TRIGGER keyward_epoch_updated AFTER UPDATE ON keyward_epoch
BEGIN
    INSERT INTO keyward_revision (nonce) VALUES (random());
    UPDATE keyward_account SET revision = (SELECT max(number) FROM keyward_revision)
    WHERE id IN (OLD.account, NEW.account);
END;

CREATE TRIGGER keyward_epoch_deleted AFTER DELETE ON keyward_epoch
BEGIN
    INSERT INTO keyward_revision (nonce) VALUES (random());
    UPDATE keyward_account SET revision = (SELECT max(number) FROM keyward_revision)
    WHERE id = OLD.account;
END;

CREATE TRIGGER keyward_key_inserted AFTER INSERT ON keyward_key
BEGIN
    INSERT INTO keyward_revision (nonce) VALUES (random());
    UPDATE keyward_key SET revision = (SELECT max(number) FROM keyward_revision)
    WHERE id = NEW.id;
END;

CREATE TRIGGER keyward_key_updated AFTER UPDATE OF
    id, digest_scheme, digest, hint, name, account, environment, kind, scopes, origins, no_origin,
    epoch, status, created_at, expires_at
ON keyward_key
BEGIN
    INSERT INTO keyward_revision (nonce) VALUES (random());
    UPDATE keyward_key SET revision = (SELECT max(number) FROM keyward_revision)
    WHERE id = NEW.id;
END;

-- A row that is gone has no revision to be seen by: a new history makes every process read it all.
CREATE TRIGGER keyward_account_deleted AFTER DELETE ON keyward_account
BEGIN
    DELETE FROM keyward_revision;
    INSERT INTO keyward_revision (nonce) VALUES (random());
END;

CREATE TRIGGER keyward_key_deleted AFTER DELETE ON keyward_key
BEGIN
    DELETE FROM keyward_revision;
    INSERT INTO keyward_revision (nonce) VALUES (random());
END;

-- INSERT OR REPLACE deletes a row without firing the trigger above.
CREATE TRIGGER keyward_key_replaced BEFORE INSERT ON keyward_key
WHEN EXISTS (SELECT 1 FROM keyward_key WHERE id = NEW.id OR digest = NEW.digest)
BEGIN
    DELETE FROM keyward_revision;
    INSERT INTO keyward_revision (nonce) VALUES (random());
END;

-- The names by which processes remember a row.
CREATE TRIGGER keyward_account_renamed BEFORE UPDATE OF id ON keyward_account
WHEN NEW.id IS NOT OLD.id
BEGIN
    SELECT RAISE(ABORT, 'the id of an account never changes');
END;

CREATE TRIGGER keyward_key_renamed BEFORE UPDATE OF id, digest_scheme, digest ON keyward_key
WHEN NEW.id IS NOT OLD.id OR NEW.digest IS NOT OLD.digest OR NEW.digest_scheme IS NOT OLD.digest_scheme
BEGIN
    SELECT RAISE(ABORT, 'the id and the digest of a key never change');
END;
