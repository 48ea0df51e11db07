-- What was revoked stays revoked, whoever writes, and a revocation, a suspension or the like that is typed
-- leaves the same traces as one of a program.

INSERT INTO keyward_meta VALUES (6);

-- The keys that are revoked: by themselves, or because all keys of their time were. An epoch below zero
-- is not valid.
CREATE VIEW keyward_key_revoked AS
SELECT id, digest, name, account, environment, revoked_at, revoked_for FROM keyward_key
WHERE status = 'revoked' OR epoch >= 0 AND epoch < min(4294967295,
    coalesce((SELECT revoked_all FROM keyward_account WHERE id = keyward_key.account), 0)
    + coalesce((SELECT revoked FROM keyward_epoch
        WHERE account = keyward_key.account AND environment = keyward_key.environment), 0));

CREATE TRIGGER keyward_key_revived BEFORE UPDATE OF status, epoch, account, environment ON keyward_key
WHEN NEW.status <> 'revoked'
    AND NEW.epoch >= min(4294967295,
        coalesce((SELECT revoked_all FROM keyward_account WHERE id = NEW.account), 0)
        + coalesce((SELECT revoked FROM keyward_epoch
            WHERE account = NEW.account AND environment = NEW.environment), 0))
    AND EXISTS (SELECT 1 FROM keyward_key_revoked WHERE id = OLD.id)
BEGIN
    SELECT RAISE(ABORT, 'a revoked key stays revoked: create another');
END;

-- INSERT OR REPLACE deletes a row without firing the trigger above.
CREATE TRIGGER keyward_key_revived_by_insert BEFORE INSERT ON keyward_key
WHEN NEW.status <> 'revoked'
    AND EXISTS (SELECT 1 FROM keyward_key_revoked WHERE id = NEW.id OR digest = NEW.digest)
BEGIN
    SELECT RAISE(ABORT, 'a revoked key stays revoked: create another');
END;

-- The counters by which all keys were revoked only grow. What is not valid may be mended.
CREATE TRIGGER keyward_account_revived BEFORE UPDATE OF revoked_all ON keyward_account
WHEN typeof(OLD.revoked_all) = 'integer' AND NEW.revoked_all < OLD.revoked_all
BEGIN
    SELECT RAISE(ABORT, 'revoked keys stay revoked: revoked_all only grows');
END;

CREATE TRIGGER keyward_account_revived_by_insert BEFORE INSERT ON keyward_account
WHEN EXISTS (SELECT 1 FROM keyward_account WHERE id = NEW.id AND revoked_all > NEW.revoked_all)
BEGIN
    SELECT RAISE(ABORT, 'revoked keys stay revoked: revoked_all only grows');
END;

CREATE TRIGGER keyward_epoch_revived BEFORE UPDATE ON keyward_epoch
WHEN typeof(OLD.revoked) = 'integer' AND NEW.revoked < OLD.revoked OR NEW.account <> OLD.account OR NEW.environment <> OLD.environment
BEGIN
    SELECT RAISE(ABORT, 'revoked keys stay revoked: revoked only grows');
END;

CREATE TRIGGER keyward_epoch_revived_by_insert BEFORE INSERT ON keyward_epoch
WHEN EXISTS (
    SELECT 1 FROM keyward_epoch
    WHERE account = NEW.account AND environment = NEW.environment AND revoked > NEW.revoked
)
BEGIN
    SELECT RAISE(ABORT, 'revoked keys stay revoked: revoked only grows');
END;

CREATE TRIGGER keyward_epoch_revived_by_delete BEFORE DELETE ON keyward_epoch
WHEN typeof(OLD.revoked) = 'integer' AND OLD.environment GLOB '[a-z]*'
BEGIN
    SELECT RAISE(ABORT, 'revoked keys stay revoked: revoked only grows');
END;

-- A program sets the revision to zero as it writes, and adds its own line to the audit log; whatever else
-- changes the status was typed.
CREATE TRIGGER keyward_key_typed AFTER UPDATE OF status ON keyward_key
WHEN NEW.status <> OLD.status AND NEW.revision > 0
BEGIN
    UPDATE keyward_key SET revoked_at = CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)
    WHERE id = NEW.id AND status = 'revoked' AND revoked_at IS NULL;

    INSERT INTO keyward_audit (at, actor, action, account, environment, key, reason)
    VALUES (
        CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER),
        'sqlite3',
        CASE NEW.status WHEN 'revoked' THEN 'revoke' WHEN 'disabled' THEN 'disable' ELSE 'enable' END,
        NEW.account, NEW.environment, NEW.id, CASE NEW.status WHEN 'revoked' THEN NEW.revoked_for ELSE '' END
    );
END;

CREATE TRIGGER keyward_account_typed AFTER UPDATE OF status, api_access, revoked_all ON keyward_account
WHEN NEW.revision > 0 AND (
    NEW.status <> OLD.status OR NEW.api_access <> OLD.api_access OR NEW.revoked_all <> OLD.revoked_all
)
BEGIN
    INSERT INTO keyward_audit (at, actor, action, account, detail)
    VALUES (
        CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER),
        'sqlite3',
        CASE WHEN NEW.revoked_all <> OLD.revoked_all THEN 'revoke_all' ELSE 'update_account' END,
        NEW.id,
        CASE WHEN NEW.revoked_all <> OLD.revoked_all THEN 'environment=*'
            ELSE 'status=' || NEW.status || ' api_access='
                || CASE NEW.api_access WHEN 1 THEN 'true' ELSE 'false' END
        END
    );
END;
