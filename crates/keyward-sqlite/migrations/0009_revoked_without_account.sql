-- A key that was revoked with all keys of its account stays revoked where the account is deleted by hand
-- and opened again.

INSERT INTO keyward_meta VALUES (9);

CREATE TRIGGER keyward_account_deleted_revoked BEFORE DELETE ON keyward_account
BEGIN
    UPDATE keyward_key SET status = 'revoked'
    WHERE account = OLD.id AND status <> 'revoked' AND id IN (SELECT id FROM keyward_key_revoked);
END;
