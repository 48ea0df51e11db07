-- Accounts and their keys, the audit log, usage and credits, in a schema of their own.
--
-- Triggers enforce what must hold whoever writes: a program, psql, or the application's own
-- transactions. All functions of triggers run with the rights of the schema's owner.

DO $$
BEGIN
    IF to_regnamespace('keyward') IS NULL THEN
        CREATE SCHEMA keyward;
    END IF;
END $$;

-- schema_version is the number of the last migration. min_reader is the lowest schema_version that a
-- program must know to work with these tables: while it is lower, older programs go on running.
CREATE TABLE keyward.meta (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    schema_version integer NOT NULL,
    min_reader integer NOT NULL
);

INSERT INTO keyward.meta (schema_version, min_reader) VALUES (1, 1);

CREATE FUNCTION keyward.random_bigint() RETURNS bigint LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT ('x' || left(gen_random_uuid()::text, 8) || left(gen_random_uuid()::text, 8))::bit(64)::bigint
$$;

-- ---------------------------------------------------------------------------------------------------
-- The history, which the programs follow.
--
-- A transaction that changes keys or accounts gets one revision, at its commit: a deferred trigger
-- takes a lock that is held until the commit is visible, and then the next number. So whoever sees a
-- revision sees all lower ones. A number that is given when a row is written (serial, identity) has no
-- such order, and a program that reads "all above the last that I have seen" would miss rows.
--
-- The nonce is random: a history that was lost, as with a restored backup, and written anew does not
-- repeat it. A program that does not find its revision here, lost or pruned, reads everything.

CREATE SEQUENCE keyward.rev_seq;

CREATE TABLE keyward.rev_log (
    rev bigint PRIMARY KEY,
    nonce bigint NOT NULL DEFAULT keyward.random_bigint(),
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);

INSERT INTO keyward.rev_log (rev) VALUES (nextval('keyward.rev_seq'));

-- kind is 'k' for a key, 'a' for an account, and '*' if everything must be read again. If the row that
-- id names is gone, everything must be read again too.
CREATE TABLE keyward.change (
    rev bigint NOT NULL,
    kind "char" NOT NULL,
    id text COLLATE "C" NOT NULL,
    PRIMARY KEY (rev, kind, id)
);

CREATE FUNCTION keyward.commit_lock() RETURNS void LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$ SELECT pg_advisory_xact_lock(30229394876363364) $$;

CREATE FUNCTION keyward.note_change(kind "char", id text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    ours text := current_setting('keyward.revision', true);
    me text := pg_current_xact_id()::text;
    number bigint;
BEGIN
    IF split_part(ours, ':', 1) = me THEN
        number := split_part(ours, ':', 2)::bigint;
    ELSE
        PERFORM keyward.commit_lock();
        number := nextval('keyward.rev_seq');
        INSERT INTO keyward.rev_log (rev) VALUES (number);
        PERFORM set_config('keyward.revision', me || ':' || number, true);
        -- A hint, so that programs look sooner. Nothing depends on its arrival.
        PERFORM pg_notify('keyward', '');
    END IF;
    INSERT INTO keyward.change VALUES (number, $1, $2) ON CONFLICT DO NOTHING;
END $$;

-- Makes every program read everything again: after tables were changed with their triggers disabled.
CREATE FUNCTION keyward.resync() RETURNS void LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$ SELECT keyward.note_change('*', '') $$;

-- ---------------------------------------------------------------------------------------------------
-- Accounts and keys.

CREATE SEQUENCE keyward.row_revision;

CREATE TABLE keyward.account (
    id text COLLATE "C" PRIMARY KEY
        CHECK (length(id) BETWEEN 1 AND 128 AND id ~ '^[!-~]+$'),
    -- The version of the row: another after every change.
    revision bigint NOT NULL DEFAULT 0,
    status text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'suspended')),
    api_access boolean NOT NULL DEFAULT true,
    -- NULL: as many as the service allows.
    max_active_keys bigint CHECK (max_active_keys BETWEEN 0 AND 4294967295),
    -- The number of times that all its keys were revoked.
    revoked_all bigint NOT NULL DEFAULT 0 CHECK (revoked_all BETWEEN 0 AND 4294967295),
    -- Each count/seconds;burst, with spaces between them: of each key that has none of its own, and of
    -- all keys of an environment together.
    rate_limits text NOT NULL DEFAULT '' CHECK (rate_limits ~ '^[0-9/; ]*$'),
    shared_rate_limits text NOT NULL DEFAULT '' CHECK (shared_rate_limits ~ '^[0-9/; ]*$'),
    -- The epoch of its balance in keyward.credit; NULL: its keys are not limited by credits.
    credits bigint CHECK (credits BETWEEN 1 AND 4294967295)
);

