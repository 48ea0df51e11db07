-- UPDATE OR REPLACE deletes the row that has the same digest: no other key takes over that of a revoked one.

INSERT INTO keyward_meta VALUES (11);

CREATE TRIGGER keyward_key_revived_by_digest BEFORE UPDATE OF digest ON keyward_key
WHEN NEW.status <> 'revoked'
    AND EXISTS (SELECT 1 FROM keyward_key_revoked WHERE digest = NEW.digest AND id <> NEW.id)
BEGIN
    SELECT RAISE(ABORT, 'a revoked key stays revoked: create another');
END;
