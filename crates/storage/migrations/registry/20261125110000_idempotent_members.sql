-- Requests for new members may be asked twice too. A key belongs to one person at one host, so that the same key
-- at another orchestra's names another request; the member is written down beside the orchestra.
ALTER TABLE registry.idempotency_keys
    ADD COLUMN at_tenant uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
    ADD COLUMN member_id uuid CONSTRAINT idempotency_keys_member_id_fkey
        REFERENCES registry.users (id) ON DELETE CASCADE;
COMMENT ON TABLE registry.idempotency_keys IS
    'Which tenant, or which member of one, a request made, by the key that it was named with. Kept for a day.';
COMMENT ON COLUMN registry.idempotency_keys.at_tenant IS
    'At whose host the key was sent; all zeros at the platform''s own.';
COMMENT ON COLUMN registry.idempotency_keys.member_id IS
    'Who was made a member of the tenant; NULL: it was the tenant that was made.';
ALTER TABLE registry.idempotency_keys
    DROP CONSTRAINT idempotency_keys_pkey,
    ADD CONSTRAINT idempotency_keys_pkey PRIMARY KEY (user_id, at_tenant, key);
CREATE INDEX idempotency_keys_member_id_idx ON registry.idempotency_keys (member_id);
