-- Requests that create something and may be asked twice: a client whose connection was lost does not know whether
-- the first one was kept. A row is written in the creating transaction itself, so the thing and the answer are
-- both there or neither is, and they move with the tenant.
CREATE TABLE tenant.idempotency_key (
    tenant_id uuid NOT NULL,
    user_id uuid NOT NULL,
    key text NOT NULL
        CONSTRAINT idempotency_key_key_check CHECK (key COLLATE "C" ~ '^[!-~]{1,255}$'),
    fingerprint bytea NOT NULL
        CONSTRAINT idempotency_key_fingerprint_check CHECK (octet_length(fingerprint) = 32),
    status integer CONSTRAINT idempotency_key_status_check CHECK (status BETWEEN 200 AND 299),
    location text CONSTRAINT idempotency_key_location_check CHECK (length(location) BETWEEN 1 AND 2000),
    content_type text CONSTRAINT idempotency_key_content_type_check CHECK (length(content_type) BETWEEN 1 AND 100),
    body bytea,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    CONSTRAINT idempotency_key_pkey PRIMARY KEY (tenant_id, user_id, key),
    CONSTRAINT idempotency_key_answer_check
        CHECK ((status IS NULL) = (body IS NULL) AND (status IS NULL) = (content_type IS NULL))
);
COMMENT ON TABLE tenant.idempotency_key IS
    'Answers to creating requests, by the key that a person named them with. Kept for a day.';
COMMENT ON COLUMN tenant.idempotency_key.user_id IS
    'Who asked. Part of the key: what one person was answered is nobody else''s to see.';
COMMENT ON COLUMN tenant.idempotency_key.fingerprint IS
    'What was asked, as a keyed hash: a request may hold what nobody is to find by trying.';
COMMENT ON COLUMN tenant.idempotency_key.status IS
    'NULL while the creating transaction runs, which nobody else sees.';
-- What is too old is found by it.
CREATE INDEX idempotency_key_created_at_idx ON tenant.idempotency_key (tenant_id, created_at);

CALL app.protect('tenant.idempotency_key');

GRANT SELECT, INSERT, DELETE ON tenant.idempotency_key TO stagesub_app;
GRANT UPDATE (status, location, content_type, body, updated_at) ON tenant.idempotency_key TO stagesub_app;
