-- Endpoints of webhooks, accepted messages, and their deliveries.
--
-- An endpoint and a message belong to one account and environment for good, and a delivery to both: no
-- event reaches an endpoint of another account or environment, whoever writes. These tables are no part
-- of the history that programs follow.

UPDATE keyward.meta SET schema_version = 2;

CREATE TABLE keyward.endpoint (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id text COLLATE "C" NOT NULL UNIQUE CHECK (id ~ '^whe_[0-9A-Za-z]{12}$'),
    -- The version of the row: another after every change.
    revision bigint NOT NULL DEFAULT 0,
    account text COLLATE "C" NOT NULL REFERENCES keyward.account (id),
    environment text COLLATE "C" NOT NULL
        CHECK (length(environment) <= 15 AND environment ~ '^[a-z][a-z0-9-]*$'),
    url text NOT NULL CHECK (octet_length(url) <= 2048 AND url ~ '^https?://.'),
    -- gone: it has answered 410.
    status text NOT NULL DEFAULT 'enabled' CHECK (status IN ('enabled', 'disabled', 'gone')),
    -- Who disabled it. NULL: it is not known, which counts as an operator.
    disabled_by text CHECK (disabled_by IN ('operator', 'user', 'key')),
    -- Encrypted: the id of the key, ':', base64.
    secret text NOT NULL CHECK (secret ~ '^[^:]+:.'),
    -- The previous secret, and until when it signs too.
    previous_secret text CHECK (previous_secret ~ '^[^:]+:.'),
    previous_until timestamptz CHECK (isfinite(previous_until)),
    -- When it answered a challenge. NULL: not with this URL and secret.
    verified_at timestamptz CHECK (isfinite(verified_at)),
    created_at timestamptz NOT NULL CHECK (isfinite(created_at)),
    -- Deleted, while deliveries are left. Programs delete these in steps, and the row last.
    deleted boolean NOT NULL DEFAULT false,
    -- Whether some deliveries still are as before it was enabled or disabled.
    switching boolean NOT NULL DEFAULT false,
    UNIQUE (account, environment, id),
    CHECK ((previous_secret IS NULL) = (previous_until IS NULL))
);

CREATE INDEX endpoint_to_delete ON keyward.endpoint (id) WHERE deleted;
CREATE INDEX endpoint_to_switch ON keyward.endpoint (id) WHERE switching;

CREATE TABLE keyward.message (
    account text COLLATE "C" NOT NULL REFERENCES keyward.account (id),
    environment text COLLATE "C" NOT NULL
        CHECK (length(environment) <= 15 AND environment ~ '^[a-z][a-z0-9-]*$'),
    id text COLLATE "C" NOT NULL CHECK (length(id) BETWEEN 1 AND 128 AND id ~ '^[!-~]+$' AND id !~ '[.]'),
    content_type text NOT NULL DEFAULT 'application/json',
    payload bytea NOT NULL CHECK (length(payload) <= 1048576),
    -- In whole milliseconds.
    created_at timestamptz NOT NULL
        CHECK (isfinite(created_at) AND date_trunc('milliseconds', created_at) = created_at),
    PRIMARY KEY (account, environment, id)
);

CREATE INDEX message_by_time ON keyward.message (created_at, account, environment, id);

CREATE TABLE keyward.delivery (
    account text COLLATE "C" NOT NULL,
    environment text COLLATE "C" NOT NULL,
    message text COLLATE "C" NOT NULL,
    endpoint text COLLATE "C" NOT NULL,
    -- held: the endpoint is disabled. failed: given up.
    status text NOT NULL DEFAULT 'pending'
        CHECK (status IN ('pending', 'held', 'delivered', 'failed')),
    -- When it is attempted; if it is claimed, when it is attempted again.
    due_at timestamptz NOT NULL CHECK (isfinite(due_at)),
    -- The number of claims, and of attempts that are known to have failed.
    attempts bigint NOT NULL DEFAULT 0 CHECK (attempts BETWEEN 0 AND 4294967295),
    failures bigint NOT NULL DEFAULT 0 CHECK (failures BETWEEN 0 AND 4294967295),
    PRIMARY KEY (account, environment, message, endpoint),
    FOREIGN KEY (account, environment, message)
        REFERENCES keyward.message (account, environment, id) ON DELETE CASCADE,
    FOREIGN KEY (account, environment, endpoint)
        REFERENCES keyward.endpoint (account, environment, id) ON DELETE CASCADE
);

-- What is delivered is in none of these but the last.
CREATE INDEX delivery_due ON keyward.delivery (due_at) WHERE status = 'pending';
CREATE INDEX delivery_due_to ON keyward.delivery (endpoint, due_at) WHERE status = 'pending';
CREATE INDEX delivery_held ON keyward.delivery (endpoint, due_at) WHERE status = 'held';
CREATE INDEX delivery_failed ON keyward.delivery (endpoint, due_at, message) WHERE status = 'failed';
CREATE INDEX delivery_to ON keyward.delivery (endpoint);

