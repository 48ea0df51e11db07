-- Only the last 10,000 revisions are kept: a process that has seen none of them reads everything anew.

INSERT INTO keyward_meta VALUES (8);

DELETE FROM keyward_revision
WHERE number <= (SELECT max(number) FROM keyward_revision) - 10000;

CREATE TRIGGER keyward_revision_pruned AFTER INSERT ON keyward_revision
BEGIN
    DELETE FROM keyward_revision WHERE number <= NEW.number - 10000;
END;
