-- Accounts and their keys, what was done to them, and how often they are used. Triggers give every
-- change of an account or a key a revision, whoever makes it: what a process that answers requests has
-- not seen yet is what has a higher one.
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
    api_access INTEGER NOT NULL DEFAULT 1 CHECK (api_access IN (0, 1)),
    -- NULL: as many as the service allows.
    max_active_keys INTEGER CHECK (
        max_active_keys IS NULL
        OR typeof(max_active_keys) = 'integer' AND max_active_keys BETWEEN 0 AND 4294967295
    ),
    -- How often all its keys were revoked.
    revoked_all INTEGER NOT NULL DEFAULT 0
        CHECK (typeof(revoked_all) = 'integer' AND revoked_all BETWEEN 0 AND 4294967295),
    -- Each count/seconds;burst, with spaces between them: of each key that has none of its own, and of
    -- all keys of an environment together.
    rate_limits TEXT NOT NULL DEFAULT ''
        CHECK (typeof(rate_limits) = 'text' AND rate_limits NOT GLOB '*[^0-9/; ]*'),
    shared_rate_limits TEXT NOT NULL DEFAULT ''
        CHECK (typeof(shared_rate_limits) = 'text' AND shared_rate_limits NOT GLOB '*[^0-9/; ]*'),
    -- The epoch of its balance in keyward_credit; NULL: its keys are not limited by credits.
    credits INTEGER CHECK (
        credits IS NULL OR typeof(credits) = 'integer' AND credits BETWEEN 1 AND 4294967295
    )
) WITHOUT ROWID;

-- How often all keys of an environment were revoked. A key whose epoch is below the sum of this and
-- the account's revoked_all is dead: counters, never times. No cascade: REPLACE would delete the
-- counters with the old account, and bring dead keys back.
CREATE TABLE keyward_epoch (
    account TEXT NOT NULL REFERENCES keyward_account (id),
    environment TEXT NOT NULL CHECK (
        typeof(environment) = 'text' AND length(environment) <= 15
        AND environment GLOB '[a-z]*' AND environment NOT GLOB '*[^a-z0-9-]*'
    ),
    revoked INTEGER NOT NULL
        CHECK (typeof(revoked) = 'integer' AND revoked BETWEEN 0 AND 4294967295),
    PRIMARY KEY (account, environment)
) WITHOUT ROWID;

-- Times are milliseconds since the Unix epoch.
CREATE TABLE keyward_key (
    id TEXT PRIMARY KEY NOT NULL CHECK (
        typeof(id) = 'text' AND length(id) = 16
        AND id GLOB 'key_*' AND substr(id, 5) NOT GLOB '*[^0-9A-Za-z]*'
    ),
    revision INTEGER NOT NULL DEFAULT 0 CHECK (typeof(revision) = 'integer' AND revision >= 0),
    digest_scheme TEXT NOT NULL CHECK (
        digest_scheme IN ('sha256', 'sha256-of-secret', 'sha512')
        OR digest_scheme GLOB 'hmac-sha256:?*'
    ),
    digest BLOB NOT NULL UNIQUE CHECK (typeof(digest) = 'blob' AND length(digest) = 32),
    -- How often the digest was replaced by one of another scheme.
    redigested INTEGER NOT NULL DEFAULT 0
        CHECK (typeof(redigested) = 'integer' AND redigested BETWEEN 0 AND 4294967295),
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
    -- Each count/seconds;burst, with spaces between them.
    rate_limits TEXT NOT NULL DEFAULT ''
        CHECK (typeof(rate_limits) = 'text' AND rate_limits NOT GLOB '*[^0-9/; ]*'),
    -- The epoch of its own balance in keyward_credit; NULL: it spends its account's.
    credits INTEGER CHECK (
        credits IS NULL OR typeof(credits) = 'integer' AND credits BETWEEN 1 AND 4294967295
    ),
    -- A JSON object.
    metadata TEXT NOT NULL DEFAULT '{}'
        CHECK (typeof(metadata) = 'text' AND length(CAST(metadata AS BLOB)) BETWEEN 2 AND 4096),
    epoch INTEGER NOT NULL DEFAULT 0
        CHECK (typeof(epoch) = 'integer' AND epoch BETWEEN 0 AND 4294967295),
    status TEXT NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'disabled', 'revoked')),
    created_at INTEGER NOT NULL CHECK (typeof(created_at) = 'integer'),
    -- NULL: never.
    expires_at INTEGER CHECK (expires_at IS NULL OR typeof(expires_at) = 'integer'),
    revoked_at INTEGER CHECK (revoked_at IS NULL OR typeof(revoked_at) = 'integer'),
    revoked_for TEXT NOT NULL DEFAULT '' CHECK (typeof(revoked_for) = 'text'),
    -- The first key of its chain of rotations, which shares what is counted and bounded.
    lineage TEXT NOT NULL CHECK (
        typeof(lineage) = 'text' AND length(lineage) = 16
        AND lineage GLOB 'key_*' AND substr(lineage, 5) NOT GLOB '*[^0-9A-Za-z]*'
    ),
    -- The keys before and after it in a rotation.
    predecessor TEXT CHECK (
        predecessor IS NULL
        OR typeof(predecessor) = 'text' AND length(predecessor) = 16
        AND predecessor GLOB 'key_*' AND substr(predecessor, 5) NOT GLOB '*[^0-9A-Za-z]*'
    ),
    successor TEXT CHECK (
        successor IS NULL
        OR typeof(successor) = 'text' AND length(successor) = 16
        AND successor GLOB 'key_*' AND substr(successor, 5) NOT GLOB '*[^0-9A-Za-z]*'
    )
) WITHOUT ROWID;

