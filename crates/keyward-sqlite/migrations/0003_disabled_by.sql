-- Who disabled a key. NULL of a disabled key: nobody knows, as in files of earlier versions and after an
-- UPDATE that sets the status alone. It counts as an operator: no user and no key enables such a key.

INSERT INTO keyward_meta VALUES (3);

ALTER TABLE keyward_key ADD COLUMN disabled_by TEXT
    CHECK (disabled_by IS NULL OR disabled_by IN ('operator', 'user', 'key'));

-- A key that is not disabled was disabled by nobody: what is typed later does not inherit it.
CREATE TRIGGER keyward_key_not_disabled AFTER UPDATE OF status ON keyward_key
WHEN NEW.status <> 'disabled' AND NEW.disabled_by IS NOT NULL
BEGIN
    UPDATE keyward_key SET disabled_by = NULL WHERE id = NEW.id;
END;

-- As before, and of the new column.
DROP TRIGGER keyward_key_updated;

CREATE TRIGGER keyward_key_updated AFTER UPDATE OF
    id, digest_scheme, digest, redigested, hint, name, account, environment, kind, scopes, origins,
    no_origin, rate_limits, credits, metadata, epoch, status, created_at, expires_at, revoked_at, revoked_for,
    lineage, predecessor, successor, disabled_by
ON keyward_key
BEGIN
    INSERT INTO keyward_revision (nonce) VALUES (random());
    UPDATE keyward_key SET revision = (SELECT max(number) FROM keyward_revision)
    WHERE id = NEW.id;
END;