CREATE TABLE keyward.attempt (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account text COLLATE "C" NOT NULL,
    environment text COLLATE "C" NOT NULL,
    message text COLLATE "C" NOT NULL,
    endpoint text COLLATE "C" NOT NULL,
    attempt bigint NOT NULL CHECK (attempt BETWEEN 0 AND 4294967295),
    at timestamptz NOT NULL CHECK (isfinite(at)),
    -- In milliseconds.
    took bigint NOT NULL CHECK (took >= 0),
    outcome text NOT NULL,
    status bigint CHECK (status BETWEEN 0 AND 65535),
    last boolean NOT NULL,
    FOREIGN KEY (account, environment, message, endpoint)
        REFERENCES keyward.delivery (account, environment, message, endpoint) ON DELETE CASCADE
);

CREATE INDEX attempt_to ON keyward.attempt (endpoint, number);
CREATE INDEX attempt_of ON keyward.attempt (account, environment, message, endpoint);

-- Endpoints to which failed messages that were accepted since a time are redelivered, in steps. The
-- deliveries are visited in the order of due_at and message: after the last visited one, and until the
-- last one that had failed when the redelivery was asked for.
CREATE TABLE keyward.redelivery (
    endpoint text COLLATE "C" PRIMARY KEY REFERENCES keyward.endpoint (id) ON DELETE CASCADE,
    since timestamptz NOT NULL,
    after_due_at timestamptz NOT NULL,
    after_message text COLLATE "C" NOT NULL,
    until_due_at timestamptz NOT NULL
);

CREATE FUNCTION keyward.endpoint_written() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        IF (NEW.number, NEW.id, NEW.account, NEW.environment)
            IS DISTINCT FROM (OLD.number, OLD.id, OLD.account, OLD.environment)
        THEN
            PERFORM keyward.refuse('an endpoint never changes id, account and environment');
        END IF;
    END IF;
    -- An endpoint that is not disabled was disabled by nobody.
    IF NEW.status <> 'disabled' THEN
        NEW.disabled_by := NULL;
    END IF;
    NEW.revision := nextval('keyward.row_revision');
    RETURN NEW;
END $$;

-- Programs change these two columns in the background, which makes no other version.
CREATE TRIGGER written BEFORE INSERT OR UPDATE OF number, id, account, environment, url, status,
    disabled_by, secret, previous_secret, previous_until, verified_at, created_at
ON keyward.endpoint FOR EACH ROW EXECUTE FUNCTION keyward.endpoint_written();

-- The first deliveries are switched at once. Programs switch the rest in steps.
CREATE FUNCTION keyward.endpoint_switched() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE keyward.endpoint SET switching = keyward.switch_some(NEW.id, 256) WHERE id = NEW.id;
    RETURN NULL;
END $$;

-- Switches some deliveries of an endpoint, and returns whether there may be more.
CREATE FUNCTION keyward.switch_some(which text, most bigint) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    is_on boolean := (SELECT status = 'enabled' FROM keyward.endpoint WHERE id = which);
    switched bigint;
BEGIN
    IF is_on THEN
        UPDATE keyward.delivery SET status = 'pending' WHERE ctid = ANY (ARRAY(
            SELECT ctid FROM keyward.delivery WHERE endpoint = which AND status = 'held'
            ORDER BY due_at LIMIT most FOR UPDATE));
    ELSE
        UPDATE keyward.delivery SET status = 'held' WHERE ctid = ANY (ARRAY(
            SELECT ctid FROM keyward.delivery WHERE endpoint = which AND status = 'pending'
            ORDER BY due_at LIMIT most FOR UPDATE));
    END IF;
    GET DIAGNOSTICS switched = ROW_COUNT;
    RETURN switched >= most;
END $$;

CREATE TRIGGER switched AFTER UPDATE OF status ON keyward.endpoint
    FOR EACH ROW WHEN ((NEW.status = 'enabled') <> (OLD.status = 'enabled'))
    EXECUTE FUNCTION keyward.endpoint_switched();

CREATE FUNCTION keyward.message_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM keyward.refuse('a message never changes');
    RETURN NULL;
END $$;

CREATE TRIGGER changed BEFORE UPDATE ON keyward.message
    FOR EACH ROW EXECUTE FUNCTION keyward.message_changed();

CREATE FUNCTION keyward.delivery_moved() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM keyward.refuse('a delivery is of one message to one endpoint');
    RETURN NULL;
END $$;

CREATE TRIGGER moved BEFORE UPDATE OF account, environment, message, endpoint ON keyward.delivery
    FOR EACH ROW EXECUTE FUNCTION keyward.delivery_moved();

-- Claims of all programs take turns: each finds what the ones before have left.
CREATE FUNCTION keyward.claim_lock() RETURNS void LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$ SELECT pg_advisory_xact_lock(30229394876363367) $$;