CREATE INDEX keyward_account_by_revision ON keyward_account (revision);
CREATE INDEX keyward_key_by_revision ON keyward_key (revision);
-- The order of the list. A page begins at a time that is never before 1970.
CREATE INDEX keyward_key_by_account ON keyward_key (account, max(created_at, 0), id);
-- Revoked keys are kept for good, and there may be many: neither the bound of active keys nor a list of
-- those that work looks at them.
CREATE INDEX keyward_key_not_revoked ON keyward_key (account, max(created_at, 0), id)
    WHERE status <> 'revoked';

-- What is left to be spent: of an account ('account:' and its id) or of a chain of rotations (the id of
-- its first key). Without triggers: that credits are spent is no change of a key. What a process has
-- taken out and not spent is not in it.
CREATE TABLE keyward_credit (
    owner TEXT PRIMARY KEY NOT NULL CHECK (
        typeof(owner) = 'text' AND (owner GLOB 'account:?*' OR owner GLOB 'key_*')
    ),
    -- Grows whenever the balance is replaced: what was taken out before is void.
    epoch INTEGER NOT NULL CHECK (typeof(epoch) = 'integer' AND epoch BETWEEN 1 AND 4294967295),
    remaining INTEGER NOT NULL CHECK (typeof(remaining) = 'integer' AND remaining >= 0),
    -- What the balance is replaced by, and when; NULL: nothing.
    refill_at INTEGER CHECK (refill_at IS NULL OR typeof(refill_at) = 'integer'),
    refill_to INTEGER CHECK (refill_to IS NULL OR typeof(refill_to) = 'integer' AND refill_to >= 0),
    CHECK ((refill_at IS NULL) = (refill_to IS NULL))
) WITHOUT ROWID;

-- By which a create that is repeated finds its key.
CREATE TABLE keyward_token (
    account TEXT NOT NULL REFERENCES keyward_account (id),
    token TEXT NOT NULL CHECK (typeof(token) = 'text'),
    key TEXT NOT NULL REFERENCES keyward_key (id),
    PRIMARY KEY (account, token)
) WITHOUT ROWID;

-- Who did what, refused calls too. It refers to nothing: what it tells of may be gone, or never was.
CREATE TABLE keyward_audit (
    number INTEGER PRIMARY KEY AUTOINCREMENT CHECK (number > 0),
    at INTEGER NOT NULL CHECK (typeof(at) = 'integer'),
    actor TEXT NOT NULL CHECK (typeof(actor) = 'text'),
    action TEXT NOT NULL CHECK (typeof(action) = 'text'),
    account TEXT CHECK (account IS NULL OR typeof(account) = 'text'),
    key TEXT CHECK (key IS NULL OR typeof(key) = 'text'),
    -- Why nothing was done; NULL: it was done.
    refused TEXT CHECK (refused IS NULL OR typeof(refused) = 'text'),
    detail TEXT NOT NULL DEFAULT '' CHECK (typeof(detail) = 'text'),
    reason TEXT NOT NULL DEFAULT '' CHECK (typeof(reason) = 'text')
);

