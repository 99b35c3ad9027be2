-- What binds a transaction to one tenant, in every database that holds tenants. The schema and the marker
-- were made before the first migration (migrations/bootstrap/tenant.sql).

-- Routines are callable by PUBLIC unless that is taken away.
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON ROUTINES FROM PUBLIC;

CREATE FUNCTION app.tenant_id() RETURNS uuid
    LANGUAGE sql STABLE PARALLEL SAFE
    -- No missing_ok: unset raises, and so does the '' that an earlier transaction's SET LOCAL leaves.
    RETURN current_setting('app.tenant_id')::uuid;
COMMENT ON FUNCTION app.tenant_id() IS
    'The tenant this transaction is bound to. Raises when none is: no tenant bound means no rows, and no silence.';

-- Which epoch of a tenant this database serves. One row a tenant; a move ends the old one first.
CREATE TABLE app.tenant_fence (
    tenant_id uuid CONSTRAINT tenant_fence_pkey PRIMARY KEY,
    state text NOT NULL CONSTRAINT tenant_fence_state_check CHECK (state IN ('active', 'moving', 'moved')),
    epoch bigint NOT NULL CONSTRAINT tenant_fence_epoch_check CHECK (epoch >= 1),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE app.tenant_fence IS
    'Whether this database serves a tenant, and at which epoch. The application reads its own row; the platform writes.';
-- Enabled and not forced: the owner, as whom the platform admits tenants, works without one bound.
ALTER TABLE app.tenant_fence ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant_fence_bound ON app.tenant_fence AS RESTRICTIVE FOR ALL TO PUBLIC
    USING (tenant_id = (SELECT app.tenant_id())) WITH CHECK (tenant_id = (SELECT app.tenant_id()));
CREATE POLICY tenant_fence_own ON app.tenant_fence AS PERMISSIVE FOR SELECT TO PUBLIC
    USING (tenant_id = (SELECT app.tenant_id()));

-- First call of every tenant transaction, in its BEGIN message and outside any savepoint (rolling back to
-- one would give the lock back). The row is read after the lock was waited for, by a statement of its own
-- with a snapshot of its own: a writer that queued behind a move sees what the move wrote.
CREATE PROCEDURE app.enter(expected_epoch bigint)
    LANGUAGE plpgsql
    AS $enter$
DECLARE
    bound uuid := app.tenant_id();
    found_state text;
    found_epoch bigint;
BEGIN
    IF pg_catalog.current_setting('transaction_read_only') = 'off' THEN
        IF pg_catalog.current_setting('transaction_isolation') <> 'read committed' THEN
            RAISE EXCEPTION 'a tenant transaction that writes must be READ COMMITTED'
                USING ERRCODE = 'TN002';
        END IF;
        PERFORM pg_catalog.pg_advisory_xact_lock_shared(pg_catalog.hashtextextended(bound::text, 7));
    END IF;
    SELECT f.state, f.epoch INTO found_state, found_epoch FROM app.tenant_fence AS f WHERE f.tenant_id = bound;
    IF found_state IS DISTINCT FROM 'active' OR found_epoch IS DISTINCT FROM expected_epoch THEN
        RAISE EXCEPTION 'this database does not serve the tenant at epoch %', expected_epoch
            USING ERRCODE = 'TN001';
    END IF;
END
$enter$;
COMMENT ON PROCEDURE app.enter(bigint) IS
    'Takes the tenant''s shared lock when the transaction may write, then refuses (TN001) unless this database serves it at the given epoch.';

-- Puts a table of tenant data behind the fence: for migrations, ours and an embedder's; the owner alone calls
-- it. The restrictive policy cannot be widened by a permissive one that is added later; without a permissive
-- one nothing would be visible.
CREATE PROCEDURE app.protect(tenant_table regclass)
    LANGUAGE plpgsql
    AS $protect$
BEGIN
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', tenant_table);
    EXECUTE format(
        'CREATE POLICY tenant_fence ON %s AS RESTRICTIVE FOR ALL TO PUBLIC '
        'USING (tenant_id = (SELECT app.tenant_id())) WITH CHECK (tenant_id = (SELECT app.tenant_id()))',
        tenant_table);
    EXECUTE format(
        'CREATE POLICY tenant_rows ON %s AS PERMISSIVE FOR ALL TO PUBLIC '
        'USING (tenant_id = (SELECT app.tenant_id())) WITH CHECK (tenant_id = (SELECT app.tenant_id()))',
        tenant_table);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO stagesub_mover', tenant_table);
END
$protect$;
COMMENT ON PROCEDURE app.protect(regclass) IS 'Forces row-level security, with the tenant fence, on a table that has a tenant_id.';

CREATE SCHEMA tenant;

REVOKE ALL ON SCHEMA tenant FROM PUBLIC;
REVOKE ALL ON ALL ROUTINES IN SCHEMA app FROM PUBLIC;
GRANT USAGE ON SCHEMA tenant TO stagesub_app, stagesub_mover;
GRANT EXECUTE ON FUNCTION app.tenant_id() TO stagesub_app, stagesub_mover;
GRANT EXECUTE ON PROCEDURE app.enter(bigint) TO stagesub_app;
GRANT SELECT ON app.tenant_fence TO stagesub_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON app.tenant_fence TO stagesub_mover;
