-- The rights of a service at run time. The owner of the schema, which runs the migrations, runs this
-- after each of them. Make the login roles of the services members: GRANT keyward_service TO my_api.
--
-- The role writes everything that a store writes in the course of requests and management calls. It can
-- drop, alter and truncate nothing, cannot change or delete a line of the audit log, and cannot touch the
-- history.
--
-- keyward_maintenance can do what retention needs too: prune dead keys, merge usage, cut the exported
-- audit log and erase accounts. It is for the program that runs them, and for no other.

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'keyward_service') THEN
        CREATE ROLE keyward_service NOLOGIN;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'keyward_maintenance') THEN
        CREATE ROLE keyward_maintenance NOLOGIN IN ROLE keyward_service;
    END IF;
EXCEPTION
    WHEN duplicate_object OR unique_violation THEN NULL;
END $$;

GRANT USAGE ON SCHEMA keyward TO keyward_service;
GRANT SELECT ON keyward.meta, keyward.rev_log, keyward.change TO keyward_service;
GRANT SELECT, INSERT, UPDATE ON keyward.account, keyward.epoch, keyward.key TO keyward_service;
GRANT SELECT, INSERT ON keyward.token, keyward.audit TO keyward_service;
GRANT SELECT ON keyward.revoked_digest, keyward.key_revoked, keyward.tombstone TO keyward_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON keyward.credit, keyward.credit_held,
    keyward.usage, keyward.usage_key, keyward.usage_node, keyward.node TO keyward_service;
-- Messages and deliveries that are over are deleted in the background, and endpoints after them.
GRANT SELECT, INSERT, UPDATE, DELETE
    ON keyward.endpoint, keyward.message, keyward.delivery, keyward.redelivery
    TO keyward_service;
GRANT SELECT, INSERT, DELETE ON keyward.attempt TO keyward_service;
GRANT EXECUTE ON FUNCTION keyward.prune(bigint) TO keyward_service;

GRANT DELETE ON keyward.account, keyward.epoch, keyward.key, keyward.token TO keyward_maintenance;
GRANT UPDATE, DELETE ON keyward.audit TO keyward_maintenance;
GRANT INSERT, UPDATE ON keyward.tombstone TO keyward_maintenance;
GRANT SELECT, INSERT ON keyward.revoked_digest, keyward.audit_cut, keyward.erased
    TO keyward_maintenance;
GRANT SELECT, INSERT, UPDATE, DELETE ON keyward.erasing TO keyward_maintenance;
