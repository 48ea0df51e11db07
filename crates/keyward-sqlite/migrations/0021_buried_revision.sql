-- The row of a pruned key is gone, so a process that has not read that the key is dead would never learn it. The
-- latest change of all pruned keys is kept: a process that has seen less reads everything anew.

INSERT INTO keyward_meta VALUES (21);

CREATE TABLE keyward_buried (
    revision INTEGER NOT NULL CHECK (typeof(revision) = 'integer')
);

-- What was pruned before now is not known.
INSERT INTO keyward_buried SELECT max(number) FROM keyward_revision;

-- Whatever is deleted otherwise begins a new history.
CREATE TRIGGER keyward_key_buried_at AFTER DELETE ON keyward_key
BEGIN
    UPDATE keyward_buried SET revision = OLD.revision WHERE revision < OLD.revision;
END;
