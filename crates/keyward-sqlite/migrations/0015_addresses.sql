-- The allowlist of network addresses of a key.

INSERT INTO keyward_meta VALUES (15);

-- With spaces between them; NULL: any address.
ALTER TABLE keyward_key ADD COLUMN addresses TEXT
    CHECK (addresses IS NULL OR typeof(addresses) = 'text' AND trim(addresses) <> '');

-- As before, and of the new column.
DROP TRIGGER keyward_key_updated;

CREATE TRIGGER keyward_key_updated AFTER UPDATE OF
    id, digest_scheme, digest, redigested, hint, name, account, environment, kind, scopes, origins,
    no_origin, rate_limits, credits, metadata, epoch, status, created_at, expires_at, revoked_at, revoked_for,
    lineage, predecessor, successor, disabled_by, created_by, disabled_by_name, not_before, addresses
ON keyward_key
BEGIN
    INSERT INTO keyward_revision (nonce) VALUES (random());
    UPDATE keyward_key SET revision = (SELECT max(number) FROM keyward_revision)
    WHERE id = NEW.id;
END;