-- The number of times that all keys of an environment were revoked. A key whose epoch is below the sum
-- of this and the account's revoked_all is dead.
CREATE TABLE keyward.epoch (
    account text COLLATE "C" NOT NULL REFERENCES keyward.account (id),
    environment text COLLATE "C" NOT NULL
        CHECK (length(environment) <= 15 AND environment ~ '^[a-z][a-z0-9-]*$'),
    revoked bigint NOT NULL CHECK (revoked BETWEEN 0 AND 4294967295),
    PRIMARY KEY (account, environment)
);

CREATE TABLE keyward.key (
    id text COLLATE "C" PRIMARY KEY CHECK (id ~ '^key_[0-9A-Za-z]{12}$'),
    revision bigint NOT NULL DEFAULT 0,
    digest_scheme text NOT NULL CHECK (
        digest_scheme IN ('sha256', 'sha256-of-secret', 'sha512') OR digest_scheme ~ '^hmac-sha256:.'
    ),
    digest bytea NOT NULL UNIQUE CHECK (length(digest) = 32),
    -- The number of times that the digest was replaced by one of another scheme.
    redigested bigint NOT NULL DEFAULT 0 CHECK (redigested BETWEEN 0 AND 4294967295),
    hint text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL DEFAULT '',
    account text COLLATE "C" NOT NULL REFERENCES keyward.account (id),
    environment text COLLATE "C" NOT NULL
        CHECK (length(environment) <= 15 AND environment ~ '^[a-z][a-z0-9-]*$'),
    kind text NOT NULL DEFAULT 'secret' CHECK (kind IN ('secret', 'publishable')),
    -- With spaces between them.
    scopes text NOT NULL DEFAULT '',
    -- With spaces between them; NULL: any origin.
    origins text CHECK (btrim(origins) <> ''),
    -- Whether a request without Origin passes where origins are listed.
    no_origin boolean NOT NULL DEFAULT false,
    -- The allowlist of network addresses, with spaces between them; NULL: any address.
    addresses text CHECK (btrim(addresses) <> ''),
    rate_limits text NOT NULL DEFAULT '' CHECK (rate_limits ~ '^[0-9/; ]*$'),
    -- The epoch of its own balance in keyward.credit; NULL: it spends its account's.
    credits bigint CHECK (credits BETWEEN 1 AND 4294967295),
    -- A JSON object, as text: it is given back byte for byte.
    metadata text NOT NULL DEFAULT '{}' CHECK (octet_length(metadata) BETWEEN 2 AND 4096),
    epoch bigint NOT NULL DEFAULT 0 CHECK (epoch BETWEEN 0 AND 4294967295),
    status text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'disabled', 'revoked')),
    -- Who disabled it: the class, and the name as in the audit log. NULL: it is not known.
    disabled_by text CHECK (disabled_by IN ('operator', 'user', 'key')),
    disabled_by_name text,
    -- Who created it, as in the audit log. NULL: it is not known.
    created_by text COLLATE "C",
    created_at timestamptz NOT NULL DEFAULT now() CHECK (isfinite(created_at)),
    -- The key does not work before. NULL: it works since it was created.
    not_before timestamptz CHECK (isfinite(not_before)),
    -- NULL: never.
    expires_at timestamptz CHECK (isfinite(expires_at)),
    revoked_at timestamptz CHECK (isfinite(revoked_at)),
    revoked_for text NOT NULL DEFAULT '',
    -- The first key of its chain of rotations, which shares what is counted and limited.
    lineage text COLLATE "C" NOT NULL CHECK (lineage ~ '^key_[0-9A-Za-z]{12}$'),
    -- The keys before and after it in a rotation.
    predecessor text COLLATE "C" CHECK (predecessor ~ '^key_[0-9A-Za-z]{12}$'),
    successor text COLLATE "C" CHECK (successor ~ '^key_[0-9A-Za-z]{12}$')
);

