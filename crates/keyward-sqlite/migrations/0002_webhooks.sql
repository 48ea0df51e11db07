-- Endpoints of webhooks, the messages that were accepted, and which is still to reach which.
--
-- An endpoint and a message are of one account and one environment for good, and a delivery is of both:
-- no event reaches an endpoint of another account or environment, also if somebody types it in.

INSERT INTO keyward_meta VALUES (2);

-- Times are milliseconds since the Unix epoch.
CREATE TABLE keyward_endpoint (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT UNIQUE NOT NULL CHECK (
        typeof(id) = 'text' AND length(id) = 16
        AND id GLOB 'whe_*' AND substr(id, 5) NOT GLOB '*[^0-9A-Za-z]*'
    ),
    revision INTEGER NOT NULL DEFAULT 1 CHECK (typeof(revision) = 'integer' AND revision > 0),
    account TEXT NOT NULL REFERENCES keyward_account (id),
    environment TEXT NOT NULL CHECK (
        typeof(environment) = 'text' AND length(environment) <= 15
        AND environment GLOB '[a-z]*' AND environment NOT GLOB '*[^a-z0-9-]*'
    ),
    url TEXT NOT NULL CHECK (
        typeof(url) = 'text' AND length(url) <= 2048
        AND (url GLOB 'https://?*' OR url GLOB 'http://?*')
    ),
    -- gone: it has answered 410.
    status TEXT NOT NULL DEFAULT 'enabled' CHECK (status IN ('enabled', 'disabled', 'gone')),
    -- Encrypted: the id of the key, ':', base64.
    secret TEXT NOT NULL CHECK (typeof(secret) = 'text' AND secret GLOB '?*:?*'),
    -- The one before, and until when it signs too.
    previous_secret TEXT CHECK (
        previous_secret IS NULL OR typeof(previous_secret) = 'text' AND previous_secret GLOB '?*:?*'
    ),
    previous_until INTEGER CHECK (previous_until IS NULL OR typeof(previous_until) = 'integer'),
    -- When it answered a challenge; NULL: not with this URL and secret.
    verified_at INTEGER CHECK (verified_at IS NULL OR typeof(verified_at) = 'integer'),
    created_at INTEGER NOT NULL CHECK (typeof(created_at) = 'integer'),
    UNIQUE (account, environment, id),
    CHECK ((previous_secret IS NULL) = (previous_until IS NULL))
);

CREATE TABLE keyward_message (
    account TEXT NOT NULL REFERENCES keyward_account (id),
    environment TEXT NOT NULL CHECK (
        typeof(environment) = 'text' AND length(environment) <= 15
        AND environment GLOB '[a-z]*' AND environment NOT GLOB '*[^a-z0-9-]*'
    ),
    id TEXT NOT NULL CHECK (
        typeof(id) = 'text' AND length(id) BETWEEN 1 AND 128
        AND id NOT GLOB '*[^!-~]*' AND instr(id, '.') = 0
    ),
    content_type TEXT NOT NULL DEFAULT 'application/json' CHECK (typeof(content_type) = 'text'),
    payload BLOB NOT NULL CHECK (typeof(payload) = 'blob' AND length(payload) <= 1048576),
    created_at INTEGER NOT NULL CHECK (typeof(created_at) = 'integer'),
    PRIMARY KEY (account, environment, id)
);

CREATE INDEX keyward_message_by_time ON keyward_message (created_at);

CREATE TABLE keyward_delivery (
    account TEXT NOT NULL,
    environment TEXT NOT NULL,
    message TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    -- held: the endpoint is switched off. failed: given up.
    status TEXT NOT NULL DEFAULT 'pending'
        CHECK (status IN ('pending', 'held', 'delivered', 'failed')),
    -- When it is attempted; of one that is claimed, when it is attempted again.
    due_at INTEGER NOT NULL CHECK (typeof(due_at) = 'integer'),
    -- How often it was claimed, and how often that is known to have failed.
    attempts INTEGER NOT NULL DEFAULT 0
        CHECK (typeof(attempts) = 'integer' AND attempts BETWEEN 0 AND 4294967295),
    failures INTEGER NOT NULL DEFAULT 0
        CHECK (typeof(failures) = 'integer' AND failures BETWEEN 0 AND 4294967295),
    PRIMARY KEY (account, environment, message, endpoint),
    FOREIGN KEY (account, environment, message)
        REFERENCES keyward_message (account, environment, id) ON DELETE CASCADE,
    FOREIGN KEY (account, environment, endpoint)
        REFERENCES keyward_endpoint (account, environment, id) ON DELETE CASCADE
) WITHOUT ROWID;

