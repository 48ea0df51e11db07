-- What processes have taken out of keyward_credit and not spent, so that a balance can be shown exactly.
-- It decides nothing: who reads it adds what was reported lately, and what is old is of a process that
-- is gone.

INSERT INTO keyward_meta VALUES (4);

CREATE TABLE keyward_credit_held (
    owner TEXT NOT NULL CHECK (typeof(owner) = 'text'),
    -- The process, by the number that its batches of usage have.
    node INTEGER NOT NULL CHECK (typeof(node) = 'integer'),
    -- Of the balance that it was taken from.
    epoch INTEGER NOT NULL CHECK (typeof(epoch) = 'integer'),
    held INTEGER NOT NULL CHECK (typeof(held) = 'integer' AND held BETWEEN 1 AND 4294967295),
    -- When it was reported, in milliseconds since 1970.
    reported_at INTEGER NOT NULL CHECK (typeof(reported_at) = 'integer'),
    PRIMARY KEY (owner, node)
) WITHOUT ROWID;
