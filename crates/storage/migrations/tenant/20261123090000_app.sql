-- What binds a transaction to one tenant, in every database that holds tenants: the tenant's id as policies
-- read it, the fence that says at which epoch a tenant is served here, and the entrance that checks it. None
-- of it knows what an orchestra is; the tables that it protects come in later files.

-- Functions are callable by PUBLIC unless that is taken away, and a default per schema could not take it.
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON ROUTINES FROM PUBLIC;

-- No missing_ok and no other fallback: unset raises, and so does the empty string that an earlier transaction
-- of the same connection leaves behind. STABLE and called as (SELECT ..), it is evaluated once a query.
CREATE FUNCTION app.tenant_id() RETURNS uuid
LANGUAGE sql STABLE PARALLEL SAFE
AS $$ SELECT current_setting('app.tenant_id')::uuid $$;
COMMENT ON FUNCTION app.tenant_id() IS 'The tenant this transaction is bound to; raises when there is none.';

CREATE TABLE app.tenant_fence (
    tenant_id uuid CONSTRAINT tenant_fence_pkey PRIMARY KEY,
    state text NOT NULL CONSTRAINT tenant_fence_state_check CHECK (state IN ('active', 'moving', 'moved')),
    epoch bigint NOT NULL CONSTRAINT tenant_fence_epoch_check CHECK (epoch >= 1),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE app.tenant_fence IS
    'Which tenants are served from this database, and at which placement epoch. Changed only on condition of the epoch.';
-- Not forced: the owner's members write the fences of all tenants (that is how a tenant is let in and moved),
-- and hold no tenant data by it. The application sees the row of its own tenant and changes none.
ALTER TABLE app.tenant_fence ENABLE ROW LEVEL SECURITY;
CREATE POLICY own_fence ON app.tenant_fence FOR SELECT TO stagesub_app
    USING (tenant_id = (SELECT app.tenant_id()));

-- Called in the message that begins the transaction. A procedure is volatile, and must be: each statement in
-- it takes a fresh snapshot, so the row that is read after waiting for the lock is the newest. At a higher
-- isolation level it would be the one from before the wait, hence TN002.
CREATE PROCEDURE app.enter(expected_epoch bigint)
LANGUAGE plpgsql
AS $$
DECLARE
    tenant uuid := app.tenant_id();
    found_state text;
    found_epoch bigint;
BEGIN
    IF current_setting('transaction_read_only') = 'off' THEN
        IF current_setting('transaction_isolation') <> 'read committed' THEN
            RAISE EXCEPTION 'a transaction that may write is READ COMMITTED' USING ERRCODE = 'TN002';
        END IF;
        -- Held to the end of the transaction; a move takes it exclusively to wait for writers.
        PERFORM pg_advisory_xact_lock_shared(hashtextextended(tenant::text, 7));
    END IF;
    SELECT f.state, f.epoch INTO found_state, found_epoch FROM app.tenant_fence AS f WHERE f.tenant_id = tenant;
    IF found_state IS DISTINCT FROM 'active' OR found_epoch IS DISTINCT FROM expected_epoch THEN
        RAISE EXCEPTION 'the tenant is not served from this database at this epoch' USING ERRCODE = 'TN001';
    END IF;
END
$$;
COMMENT ON PROCEDURE app.enter(bigint) IS
    'Refuses a transaction whose tenant is not served here at this epoch (TN001) or that could miss it (TN002).';

-- Puts a table of tenant data behind the fence. For migrations, ours and an embedder's: the owner alone calls it.
-- Restrictive and permissive policy say the same; a permissive one that is added by mistake widens nothing.
CREATE PROCEDURE app.protect(tenant_table regclass)
LANGUAGE plpgsql
AS $$
BEGIN
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', tenant_table);
    EXECUTE format(
        'CREATE POLICY tenant_fence ON %s AS RESTRICTIVE FOR ALL TO PUBLIC
            USING (tenant_id = (SELECT app.tenant_id())) WITH CHECK (tenant_id = (SELECT app.tenant_id()))',
        tenant_table);
    EXECUTE format(
        'CREATE POLICY tenant_rows ON %s AS PERMISSIVE FOR ALL TO PUBLIC
            USING (tenant_id = (SELECT app.tenant_id())) WITH CHECK (tenant_id = (SELECT app.tenant_id()))',
        tenant_table);
END
$$;
COMMENT ON PROCEDURE app.protect(regclass) IS 'Forces row-level security on a table that has a tenant_id.';

REVOKE ALL ON ALL ROUTINES IN SCHEMA app FROM PUBLIC;
GRANT EXECUTE ON FUNCTION app.tenant_id() TO stagesub_app, stagesub_mover;
GRANT EXECUTE ON PROCEDURE app.enter(bigint) TO stagesub_app, stagesub_mover;
GRANT SELECT ON app.tenant_fence TO stagesub_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON app.tenant_fence TO stagesub_mover;
