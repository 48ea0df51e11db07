-- Usage by label and outcome, and of what period a row of usage is.

INSERT INTO keyward_meta VALUES (17);

-- 1, unless the usage was rolled up.
ALTER TABLE keyward_usage ADD COLUMN hours INTEGER NOT NULL DEFAULT 1
    CHECK (typeof(hours) = 'integer' AND hours >= 1);

-- Of the requests with a label, which are also in keyward_usage.
CREATE TABLE keyward_usage_label (
    key TEXT NOT NULL CHECK (typeof(key) = 'text'),
    label TEXT NOT NULL CHECK (
        typeof(label) = 'text' AND length(label) <= 23
        AND label GLOB '[a-z]*' AND label NOT GLOB '*[^a-z0-9._-]*'
    ),
    hour INTEGER NOT NULL CHECK (typeof(hour) = 'integer'),
    hours INTEGER NOT NULL DEFAULT 1 CHECK (typeof(hours) = 'integer' AND hours >= 1),
    admitted INTEGER NOT NULL CHECK (typeof(admitted) = 'integer' AND admitted >= 0),
    refused INTEGER NOT NULL CHECK (typeof(refused) = 'integer' AND refused >= 0),
    -- Of the admitted requests: responses with a 4xx, with a 5xx, and none.
    client_errors INTEGER NOT NULL CHECK (typeof(client_errors) = 'integer' AND client_errors >= 0),
    server_errors INTEGER NOT NULL CHECK (typeof(server_errors) = 'integer' AND server_errors >= 0),
    unanswered INTEGER NOT NULL CHECK (typeof(unanswered) = 'integer' AND unanswered >= 0),
    units INTEGER NOT NULL DEFAULT 0 CHECK (typeof(units) = 'integer' AND units >= 0),
    PRIMARY KEY (key, label, hour)
) WITHOUT ROWID;