CREATE INDEX keyward_audit_by_account ON keyward_audit (account, number);

CREATE TRIGGER keyward_audit_updated BEFORE UPDATE ON keyward_audit
BEGIN
    SELECT RAISE(ABORT, 'the audit trail only grows');
END;

CREATE TRIGGER keyward_audit_deleted BEFORE DELETE ON keyward_audit
BEGIN
    SELECT RAISE(ABORT, 'the audit trail only grows');
END;

-- INSERT OR REPLACE deletes a row without firing the trigger above.
CREATE TRIGGER keyward_audit_replaced BEFORE INSERT ON keyward_audit
WHEN EXISTS (SELECT 1 FROM keyward_audit WHERE number = NEW.number)
BEGIN
    SELECT RAISE(ABORT, 'the audit trail only grows');
END;

-- How often a key was used in an hour, counted from 1970. In tables of their own, without triggers:
-- that a key is used is no change of the key.
CREATE TABLE keyward_usage (
    key TEXT NOT NULL CHECK (typeof(key) = 'text'),
    hour INTEGER NOT NULL CHECK (typeof(hour) = 'integer'),
    admitted INTEGER NOT NULL CHECK (typeof(admitted) = 'integer' AND admitted >= 0),
    refused INTEGER NOT NULL CHECK (typeof(refused) = 'integer' AND refused >= 0),
    -- Of whatever the service sells, as it has recorded them.
    units INTEGER NOT NULL DEFAULT 0 CHECK (typeof(units) = 'integer' AND units >= 0),
    PRIMARY KEY (key, hour)
) WITHOUT ROWID;

-- When a key was used last.
CREATE TABLE keyward_usage_key (
    key TEXT PRIMARY KEY NOT NULL CHECK (typeof(key) = 'text'),
    last_used_at INTEGER NOT NULL CHECK (typeof(last_used_at) = 'integer')
) WITHOUT ROWID;

-- The last batch of counts that a node has written: one that comes again is not counted again.
CREATE TABLE keyward_usage_node (
    node INTEGER PRIMARY KEY NOT NULL,
    sequence INTEGER NOT NULL CHECK (typeof(sequence) = 'integer')
) WITHOUT ROWID;

-- A new or changed row gets the next revision. The triggers name every column but the revision, so
-- that they see a change even where somebody sets the revision too, and not their own.
CREATE TRIGGER keyward_account_inserted AFTER INSERT ON keyward_account
BEGIN
    INSERT INTO keyward_revision (nonce) VALUES (random());
    UPDATE keyward_account SET revision = (SELECT max(number) FROM keyward_revision)
    WHERE id = NEW.id;
END;

CREATE TRIGGER keyward_account_updated AFTER UPDATE OF
    id, status, api_access, max_active_keys, revoked_all, rate_limits, shared_rate_limits, credits
ON keyward_account
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
    id, digest_scheme, digest, redigested, hint, name, account, environment, kind, scopes, origins,
    no_origin, rate_limits, credits, metadata, epoch, status, created_at, expires_at, revoked_at, revoked_for,
    lineage, predecessor, successor
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

CREATE TRIGGER keyward_key_renamed BEFORE UPDATE OF id ON keyward_key
WHEN NEW.id IS NOT OLD.id
BEGIN
    SELECT RAISE(ABORT, 'the id of a key never changes');
END;

-- By the count a process knows that it has the key under an older digest.
CREATE TRIGGER keyward_key_redigested BEFORE UPDATE OF digest_scheme, digest, redigested ON keyward_key
WHEN NEW.redigested IS NOT OLD.redigested
    + (NEW.digest IS NOT OLD.digest OR NEW.digest_scheme IS NOT OLD.digest_scheme)
BEGIN
    SELECT RAISE(ABORT, 'redigested counts the digests of a key');
END;
