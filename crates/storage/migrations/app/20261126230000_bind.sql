-- Reads that are one statement: it binds the transaction that it is, looks at its tenant's fence, and reads. The
-- application sets its tenant by SET LOCAL, which is a statement of its own, and may not call set_config. This sets it
-- for a statement that goes on, where there is nothing to gain by it: in a transaction that only reads, and is bound to
-- nobody yet. So no expression makes another of whoever is bound, and none binds where rows may be written.
-- In such a statement app.refuse is asked once, of the one row that was bound.

CREATE FUNCTION app.bind(wanted uuid) RETURNS uuid
    -- VOLATILE, which it has to be to set anything: called once, where it stands, before what depends on it.
    LANGUAGE plpgsql
    AS $bind$
BEGIN
    IF pg_catalog.current_setting('transaction_read_only') = 'off'
        OR pg_catalog.current_setting('app.tenant_id', true) <> '' THEN
        RAISE EXCEPTION 'only a transaction that reads, and is bound to no tenant yet, is bound within a statement'
            USING ERRCODE = 'TN003';
    END IF;
    EXECUTE 'SET LOCAL app.tenant_id = ''' || wanted::text || '''';
    RETURN wanted;
END
$bind$;
COMMENT ON FUNCTION app.bind(uuid) IS
    'Binds the transaction of a statement that reads to a tenant, until its end. Refuses (TN003) one that may write, and one that is bound.';

REVOKE ALL ON FUNCTION app.bind(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION app.bind(uuid) TO stagesub_app;
