-- Dead keys may be deleted by a program, the audit log may be cut once it was exported, and an account may be
-- erased. What is typed is refused as before.

INSERT INTO keyward_meta VALUES (19);

-- What is left of a key that was pruned.
CREATE TABLE keyward_tombstone (
    key TEXT PRIMARY KEY NOT NULL CHECK (
        typeof(key) = 'text' AND length(key) = 16
        AND key GLOB 'key_*' AND substr(key, 5) NOT GLOB '*[^0-9A-Za-z]*'
    ),
    hint TEXT NOT NULL CHECK (typeof(hint) = 'text'),
    account TEXT NOT NULL CHECK (typeof(account) = 'text'),
    environment TEXT NOT NULL CHECK (typeof(environment) = 'text'),
    lineage TEXT NOT NULL CHECK (typeof(lineage) = 'text'),
    cause TEXT NOT NULL CHECK (cause IN ('revoked', 'expired')),
    revoked_for TEXT NOT NULL CHECK (typeof(revoked_for) = 'text'),
    died_at INTEGER NOT NULL CHECK (typeof(died_at) = 'integer'),
    last_used_at INTEGER CHECK (last_used_at IS NULL OR typeof(last_used_at) = 'integer'),
    pruned_at INTEGER NOT NULL CHECK (typeof(pruned_at) = 'integer')
) WITHOUT ROWID;

CREATE INDEX keyward_tombstone_by_hint ON keyward_tombstone (hint);
CREATE INDEX keyward_tombstone_by_account ON keyward_tombstone (account);