-- The order of the list. A page begins at a time that is never before 1970.
CREATE INDEX key_by_account ON keyward.key
    (account, (greatest(created_at, timestamptz '1970-01-01 00:00:00+00')), id);
CREATE INDEX key_not_revoked ON keyward.key
    (account, (greatest(created_at, timestamptz '1970-01-01 00:00:00+00')), id)
    WHERE status <> 'revoked';

CREATE INDEX key_by_creation ON keyward.key
    ((greatest(created_at, timestamptz '1970-01-01 00:00:00+00')), id);
-- The last four characters of a key.
CREATE INDEX key_by_hint ON keyward.key
    (right(hint, 4), (greatest(created_at, timestamptz '1970-01-01 00:00:00+00')), id);
-- With this collation, lower() changes the case of ASCII alone.
CREATE INDEX key_by_name ON keyward.key
    (lower(name), (greatest(created_at, timestamptz '1970-01-01 00:00:00+00')) DESC, id DESC);
-- Most keys were never rotated: those are found by their id.
CREATE INDEX key_by_lineage ON keyward.key (lineage) WHERE lineage <> id;
CREATE INDEX key_by_creator ON keyward.key
    (created_by, (greatest(created_at, timestamptz '1970-01-01 00:00:00+00')), id)
    WHERE created_by IS NOT NULL;
CREATE INDEX account_by_status ON keyward.account (status, id);

-- Digests of revoked keys whose row is gone or has another digest: they never work again.
CREATE TABLE keyward.revoked_digest (
    digest bytea PRIMARY KEY
);

-- By which a create that is repeated finds its key.
CREATE TABLE keyward.token (
    account text COLLATE "C" NOT NULL REFERENCES keyward.account (id),
    token text COLLATE "C" NOT NULL,
    -- The key may have been pruned: its token creates no other.
    key text COLLATE "C" NOT NULL,
    PRIMARY KEY (account, token)
);

-- ---------------------------------------------------------------------------------------------------
-- Retention: what is left of keys that were pruned, of a cut audit log, and of erased accounts.

CREATE TABLE keyward.tombstone (
    key text COLLATE "C" PRIMARY KEY CHECK (key ~ '^key_[0-9A-Za-z]{12}$'),
    hint text COLLATE "C" NOT NULL,
    account text COLLATE "C" NOT NULL,
    environment text COLLATE "C" NOT NULL,
    lineage text COLLATE "C" NOT NULL,
    cause text NOT NULL CHECK (cause IN ('revoked', 'expired')),
    revoked_for text NOT NULL,
    died_at timestamptz NOT NULL,
    last_used_at timestamptz,
    pruned_at timestamptz NOT NULL
);

CREATE INDEX tombstone_by_hint ON keyward.tombstone (hint, key);
CREATE INDEX tombstone_by_account ON keyward.tombstone (account, key);

