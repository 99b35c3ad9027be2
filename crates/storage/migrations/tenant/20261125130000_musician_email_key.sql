-- Lets a musician be found by address through an index. Row-level security runs before every function that
-- could leak what it is given, and lower() is one of them, so an index over lower(email) never served a look-up:
-- each of the tenant's rows was read (20 ms at 60,000). A column is compared by =, which leaks nothing.
--
-- Adding the column fills it, which reads rows: hence NO FORCE and FORCE around it.
ALTER TABLE tenant.musician NO FORCE ROW LEVEL SECURITY;

ALTER TABLE tenant.musician
    ADD COLUMN email_key text NOT NULL GENERATED ALWAYS AS (lower(email)) STORED;
DROP INDEX tenant.musician_email_key;
CREATE UNIQUE INDEX musician_email_key ON tenant.musician (tenant_id, email_key);

ALTER TABLE tenant.musician FORCE ROW LEVEL SECURITY;

COMMENT ON COLUMN tenant.musician.email_key IS 'The address as it is compared: without regard to case.';
