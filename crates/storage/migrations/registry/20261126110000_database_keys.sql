-- Requests for databases may be asked twice too. What they make is found by its place, so the key alone is kept.
ALTER TABLE registry.idempotency_keys ALTER COLUMN tenant_id DROP NOT NULL;
COMMENT ON TABLE registry.idempotency_keys IS
    'What a request was, by the key that it was named with, and which tenant, member of one or move of one it made. Kept for a day.';
COMMENT ON COLUMN registry.idempotency_keys.tenant_id IS 'NULL: a database was asked for.';