-- The keys that may be pruned, and the own balances of chains.
CREATE INDEX key_by_revocation ON keyward.key (revoked_at) WHERE status = 'revoked';
CREATE INDEX key_by_expiry ON keyward.key (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX key_with_credits ON keyward.key (lineage) WHERE credits IS NOT NULL;

-- The cuts of the audit log: what was exported, and then deleted.
CREATE TABLE keyward.audit_cut (
    through bigint PRIMARY KEY CHECK (through > 0),
    lines bigint NOT NULL CHECK (lines >= 0),
    sha256 bytea NOT NULL CHECK (length(sha256) = 32),
    at timestamptz NOT NULL
);

-- The accounts that are being erased, and the pseudonyms of those that were.
CREATE TABLE keyward.erasing (
    account text COLLATE "C" PRIMARY KEY,
    pseudonym text COLLATE "C" NOT NULL
);

CREATE TABLE keyward.erased (
    pseudonym text COLLATE "C" PRIMARY KEY,
    at timestamptz NOT NULL
);

-- ---------------------------------------------------------------------------------------------------
-- The audit log, including refused calls. It refers to nothing: what it tells of may be gone. Numbers
-- are given in the order of commits, so who has read up to a number has read all.

CREATE SEQUENCE keyward.audit_number;

CREATE TABLE keyward.audit (
    number bigint PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp() CHECK (isfinite(at)),
    actor text NOT NULL,
    action text NOT NULL,
    account text COLLATE "C",
    environment text COLLATE "C"
        CHECK (length(environment) <= 15 AND environment ~ '^[a-z][a-z0-9-]*$'),
    key text COLLATE "C",
    -- Why nothing was done; NULL: it was done.
    refused text,
    detail text NOT NULL DEFAULT '',
    reason text NOT NULL DEFAULT ''
);

CREATE INDEX audit_by_account ON keyward.audit (account, number);
CREATE INDEX audit_by_environment ON keyward.audit (account, environment, number)
    WHERE environment IS NOT NULL;

CREATE FUNCTION keyward.audit_inserted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM keyward.commit_lock();
    NEW.number := nextval('keyward.audit_number');
    NEW.at := date_trunc('milliseconds', NEW.at);
    RETURN NEW;
END $$;

-- A line is deleted after a cut was recorded, and changes once, when its account is erased: to the
-- pseudonym, and without names and texts.
CREATE FUNCTION keyward.audit_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        IF OLD.number <= (SELECT max(through) FROM keyward.audit_cut) THEN
            RETURN OLD;
        END IF;
    ELSIF TG_OP = 'UPDATE' THEN
        IF EXISTS (SELECT FROM keyward.erasing
                WHERE account = OLD.account AND pseudonym = NEW.account)
            AND EXISTS (SELECT FROM keyward.erased WHERE pseudonym = NEW.account)
            AND NEW.number = OLD.number AND NEW.at = OLD.at AND NEW.action = OLD.action
            AND NEW.environment IS NOT DISTINCT FROM OLD.environment
            AND NEW.key IS NOT DISTINCT FROM OLD.key
            AND NEW.refused IS NOT DISTINCT FROM OLD.refused
            AND NEW.detail = '' AND NEW.reason = ''
            AND NEW.actor = (CASE WHEN OLD.actor LIKE 'user:%' THEN 'user:' || NEW.account
                ELSE OLD.actor END)
        THEN
            RETURN NEW;
        END IF;
    END IF;
    RAISE EXCEPTION USING ERRCODE = 'integrity_constraint_violation',
        MESSAGE = 'the audit log only grows';
END $$;

CREATE FUNCTION keyward.tombstone_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        IF EXISTS (SELECT FROM keyward.erasing
                WHERE account = OLD.account AND pseudonym = NEW.account)
            AND NEW.key = OLD.key AND NEW.revoked_for = ''
        THEN
            RETURN NEW;
        END IF;
    END IF;
    RAISE EXCEPTION USING ERRCODE = 'integrity_constraint_violation',
        MESSAGE = 'the tombstone of a key stays';
END $$;

CREATE FUNCTION keyward.kept_for_good() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'integrity_constraint_violation',
        MESSAGE = 'rows of ' || TG_TABLE_NAME || ' are kept for good';
END $$;

CREATE TRIGGER changed BEFORE UPDATE OR DELETE ON keyward.tombstone
    FOR EACH ROW EXECUTE FUNCTION keyward.tombstone_changed();
CREATE TRIGGER truncated BEFORE TRUNCATE ON keyward.tombstone
    FOR EACH STATEMENT EXECUTE FUNCTION keyward.kept_for_good();
CREATE TRIGGER changed BEFORE UPDATE OR DELETE ON keyward.revoked_digest
    FOR EACH ROW EXECUTE FUNCTION keyward.kept_for_good();
CREATE TRIGGER truncated BEFORE TRUNCATE ON keyward.revoked_digest
    FOR EACH STATEMENT EXECUTE FUNCTION keyward.kept_for_good();
CREATE TRIGGER changed BEFORE UPDATE OR DELETE ON keyward.audit_cut
    FOR EACH ROW EXECUTE FUNCTION keyward.kept_for_good();
CREATE TRIGGER truncated BEFORE TRUNCATE ON keyward.audit_cut
    FOR EACH STATEMENT EXECUTE FUNCTION keyward.kept_for_good();
CREATE TRIGGER changed BEFORE UPDATE OR DELETE ON keyward.erased
    FOR EACH ROW EXECUTE FUNCTION keyward.kept_for_good();
CREATE TRIGGER truncated BEFORE TRUNCATE ON keyward.erased
    FOR EACH STATEMENT EXECUTE FUNCTION keyward.kept_for_good();

CREATE TRIGGER inserted BEFORE INSERT ON keyward.audit
    FOR EACH ROW EXECUTE FUNCTION keyward.audit_inserted();
CREATE TRIGGER changed BEFORE UPDATE OR DELETE ON keyward.audit
    FOR EACH ROW EXECUTE FUNCTION keyward.audit_changed();
CREATE TRIGGER truncated BEFORE TRUNCATE ON keyward.audit
    FOR EACH STATEMENT EXECUTE FUNCTION keyward.audit_changed();

-- ---------------------------------------------------------------------------------------------------
-- Rows of accounts and keys: their versions, and what may never be written.

CREATE FUNCTION keyward.is_revoked(one keyward.key) RETURNS boolean LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT one.status = 'revoked' OR one.epoch < least(4294967295,
        coalesce((SELECT revoked_all FROM keyward.account WHERE id = one.account), 0)
        + coalesce((SELECT revoked FROM keyward.epoch
            WHERE account = one.account AND environment = one.environment), 0))
$$;

CREATE VIEW keyward.key_revoked AS
SELECT id, digest, name, account, environment, revoked_at, revoked_for FROM keyward.key AS one
WHERE keyward.is_revoked(one);

CREATE FUNCTION keyward.refuse(why text) RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'integrity_constraint_violation', MESSAGE = why;
END $$;

CREATE FUNCTION keyward.account_written() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        IF NEW.id <> OLD.id THEN
            PERFORM keyward.refuse('the id of an account never changes');
        ELSIF NEW.revoked_all < OLD.revoked_all THEN
            PERFORM keyward.refuse('revoked keys stay revoked: revoked_all only grows');
        END IF;
    END IF;
    NEW.revision := nextval('keyward.row_revision');
    RETURN NEW;
END $$;

CREATE FUNCTION keyward.epoch_written() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        -- The counters go with the last key of an account that is erased.
        IF EXISTS (SELECT FROM keyward.erasing WHERE account = OLD.account)
            AND NOT EXISTS (SELECT FROM keyward.key WHERE account = OLD.account)
        THEN
            RETURN OLD;
        END IF;
        PERFORM keyward.refuse('revoked keys stay revoked: revoked only grows');
    ELSIF TG_OP = 'TRUNCATE' THEN
        PERFORM keyward.refuse('revoked keys stay revoked: revoked only grows');
    ELSIF TG_OP = 'UPDATE' AND (
        NEW.revoked < OLD.revoked OR NEW.account <> OLD.account OR NEW.environment <> OLD.environment
    ) THEN
        PERFORM keyward.refuse('revoked keys stay revoked: revoked only grows');
    END IF;
    -- Another version of the account, by its own trigger.
    UPDATE keyward.account SET revision = 0 WHERE id = NEW.account;
    RETURN NEW;
END $$;

CREATE FUNCTION keyward.key_written() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    was_revoked boolean;
    is_other_digest boolean := true;
BEGIN
    IF TG_OP = 'UPDATE' THEN
        was_revoked := keyward.is_revoked(OLD);
        is_other_digest := NEW.digest <> OLD.digest;
        IF NEW.id <> OLD.id THEN
            PERFORM keyward.refuse('the id of a key never changes');
        ELSIF NEW.redigested <> OLD.redigested
            + (is_other_digest OR NEW.digest_scheme <> OLD.digest_scheme)::int
        THEN
            -- By the count a program knows that it has the key under an older digest.
            PERFORM keyward.refuse('redigested counts the digests of a key');
        ELSIF was_revoked AND NOT keyward.is_revoked(NEW) THEN
            PERFORM keyward.refuse('a revoked key stays revoked: create another');
        END IF;
        IF was_revoked AND is_other_digest THEN
            INSERT INTO keyward.revoked_digest VALUES (OLD.digest) ON CONFLICT DO NOTHING;
        END IF;
        IF NEW.status = 'revoked' AND OLD.status <> 'revoked' AND NEW.revoked_at IS NULL
            AND current_setting('keyward.writer', true) IS DISTINCT FROM 'store'
        THEN
            NEW.revoked_at := clock_timestamp();
        END IF;
        is_other_digest := is_other_digest OR NEW.status <> OLD.status;
    ELSIF EXISTS (SELECT FROM keyward.tombstone WHERE key = NEW.id) THEN
        PERFORM keyward.refuse('a key with this id was pruned: create another');
    END IF;
    IF is_other_digest AND NEW.status <> 'revoked'
        AND EXISTS (SELECT FROM keyward.revoked_digest WHERE digest = NEW.digest)
    THEN
        PERFORM keyward.refuse('a revoked key stays revoked: create another');
    END IF;
    -- A key that is not disabled was disabled by nobody.
    IF NEW.status <> 'disabled' THEN
        NEW.disabled_by := NULL;
        NEW.disabled_by_name := NULL;
    END IF;
    -- Lists are in the order of milliseconds.
    NEW.created_at := date_trunc('milliseconds', NEW.created_at);
    NEW.not_before := date_trunc('milliseconds', NEW.not_before + interval '0.999 milliseconds');
    NEW.expires_at := date_trunc('milliseconds', NEW.expires_at);
    NEW.revoked_at := date_trunc('milliseconds', NEW.revoked_at);
    NEW.revision := nextval('keyward.row_revision');
    RETURN NEW;
END $$;

CREATE FUNCTION keyward.key_deleted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        INSERT INTO keyward.revoked_digest SELECT digest FROM keyward.key_revoked
        ON CONFLICT DO NOTHING;
    ELSIF keyward.is_revoked(OLD) THEN
        INSERT INTO keyward.revoked_digest VALUES (OLD.digest) ON CONFLICT DO NOTHING;
    END IF;
    RETURN OLD;
END $$;

CREATE FUNCTION keyward.account_truncated() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM keyward.refuse('revoked keys stay revoked: accounts are not truncated');
    RETURN NULL;
END $$;

CREATE TRIGGER written BEFORE INSERT OR UPDATE ON keyward.account
    FOR EACH ROW EXECUTE FUNCTION keyward.account_written();
CREATE TRIGGER truncated BEFORE TRUNCATE ON keyward.account
    FOR EACH STATEMENT EXECUTE FUNCTION keyward.account_truncated();
CREATE TRIGGER written BEFORE INSERT OR UPDATE OR DELETE ON keyward.epoch
    FOR EACH ROW EXECUTE FUNCTION keyward.epoch_written();
CREATE TRIGGER truncated BEFORE TRUNCATE ON keyward.epoch
    FOR EACH STATEMENT EXECUTE FUNCTION keyward.epoch_written();
CREATE TRIGGER written BEFORE INSERT OR UPDATE ON keyward.key
    FOR EACH ROW EXECUTE FUNCTION keyward.key_written();
CREATE TRIGGER deleted BEFORE DELETE ON keyward.key
    FOR EACH ROW EXECUTE FUNCTION keyward.key_deleted();
CREATE TRIGGER truncated BEFORE TRUNCATE ON keyward.key
    FOR EACH STATEMENT EXECUTE FUNCTION keyward.key_deleted();

-- ---------------------------------------------------------------------------------------------------
-- At the commit: the revision, and lines of the audit log for what was typed.

CREATE FUNCTION keyward.stamp() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        PERFORM keyward.note_change('*', '');
    ELSIF TG_OP <> 'DELETE' THEN
        PERFORM keyward.note_change(TG_ARGV[0]::"char", NEW.id);
    ELSIF TG_ARGV[0] = 'a' THEN
        PERFORM keyward.note_change('a', OLD.id);
    ELSIF NOT (keyward.is_revoked(OLD)
        OR coalesce(OLD.expires_at < clock_timestamp() - interval '1 hour', false)
        OR EXISTS (SELECT FROM keyward.tombstone AS buried
            WHERE buried.key = OLD.id AND OLD.expires_at <= buried.pruned_at))
    THEN
        -- A dead key needs no trace: programs remember it as dead, or have forgotten it.
        PERFORM keyward.note_change('k', OLD.id);
    END IF;
    RETURN NULL;
END $$;

CREATE CONSTRAINT TRIGGER stamp AFTER INSERT OR UPDATE OR DELETE ON keyward.account
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION keyward.stamp('a');
CREATE CONSTRAINT TRIGGER stamp AFTER INSERT OR UPDATE OR DELETE ON keyward.key
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION keyward.stamp('k');
CREATE TRIGGER stamp_truncated AFTER TRUNCATE ON keyward.key
    FOR EACH STATEMENT EXECUTE FUNCTION keyward.stamp('k');

-- A store sets keyward.writer in its transactions, and adds its own lines; all else was typed.
CREATE FUNCTION keyward.key_typed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    INSERT INTO keyward.audit (actor, action, account, environment, key, reason)
    VALUES (
        'psql',
        CASE NEW.status WHEN 'revoked' THEN 'revoke' WHEN 'disabled' THEN 'disable' ELSE 'enable' END,
        NEW.account, NEW.environment, NEW.id,
        CASE NEW.status WHEN 'revoked' THEN NEW.revoked_for ELSE '' END
    );
    RETURN NULL;
END $$;

CREATE FUNCTION keyward.account_typed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NEW.revoked_all <> OLD.revoked_all THEN
        INSERT INTO keyward.audit (actor, action, account, detail)
        VALUES ('psql', 'revoke_all', NEW.id, 'environment=*');
    ELSE
        INSERT INTO keyward.audit (actor, action, account, detail)
        VALUES ('psql', 'update_account', NEW.id,
            'status=' || NEW.status || ' api_access=' || NEW.api_access::text);
    END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION keyward.epoch_typed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    INSERT INTO keyward.audit (actor, action, account, environment, detail)
    VALUES ('psql', 'revoke_all', NEW.account, NEW.environment, 'environment=' || NEW.environment);
    RETURN NULL;
END $$;

CREATE CONSTRAINT TRIGGER typed AFTER UPDATE ON keyward.key
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (NEW.status <> OLD.status
        AND current_setting('keyward.writer', true) IS DISTINCT FROM 'store')
    EXECUTE FUNCTION keyward.key_typed();
CREATE CONSTRAINT TRIGGER typed AFTER UPDATE ON keyward.account
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN ((NEW.status <> OLD.status OR NEW.api_access <> OLD.api_access
            OR NEW.revoked_all <> OLD.revoked_all)
        AND current_setting('keyward.writer', true) IS DISTINCT FROM 'store')
    EXECUTE FUNCTION keyward.account_typed();
CREATE CONSTRAINT TRIGGER typed AFTER INSERT OR UPDATE ON keyward.epoch
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (current_setting('keyward.writer', true) IS DISTINCT FROM 'store')
    EXECUTE FUNCTION keyward.epoch_typed();

-- ---------------------------------------------------------------------------------------------------
-- Credits. Without triggers: spending is no change of a key. What a process has drawn and not spent is
-- not in the balance. Every update leaves the row where it is: no index holds what changes.

CREATE TABLE keyward.credit (
    -- 'account:' and the id of an account, or the id of the first key of a chain of rotations.
    owner text COLLATE "C" PRIMARY KEY CHECK (owner ~ '^(account:.|key_)'),
    -- Grows whenever the balance is replaced: what was drawn before is void.
    epoch bigint NOT NULL CHECK (epoch BETWEEN 1 AND 4294967295),
    remaining bigint NOT NULL CHECK (remaining >= 0),
    -- The balance below which handlers and clients are told; zero: never.
    warn_below bigint NOT NULL DEFAULT 0 CHECK (warn_below >= 0),
    -- What the balance is replaced by, and when; NULL: nothing.
    refill_at timestamptz CHECK (isfinite(refill_at)),
    refill_to bigint CHECK (refill_to >= 0),
    -- The balance up to which a refill adds refill_to to what is left; NULL: it replaces what is left.
    roll_over bigint CHECK (roll_over >= 0),
    -- The calendar of the refills after refill_at: 'month Europe/Berlin', or 'month UTC 2026-01-31' for
    -- one that is counted from a date. NULL: there are none.
    schedule text,
    CHECK ((refill_at IS NULL) = (refill_to IS NULL)),
    CHECK (refill_at IS NOT NULL OR roll_over IS NULL AND schedule IS NULL)
) WITH (fillfactor = 70);

-- What processes have drawn and not spent, so that a balance can be shown exactly. It decides nothing:
-- what was not reported lately is of a process that is gone.
CREATE TABLE keyward.credit_held (
    owner text COLLATE "C" NOT NULL,
    node bigint NOT NULL,
    epoch bigint NOT NULL,
    held bigint NOT NULL,
    reported_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (owner, node)
) WITH (fillfactor = 70);

-- ---------------------------------------------------------------------------------------------------
-- Usage, per key, label and hour counted from 1970, and the last use. Without triggers too.

CREATE TABLE keyward.usage (
    key text COLLATE "C" NOT NULL,
    -- '' for all requests, of which those with a label are a part.
    label text COLLATE "C" NOT NULL DEFAULT ''
        CHECK (label = '' OR length(label) <= 23 AND label ~ '^[a-z][a-z0-9._-]*$'),
    hour bigint NOT NULL,
    -- The length of the period: 1, unless the usage was rolled up.
    hours bigint NOT NULL DEFAULT 1 CHECK (hours >= 1),
    admitted bigint NOT NULL CHECK (admitted >= 0),
    refused bigint NOT NULL CHECK (refused >= 0),
    -- Of the admitted requests with a label: responses with a 4xx, with a 5xx, and none.
    client_errors bigint NOT NULL DEFAULT 0 CHECK (client_errors >= 0),
    server_errors bigint NOT NULL DEFAULT 0 CHECK (server_errors >= 0),
    unanswered bigint NOT NULL DEFAULT 0 CHECK (unanswered >= 0),
    units bigint NOT NULL DEFAULT 0 CHECK (units >= 0),
    PRIMARY KEY (key, label, hour)
) WITH (fillfactor = 70);

CREATE TABLE keyward.usage_key (
    key text COLLATE "C" PRIMARY KEY,
    last_used_at timestamptz NOT NULL,
    -- The network from which it was used last: 24 bits of IPv4, or 48 of IPv6. NULL: it was not recorded.
    last_network text
) WITH (fillfactor = 70);

CREATE INDEX usage_by_hour ON keyward.usage (hour, key) WHERE hours < 672;

-- The last batch that a process has written: one that comes again is not counted again.
CREATE TABLE keyward.usage_node (
    node bigint PRIMARY KEY,
    sequence bigint NOT NULL,
    written_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 70);

-- ---------------------------------------------------------------------------------------------------
-- The processes that answer requests. Each registers itself before it reads the keys, and tells which
-- revision it has applied.

CREATE TABLE keyward.node (
    node bigint PRIMARY KEY,
    label text NOT NULL,
    acked_rev bigint NOT NULL,
    -- How old its memory may be when it answers a request.
    max_staleness_ms bigint NOT NULL,
    heartbeat_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 70);

-- Forgets old history and processes that are gone. Programs call it once a minute, one at a time.
CREATE FUNCTION keyward.prune(keep bigint DEFAULT 10000) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    last bigint := (SELECT max(rev) FROM keyward.rev_log) - greatest(keep, 1);
BEGIN
    IF NOT pg_try_advisory_xact_lock(30229394876363365) THEN
        RETURN;
    END IF;
    -- First the revisions: a program that finds its own finds all changes above it.
    DELETE FROM keyward.rev_log WHERE rev <= last;
    DELETE FROM keyward.change WHERE ctid IN (
        SELECT ctid FROM keyward.change WHERE rev <= last ORDER BY rev LIMIT 50000
    );
    DELETE FROM keyward.node
    WHERE heartbeat_at < clock_timestamp() - interval '1 day'
        - max_staleness_ms * interval '1 millisecond';
    DELETE FROM keyward.usage_node WHERE written_at < clock_timestamp() - interval '7 days';
    DELETE FROM keyward.credit_held WHERE reported_at < clock_timestamp() - interval '1 minute';
END $$;

-- What only the schema's owner and those whom it grants may run.
REVOKE ALL ON FUNCTION keyward.note_change("char", text), keyward.resync(), keyward.prune(bigint)
    FROM PUBLIC;
