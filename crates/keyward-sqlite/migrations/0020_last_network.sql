-- From which network a key was used last: an IPv4 network of 24 bits, or an IPv6 network of 48.

INSERT INTO keyward_meta VALUES (20);

-- NULL: it was not recorded.
ALTER TABLE keyward_usage_key ADD COLUMN last_network TEXT
    CHECK (last_network IS NULL OR typeof(last_network) = 'text');
