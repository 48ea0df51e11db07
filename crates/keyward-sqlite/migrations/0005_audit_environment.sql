-- Of which environment a line of the audit log is: a key that reads it sees those of its own only. NULL:
-- of none, such as a change of the account.

INSERT INTO keyward_meta VALUES (5);

ALTER TABLE keyward_audit ADD COLUMN environment TEXT CHECK (
    environment IS NULL OR typeof(environment) = 'text' AND length(environment) <= 15
    AND environment GLOB '[a-z]*' AND environment NOT GLOB '*[^a-z0-9-]*'
);

-- Lines about a key or an endpoint of the account are of its environment. Nothing else of a line changes.
DROP TRIGGER keyward_audit_updated;

UPDATE OR IGNORE keyward_audit SET environment = coalesce(
    (SELECT environment FROM keyward_key
        WHERE id = keyward_audit.key AND account = keyward_audit.account),
    (SELECT environment FROM keyward_endpoint
        WHERE id = substr(keyward_audit.detail, 10, 16) AND account = keyward_audit.account)
)
WHERE key IS NOT NULL OR detail GLOB 'endpoint=*';

CREATE TRIGGER keyward_audit_updated BEFORE UPDATE ON keyward_audit
BEGIN
    SELECT RAISE(ABORT, 'the audit trail only grows');
END;

CREATE INDEX keyward_audit_by_environment ON keyward_audit (account, environment, number)
    WHERE environment IS NOT NULL;
