-- Gives the orchestra's audit log the columns of the platform's, so that both are read as one: when it
-- happened apart from when it was written, and the role in which somebody acted.
--
-- Filling a column reads rows, which nobody may without a tenant: hence NO FORCE and FORCE around it.
ALTER TABLE tenant.audit NO FORCE ROW LEVEL SECURITY;

ALTER TABLE tenant.audit RENAME COLUMN user_id TO actor_id;
ALTER TABLE tenant.audit
    ADD COLUMN actor_role text
        CONSTRAINT audit_actor_role_check CHECK (actor_role IN ('superadmin', 'admin', 'user', 'viewer')),
    ADD COLUMN at timestamptz;
UPDATE tenant.audit SET at = created_at;
ALTER TABLE tenant.audit ALTER COLUMN at SET NOT NULL;

ALTER TABLE tenant.audit FORCE ROW LEVEL SECURITY;

DROP INDEX tenant.audit_record_idx;
CREATE INDEX audit_record_idx ON tenant.audit (tenant_id, model, record_id, at);
CREATE INDEX audit_at_idx ON tenant.audit (tenant_id, at, id);
