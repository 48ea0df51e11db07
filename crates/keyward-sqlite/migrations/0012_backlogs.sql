-- What an endpoint has waiting may be millions of deliveries: they are held, released and delivered again bit by
-- bit, and these tables say what is left to do.

INSERT INTO keyward_meta VALUES (12);

-- Endpoints of which some deliveries still are as before they were switched on or off. Nothing is claimed for
-- those that are switched off.
CREATE TABLE keyward_endpoint_switching (
    endpoint TEXT PRIMARY KEY NOT NULL REFERENCES keyward_endpoint (id) ON DELETE CASCADE
) WITHOUT ROWID;

-- Endpoints to which all that has failed is delivered again, of the messages that were accepted since a moment.
-- The deliveries are looked at in the order of due_at and message: after the last that was looked at, and until
-- the last that had failed when it was asked for.
CREATE TABLE keyward_redelivery (
    endpoint TEXT PRIMARY KEY NOT NULL REFERENCES keyward_endpoint (id) ON DELETE CASCADE,
    since INTEGER NOT NULL CHECK (typeof(since) = 'integer'),
    after_due_at INTEGER NOT NULL CHECK (typeof(after_due_at) = 'integer'),
    after_message TEXT NOT NULL CHECK (typeof(after_message) = 'text'),
    until_due_at INTEGER NOT NULL CHECK (typeof(until_due_at) = 'integer')
) WITHOUT ROWID;

DROP TRIGGER keyward_endpoint_switched;

-- The first are switched at once, so that few wait for nobody.
CREATE TRIGGER keyward_endpoint_switched AFTER UPDATE OF status ON keyward_endpoint
WHEN (NEW.status = 'enabled') <> (OLD.status = 'enabled')
BEGIN
    UPDATE keyward_delivery
    SET status = CASE NEW.status WHEN 'enabled' THEN 'pending' ELSE 'held' END
    WHERE account = NEW.account AND environment = NEW.environment AND endpoint = NEW.id
        AND message IN (
            SELECT message FROM keyward_delivery
            WHERE endpoint = NEW.id AND account = NEW.account AND environment = NEW.environment
                AND status = CASE NEW.status WHEN 'enabled' THEN 'held' ELSE 'pending' END
            ORDER BY due_at LIMIT 256
        );
    INSERT OR IGNORE INTO keyward_endpoint_switching
    SELECT NEW.id WHERE EXISTS (
        SELECT 1 FROM keyward_delivery
        WHERE endpoint = NEW.id AND account = NEW.account AND environment = NEW.environment
            AND status = CASE NEW.status WHEN 'enabled' THEN 'held' ELSE 'pending' END
    );
END;
