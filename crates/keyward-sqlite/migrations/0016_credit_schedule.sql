-- Balances that are refilled by the calendar, and soft limits.

INSERT INTO keyward_meta VALUES (16);

-- The calendar of the refills after refill_at: 'month Europe/Berlin', or 'month UTC 2026-01-31' for one that
-- is counted from a date. NULL: there are none.
ALTER TABLE keyward_credit ADD COLUMN schedule TEXT CHECK (
    schedule IS NULL OR typeof(schedule) = 'text' AND refill_at IS NOT NULL
);
-- The balance up to which a refill adds refill_to to what is left; NULL: it replaces what is left.
ALTER TABLE keyward_credit ADD COLUMN roll_over INTEGER CHECK (
    roll_over IS NULL OR typeof(roll_over) = 'integer' AND roll_over >= 0 AND refill_at IS NOT NULL
);
-- The balance below which handlers and clients are told; zero: never.
ALTER TABLE keyward_credit ADD COLUMN warn_below INTEGER NOT NULL DEFAULT 0 CHECK (
    typeof(warn_below) = 'integer' AND warn_below >= 0
);
