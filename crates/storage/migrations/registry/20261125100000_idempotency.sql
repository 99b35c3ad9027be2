-- Requests for new tenants that may be asked twice. The row is written in the transaction that reserves code and
-- subdomain, so that asking again finds the tenant that the first request made, or finishes its making.
CREATE TABLE registry.idempotency_keys (
    user_id uuid NOT NULL CONSTRAINT idempotency_keys_user_id_fkey REFERENCES registry.users (id) ON DELETE CASCADE,
    key text NOT NULL
        CONSTRAINT idempotency_keys_key_check CHECK (key COLLATE "C" ~ '^[!-~]{1,255}$'),
    fingerprint bytea NOT NULL
        CONSTRAINT idempotency_keys_fingerprint_check CHECK (octet_length(fingerprint) = 32),
    tenant_id uuid NOT NULL CONSTRAINT idempotency_keys_tenant_id_fkey
        REFERENCES registry.tenants (id) ON DELETE CASCADE,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    CONSTRAINT idempotency_keys_pkey PRIMARY KEY (user_id, key)
);
COMMENT ON TABLE registry.idempotency_keys IS
    'Which tenant a request made, by the key that an administrator named it with. Kept for a day.';
COMMENT ON COLUMN registry.idempotency_keys.fingerprint IS
    'What was asked, as a keyed hash: the request may hold a password, which nobody is to find by trying.';
CREATE INDEX idempotency_keys_created_at_idx ON registry.idempotency_keys (created_at);
CREATE INDEX idempotency_keys_tenant_id_idx ON registry.idempotency_keys (tenant_id);

GRANT SELECT, INSERT, DELETE ON registry.idempotency_keys TO stagesub_control;
