-- A revoked key stays revoked where its row is deleted, replaced or given another digest, and then written
-- anew. Programs delete no keys, so the table grows by what is typed, and by the keys that were revoked while
-- their digest was being replaced.

INSERT INTO keyward_meta VALUES (13);

CREATE TABLE keyward_revoked_digest (
    digest BLOB PRIMARY KEY NOT NULL CHECK (typeof(digest) = 'blob')
) WITHOUT ROWID;

CREATE TRIGGER keyward_key_deleted_revoked BEFORE DELETE ON keyward_key
BEGIN
    INSERT INTO keyward_revoked_digest SELECT digest FROM keyward_key_revoked
    WHERE id = OLD.id AND digest NOT IN (SELECT digest FROM keyward_revoked_digest);
END;

CREATE TRIGGER keyward_key_digest_revoked BEFORE UPDATE OF digest ON keyward_key
WHEN NEW.digest <> OLD.digest
BEGIN
    INSERT INTO keyward_revoked_digest SELECT digest FROM keyward_key_revoked
    WHERE id = OLD.id AND digest NOT IN (SELECT digest FROM keyward_revoked_digest);
END;

-- INSERT OR REPLACE deletes a row without firing the trigger above.
CREATE TRIGGER keyward_key_replaced_revoked BEFORE INSERT ON keyward_key
BEGIN
    INSERT INTO keyward_revoked_digest SELECT digest FROM keyward_key_revoked
    WHERE id = NEW.id AND digest <> NEW.digest
        AND digest NOT IN (SELECT digest FROM keyward_revoked_digest);
END;

CREATE TRIGGER keyward_key_revived_by_new_row BEFORE INSERT ON keyward_key
WHEN NEW.status <> 'revoked' AND NEW.digest IN (SELECT digest FROM keyward_revoked_digest)
BEGIN
    SELECT RAISE(ABORT, 'a revoked key stays revoked: create another');
END;

CREATE TRIGGER keyward_key_revived_by_old_digest BEFORE UPDATE OF digest, status ON keyward_key
WHEN NEW.status <> 'revoked' AND NEW.digest IN (SELECT digest FROM keyward_revoked_digest)
BEGIN
    SELECT RAISE(ABORT, 'a revoked key stays revoked: create another');
END;