-- The keys that may be pruned, and the own balances of chains.
CREATE INDEX keyward_key_by_revocation ON keyward_key (revoked_at) WHERE status = 'revoked';
CREATE INDEX keyward_key_by_expiry ON keyward_key (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX keyward_key_with_credits ON keyward_key (lineage) WHERE credits IS NOT NULL;

-- A row that is gone has no revision to be seen by: a new history makes every process read it all. Where a program
-- has buried a dead key, every process has seen that it is dead.
DROP TRIGGER keyward_key_deleted;

CREATE TRIGGER keyward_key_deleted AFTER DELETE ON keyward_key
WHEN NOT EXISTS (
    SELECT 1 FROM keyward_tombstone
    WHERE key = OLD.id AND (OLD.status = 'revoked' OR OLD.expires_at <= pruned_at)
)
BEGIN
    DELETE FROM keyward_revision;
    INSERT INTO keyward_revision (nonce) VALUES (random());
END;

CREATE TRIGGER keyward_key_buried BEFORE INSERT ON keyward_key
WHEN EXISTS (SELECT 1 FROM keyward_tombstone WHERE key = NEW.id)
BEGIN
    SELECT RAISE(ABORT, 'a key with this id was pruned: create another');
END;

CREATE TRIGGER keyward_tombstone_deleted BEFORE DELETE ON keyward_tombstone
BEGIN
    SELECT RAISE(ABORT, 'the tombstone of a key stays');
END;

-- INSERT OR REPLACE deletes a row without firing the trigger above.
CREATE TRIGGER keyward_tombstone_replaced BEFORE INSERT ON keyward_tombstone
WHEN EXISTS (SELECT 1 FROM keyward_tombstone WHERE key = NEW.key)
BEGIN
    SELECT RAISE(ABORT, 'the tombstone of a key stays');
END;

-- The digests that are never accepted again.
CREATE TRIGGER keyward_revoked_digest_deleted BEFORE DELETE ON keyward_revoked_digest
BEGIN
    SELECT RAISE(ABORT, 'a revoked key stays revoked: its digest is kept');
END;

CREATE TRIGGER keyward_revoked_digest_updated BEFORE UPDATE ON keyward_revoked_digest
BEGIN
    SELECT RAISE(ABORT, 'a revoked key stays revoked: its digest is kept');
END;

-- As before, but the key may have been pruned: its token creates no other.
ALTER TABLE keyward_token RENAME TO keyward_token_before;

CREATE TABLE keyward_token (
    account TEXT NOT NULL REFERENCES keyward_account (id),
    token TEXT NOT NULL CHECK (typeof(token) = 'text'),
    key TEXT NOT NULL CHECK (typeof(key) = 'text'),
    PRIMARY KEY (account, token)
) WITHOUT ROWID;

INSERT INTO keyward_token SELECT account, token, key FROM keyward_token_before;

DROP TABLE keyward_token_before;

-- The cuts of the audit log: what was exported, and then deleted.
CREATE TABLE keyward_audit_cut (
    through INTEGER PRIMARY KEY NOT NULL CHECK (through > 0),
    lines INTEGER NOT NULL CHECK (typeof(lines) = 'integer' AND lines >= 0),
    sha256 BLOB NOT NULL CHECK (typeof(sha256) = 'blob' AND length(sha256) = 32),
    at INTEGER NOT NULL CHECK (typeof(at) = 'integer')
) WITHOUT ROWID;

CREATE TRIGGER keyward_audit_cut_updated BEFORE UPDATE ON keyward_audit_cut
BEGIN
    SELECT RAISE(ABORT, 'the audit trail only grows');
END;

CREATE TRIGGER keyward_audit_cut_deleted BEFORE DELETE ON keyward_audit_cut
BEGIN
    SELECT RAISE(ABORT, 'the audit trail only grows');
END;

CREATE TRIGGER keyward_audit_cut_replaced BEFORE INSERT ON keyward_audit_cut
WHEN EXISTS (SELECT 1 FROM keyward_audit_cut WHERE through = NEW.through)
BEGIN
    SELECT RAISE(ABORT, 'the audit trail only grows');
END;

DROP TRIGGER keyward_audit_deleted;

CREATE TRIGGER keyward_audit_deleted BEFORE DELETE ON keyward_audit
WHEN OLD.number > coalesce((SELECT max(through) FROM keyward_audit_cut), 0)
BEGIN
    SELECT RAISE(ABORT, 'the audit trail only grows');
END;

-- A line without a number gets the next one, and is not yet known here.
CREATE TRIGGER keyward_audit_forged BEFORE INSERT ON keyward_audit
WHEN NEW.number > 0 AND NEW.number <= coalesce((SELECT max(through) FROM keyward_audit_cut), 0)
BEGIN
    SELECT RAISE(ABORT, 'the audit trail only grows');
END;

-- The accounts that are being erased, and the pseudonyms of those that were.
CREATE TABLE keyward_erasing (
    account TEXT PRIMARY KEY NOT NULL CHECK (typeof(account) = 'text'),
    pseudonym TEXT NOT NULL CHECK (typeof(pseudonym) = 'text')
) WITHOUT ROWID;

CREATE TABLE keyward_erased (
    pseudonym TEXT PRIMARY KEY NOT NULL CHECK (typeof(pseudonym) = 'text'),
    at INTEGER NOT NULL CHECK (typeof(at) = 'integer')
) WITHOUT ROWID;

CREATE TRIGGER keyward_erased_updated BEFORE UPDATE ON keyward_erased
BEGIN
    SELECT RAISE(ABORT, 'the audit trail only grows');
END;

CREATE TRIGGER keyward_erased_deleted BEFORE DELETE ON keyward_erased
BEGIN
    SELECT RAISE(ABORT, 'the audit trail only grows');
END;

-- A line changes once, when its account is erased: to the pseudonym, and without names and texts.
DROP TRIGGER keyward_audit_updated;

CREATE TRIGGER keyward_audit_updated BEFORE UPDATE ON keyward_audit
WHEN NOT (
    EXISTS (SELECT 1 FROM keyward_erasing WHERE account = OLD.account AND pseudonym = NEW.account)
    AND NEW.account IN (SELECT pseudonym FROM keyward_erased)
    AND NEW.number = OLD.number AND NEW.at = OLD.at AND NEW.action = OLD.action
    AND NEW.environment IS OLD.environment AND NEW.key IS OLD.key AND NEW.refused IS OLD.refused
    AND NEW.detail = '' AND NEW.reason = ''
    AND NEW.actor = CASE WHEN OLD.actor GLOB 'user:*' THEN 'user:' || NEW.account ELSE OLD.actor END
)
BEGIN
    SELECT RAISE(ABORT, 'the audit trail only grows');
END;

CREATE TRIGGER keyward_tombstone_updated BEFORE UPDATE ON keyward_tombstone
WHEN NOT (
    EXISTS (SELECT 1 FROM keyward_erasing WHERE account = OLD.account AND pseudonym = NEW.account)
    AND NEW.key = OLD.key AND NEW.revoked_for = ''
)
BEGIN
    SELECT RAISE(ABORT, 'the tombstone of a key stays');
END;

-- The counters go with the last key of an account that is erased.
DROP TRIGGER keyward_epoch_revived_by_delete;

CREATE TRIGGER keyward_epoch_revived_by_delete BEFORE DELETE ON keyward_epoch
WHEN typeof(OLD.revoked) = 'integer' AND OLD.environment GLOB '[a-z]*' AND NOT (
    EXISTS (SELECT 1 FROM keyward_erasing WHERE account = OLD.account)
    AND NOT EXISTS (SELECT 1 FROM keyward_key WHERE account = OLD.account)
)
BEGIN
    SELECT RAISE(ABORT, 'revoked keys stay revoked: revoked only grows');
END;
