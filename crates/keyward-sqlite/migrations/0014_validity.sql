-- Who created a key and who disabled it, by the name that is in the audit log, and from when on it works.

INSERT INTO keyward_meta VALUES (14);

-- NULL: nobody knows, as of keys that an earlier version created, or that are typed.
ALTER TABLE keyward_key ADD COLUMN created_by TEXT
    CHECK (created_by IS NULL OR typeof(created_by) = 'text');

-- Beside disabled_by, which is its class.
ALTER TABLE keyward_key ADD COLUMN disabled_by_name TEXT
    CHECK (disabled_by_name IS NULL OR typeof(disabled_by_name) = 'text');

-- The key does not work before. NULL: it works since it was created.
ALTER TABLE keyward_key ADD COLUMN not_before INTEGER
    CHECK (not_before IS NULL OR typeof(not_before) = 'integer');

-- As before, and of the name too.
DROP TRIGGER keyward_key_not_disabled;

CREATE TRIGGER keyward_key_not_disabled AFTER UPDATE OF status ON keyward_key
WHEN NEW.status <> 'disabled' AND (NEW.disabled_by IS NOT NULL OR NEW.disabled_by_name IS NOT NULL)
BEGIN
    UPDATE keyward_key SET disabled_by = NULL, disabled_by_name = NULL WHERE id = NEW.id;
END;

-- As before, and of the new columns.
DROP TRIGGER keyward_key_updated;

CREATE TRIGGER keyward_key_updated AFTER UPDATE OF
    id, digest_scheme, digest, redigested, hint, name, account, environment, kind, scopes, origins,
    no_origin, rate_limits, credits, metadata, epoch, status, created_at, expires_at, revoked_at, revoked_for,
    lineage, predecessor, successor, disabled_by, created_by, disabled_by_name, not_before
ON keyward_key
BEGIN
    INSERT INTO keyward_revision (nonce) VALUES (random());
    UPDATE keyward_key SET revision = (SELECT max(number) FROM keyward_revision)
    WHERE id = NEW.id;
END;
