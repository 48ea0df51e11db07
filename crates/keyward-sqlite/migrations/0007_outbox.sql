-- One index for each way in which deliveries are looked for, and endpoints that are deleted bit by bit.

INSERT INTO keyward_meta VALUES (7);

-- By endpoint: what is due, what has failed, and all of it. The two that it replaces:
CREATE INDEX keyward_delivery_to
    ON keyward_delivery (endpoint, account, environment, status, due_at);
DROP INDEX keyward_delivery_due_to;
DROP INDEX keyward_delivery_by_endpoint;

-- Endpoints that are deleted, while they have deliveries left, of which there may be many.
CREATE TABLE keyward_endpoint_deleted (
    endpoint TEXT PRIMARY KEY NOT NULL REFERENCES keyward_endpoint (id) ON DELETE CASCADE
) WITHOUT ROWID;

CREATE VIEW keyward_endpoint_kept AS
SELECT * FROM keyward_endpoint
WHERE id NOT IN (SELECT endpoint FROM keyward_endpoint_deleted);