CREATE INDEX keyward_delivery_due ON keyward_delivery (due_at) WHERE status = 'pending';
CREATE INDEX keyward_delivery_due_to ON keyward_delivery (endpoint, due_at) WHERE status = 'pending';
CREATE INDEX keyward_delivery_by_endpoint ON keyward_delivery (account, environment, endpoint);

CREATE TABLE keyward_attempt (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    account TEXT NOT NULL,
    environment TEXT NOT NULL,
    message TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    attempt INTEGER NOT NULL
        CHECK (typeof(attempt) = 'integer' AND attempt BETWEEN 0 AND 4294967295),
    at INTEGER NOT NULL CHECK (typeof(at) = 'integer'),
    -- In milliseconds.
    took INTEGER NOT NULL CHECK (typeof(took) = 'integer' AND took >= 0),
    outcome TEXT NOT NULL CHECK (typeof(outcome) = 'text'),
    status INTEGER CHECK (status IS NULL OR typeof(status) = 'integer' AND status BETWEEN 0 AND 65535),
    last INTEGER NOT NULL CHECK (last IN (0, 1)),
    FOREIGN KEY (account, environment, message, endpoint)
        REFERENCES keyward_delivery (account, environment, message, endpoint) ON DELETE CASCADE
);

CREATE INDEX keyward_attempt_by_endpoint ON keyward_attempt (endpoint, number);
CREATE INDEX keyward_attempt_by_delivery
    ON keyward_attempt (account, environment, message, endpoint);

-- Whoever changes an endpoint makes it another version.
CREATE TRIGGER keyward_endpoint_updated AFTER UPDATE OF
    url, status, secret, previous_secret, previous_until, verified_at, created_at
ON keyward_endpoint
BEGIN
    UPDATE keyward_endpoint SET revision = OLD.revision + 1 WHERE number = NEW.number;
END;

-- What waits for an endpoint that is switched off is not looked at until it is switched on.
CREATE TRIGGER keyward_endpoint_switched AFTER UPDATE OF status ON keyward_endpoint
WHEN (NEW.status = 'enabled') <> (OLD.status = 'enabled')
BEGIN
    UPDATE keyward_delivery
    SET status = CASE NEW.status WHEN 'enabled' THEN 'pending' ELSE 'held' END
    WHERE account = NEW.account AND environment = NEW.environment AND endpoint = NEW.id
        AND status IN ('pending', 'held');
END;

CREATE TRIGGER keyward_endpoint_moved BEFORE UPDATE OF number, id, account, environment
ON keyward_endpoint
WHEN NEW.number IS NOT OLD.number OR NEW.id IS NOT OLD.id
    OR NEW.account IS NOT OLD.account OR NEW.environment IS NOT OLD.environment
BEGIN
    SELECT RAISE(ABORT, 'an endpoint never changes id, account and environment');
END;

CREATE TRIGGER keyward_message_changed BEFORE UPDATE ON keyward_message
BEGIN
    SELECT RAISE(ABORT, 'a message never changes');
END;

-- INSERT OR REPLACE would change it, or move it, without firing the triggers above.
CREATE TRIGGER keyward_endpoint_replaced BEFORE INSERT ON keyward_endpoint
WHEN EXISTS (SELECT 1 FROM keyward_endpoint WHERE id = NEW.id OR number = NEW.number)
BEGIN
    SELECT RAISE(ABORT, 'there is such an endpoint');
END;

CREATE TRIGGER keyward_message_replaced BEFORE INSERT ON keyward_message
WHEN EXISTS (
    SELECT 1 FROM keyward_message
    WHERE account = NEW.account AND environment = NEW.environment AND id = NEW.id
)
BEGIN
    SELECT RAISE(ABORT, 'there is such a message');
END;

-- The sqlite3 command does not enforce foreign keys unless it is told to.
CREATE TRIGGER keyward_delivery_inserted BEFORE INSERT ON keyward_delivery
WHEN NOT EXISTS (
    SELECT 1 FROM keyward_endpoint JOIN keyward_message
    ON keyward_message.account = NEW.account AND keyward_message.environment = NEW.environment
        AND keyward_message.id = NEW.message
    WHERE keyward_endpoint.account = NEW.account AND keyward_endpoint.environment = NEW.environment
        AND keyward_endpoint.id = NEW.endpoint
)
BEGIN
    SELECT RAISE(ABORT, 'a delivery is within one account and environment');
END;

CREATE TRIGGER keyward_delivery_moved BEFORE UPDATE OF account, environment, message, endpoint
ON keyward_delivery
WHEN NEW.account IS NOT OLD.account OR NEW.environment IS NOT OLD.environment
    OR NEW.message IS NOT OLD.message OR NEW.endpoint IS NOT OLD.endpoint
BEGIN
    SELECT RAISE(ABORT, 'a delivery is of one message to one endpoint');
END;
