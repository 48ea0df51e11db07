-- Who disabled an endpoint. NULL of a disabled endpoint: nobody knows, as in files of earlier versions and after
-- an UPDATE that sets the status alone. It counts as an operator: no user and no key enables such an endpoint.

INSERT INTO keyward_meta VALUES (10);

ALTER TABLE keyward_endpoint ADD COLUMN disabled_by TEXT
    CHECK (disabled_by IS NULL OR disabled_by IN ('operator', 'user', 'key'));

-- An endpoint that is not disabled was disabled by nobody: what is typed later does not inherit it.
CREATE TRIGGER keyward_endpoint_not_disabled AFTER UPDATE OF status ON keyward_endpoint
WHEN NEW.status <> 'disabled' AND NEW.disabled_by IS NOT NULL
BEGIN
    UPDATE keyward_endpoint SET disabled_by = NULL WHERE number = NEW.number;
END;

-- As before, and of the new column.
DROP TRIGGER keyward_endpoint_updated;

CREATE TRIGGER keyward_endpoint_updated AFTER UPDATE OF
    url, status, secret, previous_secret, previous_until, verified_at, created_at, disabled_by
ON keyward_endpoint
BEGIN
    UPDATE keyward_endpoint SET revision = OLD.revision + 1 WHERE number = NEW.number;
END;

DROP VIEW keyward_endpoint_kept;

CREATE VIEW keyward_endpoint_kept AS
SELECT * FROM keyward_endpoint
WHERE id NOT IN (SELECT endpoint FROM keyward_endpoint_deleted);
